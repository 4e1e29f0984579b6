//! Tests of servers: the API, the servers file, the catalog, and warnings.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

mod api;
mod catalog;
mod catalog_list;
mod file;
mod injections;
mod unfit;
mod vendors;
mod warnings;

use e2e::{Injector, Pair};
use prost_types::FieldMask;
use proto::injector::v1::{
    GetServerRequest, HeaderPlacement, Injection, RemoveServerRequest, Server, UpdateServerRequest,
    injection::Placement,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const URL: &str = "https://api.example.com/v1";

/// Returns the injection of a secret, whose header is `x-mcp-secret-{header}`, by the auth type `secret_headers`.
fn secret_header(header: &str, required: bool) -> Injection {
    Injection {
        required,
        placement: Some(Placement::Header(HeaderPlacement {
            name: format!("x-mcp-secret-{header}"),
            value: format!("${{{}}}", header.to_uppercase().replace('-', "_")),
        })),
    }
}

async fn dev() -> Pair {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair
}

fn why(refused: &Status) -> (Code, String) {
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.domain, "aerostack");
    (refused.code(), info.reason)
}

async fn get(injector: &Injector, name: &str) -> Result<Server, Status> {
    let request = GetServerRequest {
        workspace: "dev".into(),
        name: name.into(),
    };
    Ok(injector
        .servers()
        .get_server(request)
        .await?
        .into_inner()
        .server
        .unwrap())
}

async fn update(injector: &Injector, server: Server, paths: &[&str]) -> Result<Server, Status> {
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    let request = UpdateServerRequest {
        server: Some(server),
        update_mask: Some(FieldMask { paths }),
    };
    Ok(injector
        .servers()
        .update_server(request)
        .await?
        .into_inner()
        .server
        .unwrap())
}

async fn remove(injector: &Injector, name: &str, revision: u64) -> Result<(), Status> {
    let request = RemoveServerRequest {
        workspace: "dev".into(),
        name: name.into(),
        revision,
    };
    injector.servers().remove_server(request).await.map(drop)
}
