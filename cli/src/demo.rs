//! The demo: an upstream, a secret, and a call of a program that holds none.

mod admin;
pub mod set_up;

use std::{collections::BTreeMap, net::SocketAddr};

use chassis::telemetry::chain;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::admin::Admin;
use crate::{
    connect::{ConnectArgs, Connection},
    dev::Pair,
    echo::{self, fingerprint},
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
    /// Not the URL of a server.
    #[error("{0} is not the URL of a server, such as https://example.com")]
    Url(String),
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
    let url = format!("http://{upstream}");
    let admin = Admin::connect(&connection(pair)?)?;
    let value = format!("demo-{}", proto::Uid::generate());
    admin.workspace().await?;
    admin.put_secret(&value, &url).await?;
    admin.server(&url).await?;
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

fn connection(pair: &Pair) -> Result<Connection, DemoError> {
    let args = ConnectArgs {
        vault: Some(pair.addresses.vault.to_string()),
        injector: Some(pair.addresses.injector.to_string()),
        ca: Some(pair.pki.ca.clone()),
        cert: Some(pair.pki.admin.cert.clone()),
        key: Some(pair.pki.admin.key.clone()),
        vault_id: Some(VAULT_ID.to_owned()),
        injector_id: Some(INJECTOR_ID.to_owned()),
        ..ConnectArgs::default()
    };
    Connection::find(&args, |_| None).map_err(|failure| DemoError::Step {
        step: "connect",
        cause: failure.message,
    })
}

fn step<E: std::error::Error + 'static>(step: &'static str) -> impl FnOnce(E) -> DemoError {
    move |error| DemoError::Step {
        step,
        cause: chain(&error),
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

/// Starts the upstream, which lives as long as the process.
async fn upstream() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(echo::serve(listener, None, CancellationToken::new()));
    Ok(address)
}
