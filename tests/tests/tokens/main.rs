//! Tests of clients that identify themselves by JSON Web Tokens, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod accounts;
mod issuers;
mod refusals;
mod renewal;

use std::{path::PathBuf, sync::Arc, time::Duration};

use aerostack::connect::{ConnectArgs, Connection};
use chassis::{
    channel::channel,
    service_channel::ServiceChannel,
    tls::{self, Authorities},
};
use e2e::{
    Injector, Pki, TokenIssuer, Upstream, Vault, eventually,
    issuer::{AUDIENCE, TestKey, replace_file},
    pair::{get, server, vault_settings},
    pki,
};
use http::StatusCode;
use proto::{
    Principal,
    injector::v1::{ListServersRequest, server_service_client::ServerServiceClient},
    vault::v1::{
        DecryptCall, DecryptRequest, DecryptStreamRequest, ListWorkspacesRequest, PutSecretRequest,
        decrypt_answer::Outcome, decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
        secret_service_client::SecretServiceClient, workspace_service_client::WorkspaceServiceClient,
    },
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

const ADMIN: &str = "system:serviceaccount:aerostack:admin";
const VIEWER: &str = "system:serviceaccount:shop:viewer";
const INJECTOR: &str = "system:serviceaccount:shop:web";
const STRANGER: &str = "system:serviceaccount:shop:stranger";
const HOUR: Duration = Duration::from_secs(3600);

/// A vault whose clients have tokens of an issuer, or certificates.
struct Scene {
    pki: Arc<Pki>,
    issuer: TokenIssuer,
    vault: Vault,
    dir: TempDir,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(edit: impl FnOnce(&mut vault_service::config::Settings)) -> Self {
        let pki = Pki::new();
        let issuer = TokenIssuer::start(&pki).await;
        let vault = Vault::start_with(pki.clone(), |settings| {
            settings.jwt.jwt_issuer = vec![issuer.setting()];
            settings.roles.admin.push(ADMIN.to_owned());
            settings.roles.viewer.push(format!("{VIEWER}=shop"));
            settings.injector.push(format!("{INJECTOR}=shop"));
            edit(settings);
        })
        .await;
        Self {
            pki,
            issuer,
            vault,
            dir: TempDir::new().unwrap(),
        }
    }

    /// Returns a channel to the vault without a client certificate.
    fn channel(&self) -> Channel {
        anonymous(&self.pki, self.vault.address, pki::VAULT)
    }

    fn principal(&self, account: &str) -> String {
        format!("jwt:{}#{account}", self.issuer.url())
    }

    /// Returns a token of an account that is valid for an hour.
    fn token(&self, account: &str) -> String {
        self.issuer.token(account, HOUR)
    }

    /// Lists workspaces with a token and without a certificate.
    async fn list(&self, token: &str) -> Result<usize, Status> {
        list(self.channel(), token).await
    }

    /// Writes a token into the file `token`, and returns the file.
    fn token_file(&self, token: &str) -> PathBuf {
        let path = self.dir.path().join("token");
        replace_file(&path, token);
        path
    }

    /// Starts an injector whose only identity for the vault is the token in the file `token`.
    async fn injector(&self, token: &str) -> Injector {
        let path = self.token_file(token);
        Injector::start_with(self.pki.clone(), self.vault.address, |settings| {
            (settings.vault_cert, settings.vault_key) = (None, None);
            settings.vault_token_file = Some(path);
        })
        .await
    }

    /// Makes the workspace `shop` with the secret `TOKEN`, and the server `shop/api` of the injector.
    async fn fill(&self, injector: &Injector, upstream: &Upstream) {
        self.vault.workspace("shop").await;
        self.vault.put("shop", "TOKEN", "value-1").await;
        injector.ready().await;
        injector
            .add(server("shop", "api", &upstream.url(), &["TOKEN"]))
            .await;
    }
}

fn anonymous(pki: &Pki, address: std::net::SocketAddr, to: &str) -> Channel {
    let authorities = Authorities::load(&pki.ca_file()).unwrap();
    let tls = tls::grpc_client(None, &authorities, Principal::parse(to).unwrap()).unwrap();
    channel(&address.to_string().parse().unwrap(), tls).unwrap()
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

async fn list(channel: Channel, token: &str) -> Result<usize, Status> {
    let request = with_token(ListWorkspacesRequest::default(), token);
    let listed = WorkspaceServiceClient::new(channel)
        .list_workspaces(request)
        .await?;
    Ok(listed.into_inner().workspaces.len())
}

/// Asserts that a call was refused with this code and reason, and returns the message.
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> String {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, reason, "{status:?}");
    status.message().to_owned()
}

fn unauthenticated<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    refused(answer, Code::Unauthenticated, "UNAUTHENTICATED")
}

/// Returns a message of a `DecryptStream` that asks for one secret in clear.
fn decrypt(workspace: &str, name: &str) -> DecryptStreamRequest {
    let request = DecryptRequest {
        workspace: workspace.to_owned(),
        names: vec![name.to_owned()],
        ..Default::default()
    };
    DecryptStreamRequest {
        calls: vec![DecryptCall {
            id: 1,
            request: Some(request),
        }],
        recipient: None,
    }
}
