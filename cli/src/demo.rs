//! The demo: an upstream, a secret, and a call of a program that holds none.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr};

use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use injector_service::resolve::channel::channel;
use proto::{
    injector::v1::{
        AddServerRequest, Server, UpdateServerRequest, server_service_client::ServerServiceClient,
    },
    serve::{
        caller::Principal,
        telemetry::chain,
        tls::{self, Authorities, Identity},
    },
    vault::v1::{
        CreateWorkspaceRequest, DecryptRequest, PutSecretRequest, Workspace,
        decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
        secret_service_client::SecretServiceClient, workspace_service_client::WorkspaceServiceClient,
    },
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tonic::{Code, transport::Channel};

use crate::{
    dev::Pair,
    pki::{INJECTOR_ID, VAULT_ID},
};

const WORKSPACE: &str = "demo";
const SERVER: &str = "echo";
const SECRET: &str = "DEMO_TOKEN";
const HEADER: &str = "x-mcp-secret-demo-token";

/// Why the demo did not show what it should.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A step failed.
    #[error("{step}: {cause}")]
    Step {
        /// Which.
        step: &'static str,
        /// Why, in words.
        cause: String,
    },
    /// Something differed from what was promised.
    #[error("{0}")]
    Differed(String),
}

/// What the demo saw, for people.
pub struct Shown {
    /// What was put into the vault, as a fingerprint.
    pub put: String,
    /// What the upstream received: each header, secrets as fingerprints.
    pub received: BTreeMap<String, String>,
    /// Where the upstream listens.
    pub upstream: SocketAddr,
}

/// Starts the upstream, makes what the call needs if it is not there, makes the call, and compares.
pub async fn run(pair: &Pair) -> Result<Shown, DemoError> {
    let upstream = upstream().await.map_err(step("start the demo upstream"))?;
    let admin = Admin::connect(pair)?;
    let value = format!("demo-{}", proto::Uid::generate());
    admin.workspace().await?;
    admin.secret(&value, upstream).await?;
    admin.server(upstream).await?;
    admin.cannot_read().await?;

    let received = call(pair.addresses.data_plane).await?;
    let put = fingerprint(value.as_bytes());
    match received.get(HEADER) {
        Some(got) if *got == put => Ok(Shown {
            put,
            received,
            upstream,
        }),
        Some(got) => Err(DemoError::Differed(format!(
            "the upstream received {got}, but {put} was put"
        ))),
        None => Err(DemoError::Differed("the upstream received no secret".to_owned())),
    }
}

fn step<E: std::error::Error + 'static>(step: &'static str) -> impl FnOnce(E) -> DemoError {
    move |error| DemoError::Step {
        step,
        cause: chain(&error),
    }
}

/// `sha256:` and the first half of the digest.
fn fingerprint(value: &[u8]) -> String {
    let digest = Sha256::digest(value);
    let half: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{half}…")
}

/// The administrator's side: may write, may not read.
struct Admin {
    vault: Channel,
    injector: Channel,
}

impl Admin {
    fn connect(pair: &Pair) -> Result<Self, DemoError> {
        let to = |address: SocketAddr, id: &str| -> Result<Channel, DemoError> {
            let identity =
                Identity::load(&pair.pki.admin.cert, &pair.pki.admin.key).map_err(step("read admin.pem"))?;
            let authorities = Authorities::load(&pair.pki.ca).map_err(step("read ca.pem"))?;
            let id = Principal::parse(id).map_err(step("name the service"))?;
            let tls = tls::grpc_client(identity, &authorities, id).map_err(step("set up TLS"))?;
            let address = address.to_string().parse().map_err(step("read the address"))?;
            channel(&address, tls).map_err(step("connect"))
        };
        Ok(Self {
            vault: to(pair.addresses.vault, VAULT_ID)?,
            injector: to(pair.addresses.injector, INJECTOR_ID)?,
        })
    }

    async fn workspace(&self) -> Result<(), DemoError> {
        let workspace = Workspace {
            name: WORKSPACE.to_owned(),
            ..Default::default()
        };
        let request = CreateWorkspaceRequest {
            workspace: Some(workspace),
        };
        match WorkspaceServiceClient::new(self.vault.clone())
            .create_workspace(request)
            .await
        {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(step("create the workspace")(status)),
        }
    }

    async fn secret(&self, value: &str, upstream: SocketAddr) -> Result<(), DemoError> {
        let request = PutSecretRequest {
            workspace: WORKSPACE.to_owned(),
            name: SECRET.to_owned(),
            value: Some(Value::Text(value.to_owned())),
            upstream_origins: vec![format!("http://{upstream}")],
        };
        let put = SecretServiceClient::new(self.vault.clone())
            .put_secret(request)
            .await;
        put.map(drop).map_err(step("put the secret"))
    }

    async fn server(&self, upstream: SocketAddr) -> Result<(), DemoError> {
        let server = Server {
            workspace: WORKSPACE.to_owned(),
            name: SERVER.to_owned(),
            url: format!("http://{upstream}"),
            inject_secrets: vec![SECRET.to_owned()],
            required_secrets: vec![SECRET.to_owned()],
            description: "shows what it received".to_owned(),
            ..Default::default()
        };
        let mut client = ServerServiceClient::new(self.injector.clone());
        match client
            .add_server(AddServerRequest {
                server: Some(server.clone()),
                ..Default::default()
            })
            .await
        {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(step("add the server")(status)),
        }
        let paths = ["url", "inject_secrets", "required_secrets"]
            .map(str::to_owned)
            .to_vec();
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = UpdateServerRequest {
            server: Some(server),
            update_mask,
        };
        client
            .update_server(request)
            .await
            .map(drop)
            .map_err(step("update the server"))
    }

    /// The administrator who wrote it cannot have it decrypted.
    async fn cannot_read(&self) -> Result<(), DemoError> {
        let request = DecryptRequest {
            workspace: WORKSPACE.to_owned(),
            names: vec![SECRET.to_owned()],
            ..Default::default()
        };
        match DecryptServiceClient::new(self.vault.clone())
            .decrypt(request)
            .await
        {
            Err(status) if status.code() == Code::PermissionDenied => Ok(()),
            Err(status) => Err(step("see that the administrator cannot read the secret")(status)),
            Ok(_) => Err(DemoError::Differed(
                "the administrator could read the secret".to_owned(),
            )),
        }
    }
}

/// What a program does: it holds no credential, and even claims one that is not its own.
async fn call(data_plane: SocketAddr) -> Result<BTreeMap<String, String>, DemoError> {
    let request = Request::get(format!("http://{data_plane}/{WORKSPACE}/{SERVER}/hello"))
        .header(HEADER, "forged")
        .body(Full::<Bytes>::default())
        .map_err(step("make the request"))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client
        .request(request)
        .await
        .map_err(step("call through the injector"))?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(step("read the answer"))?
        .to_bytes();
    if !status.is_success() {
        let answer = String::from_utf8_lossy(&body).into_owned();
        return Err(DemoError::Differed(format!(
            "the injector answered {status}: {answer}"
        )));
    }
    serde_json::from_slice(&body).map_err(step("read the answer"))
}

/// An upstream that answers with what it received, secrets as fingerprints.
async fn upstream() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            // Out of descriptors, most likely; the demo's own calls will say so.
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let answer = service_fn(|request| std::future::ready(Ok::<_, Infallible>(received(&request))));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok(address)
}

fn received(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut shown: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in request.headers() {
        let secret = name.as_str().starts_with("x-mcp-secret-") || name == header::AUTHORIZATION;
        let text = || String::from_utf8_lossy(value.as_bytes()).into_owned();
        shown.insert(
            name.as_str(),
            if secret {
                fingerprint(value.as_bytes())
            } else {
                text()
            },
        );
    }
    shown.insert(":path", request.uri().path().to_owned());
    let body = serde_json::to_vec_pretty(&shown).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}
