//! A vault and an injector in this process, on ports that the system chooses.

mod injector;
mod vault;

use std::net::SocketAddr;

use bytes::Bytes;
use chassis::{args::ProcessArgs, telemetry::LogFormat};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::injector::v1::Server;

use crate::pki::Pki;

pub use injector::{Injector, injector_settings};
pub use vault::{Vault, vault_settings};

/// A vault and an injector that uses it.
pub struct Pair {
    pub vault: Vault,
    pub injector: Injector,
}

impl Pair {
    /// Starts a vault and an injector, and waits until they are ready.
    pub async fn start() -> Self {
        Self::start_with(|_| {}, |_| {}).await
    }

    /// Starts a vault and an injector with settings that the closures changed, and waits until they are ready.
    pub async fn start_with(
        vault: impl FnOnce(&mut vault_service::config::Settings),
        injector: impl FnOnce(&mut injector_service::config::Settings),
    ) -> Self {
        let pki = Pki::new();
        let vault = Vault::start_with(pki.clone(), vault).await;
        let injector = Injector::start_with(pki, vault.address, injector).await;
        injector.ready().await;
        Self { vault, injector }
    }

    pub async fn stop(self) {
        self.injector.stop().await;
        self.vault.stop().await;
    }
}

fn process_args() -> ProcessArgs {
    ProcessArgs {
        allow_debugging: false,
        shutdown_grace: "2s".to_owned(),
        log: "info".to_owned(),
        log_filter_file: None,
        log_format: LogFormat::Text,
    }
}

/// Returns a server to add. A test sets the fields that it is about.
pub fn server(workspace: &str, name: &str, url: &str, secrets: &[&str]) -> Server {
    Server {
        workspace: workspace.to_owned(),
        name: name.to_owned(),
        url: url.to_owned(),
        inject_secrets: secrets.iter().map(|&secret| secret.to_owned()).collect(),
        ..Default::default()
    }
}

pub async fn get(url: &str) -> Response<Bytes> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let response = client.get(url.parse().unwrap()).await.unwrap();
    whole(response).await
}

/// Sends a request to `address` over HTTP/1.1 on a new connection. The URI of `request` is a path.
pub async fn send(
    address: SocketAddr,
    request: http::request::Builder,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut request: Request<Full<Bytes>> = request.body(Full::new(body.into())).unwrap();
    let path = request.uri().path_and_query().unwrap().to_string();
    *request.uri_mut() = format!("http://{address}{path}").parse().unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    whole(client.request(request).await.unwrap()).await
}

async fn whole(response: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}
