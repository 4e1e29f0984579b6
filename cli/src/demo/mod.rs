//! The demo: an upstream, a secret, and a call by a program that does not hold the secret.

pub(crate) mod command;
mod resources;

use std::{collections::BTreeMap, fs, io, net::SocketAddr, path::Path};

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vault_service::new_file;

pub(crate) use self::resources::DemoError;
use self::resources::{DemoAdmin, SERVER, WORKSPACE, new_value, step};
use crate::{
    connect::Connection,
    dev::DevServices,
    echo::{self, fingerprint},
};

/// The header that carries the secret `DEMO_TOKEN` to the upstream.
const HEADER: &str = "x-mcp-secret-demo-token";

/// The file with the address of the upstream, in the directory of `aerostack dev`.
const ADDRESS_FILE: &str = "demo-upstream";

/// The result of a demo that succeeded.
pub(crate) struct DemoResult {
    /// Fingerprint of the value that was put into the vault.
    pub put: String,
    /// Headers that the upstream received, with the values of secrets as fingerprints.
    pub received: BTreeMap<String, String>,
    pub upstream: SocketAddr,
}

/// Starts an upstream, makes the workspace, the secret and the server, calls the server through the injector, and checks
/// that the upstream received the secret. `dir` is the directory of `aerostack dev`.
pub(crate) async fn run(services: &DevServices, dir: &Path) -> Result<DemoResult, DemoError> {
    let upstream = start_upstream(&dir.join(ADDRESS_FILE))
        .await
        .map_err(step("start the demo upstream"))?;
    let url = format!("http://{upstream}");
    let admin = DemoAdmin::connect(&connection(services)?)?;
    let value = new_value();
    admin.ensure_workspace().await?;
    admin.put_secret(&value, &url).await?;
    admin.ensure_server(&url).await?;
    admin.check_that_decrypt_is_refused().await?;

    let received = call(services.addresses.data_plane).await?;
    let put = fingerprint(value.as_bytes());
    match received.get(HEADER) {
        Some(got) if *got == put => Ok(DemoResult {
            put,
            received,
            upstream,
        }),
        Some(got) => Err(DemoError::Unexpected(format!(
            "the upstream received {got}, but {put} was put"
        ))),
        None => Err(DemoError::Unexpected(
            "the upstream received no secret".to_owned(),
        )),
    }
}

fn connection(services: &DevServices) -> Result<Connection, DemoError> {
    services.connection().map_err(|failure| DemoError::Step {
        step: "connect",
        cause: failure.message,
    })
}

/// Calls the server as a program that has no credential and sends a forged one. Returns the headers that the upstream
/// received.
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
        return Err(DemoError::Unexpected(format!(
            "the injector answered {status}: {answer}"
        )));
    }
    serde_json::from_slice(&body).map_err(step("read the answer"))
}

/// Starts the upstream, which runs until the process ends. It listens on the address of the last start, which `file` holds, so that
/// a server that a person added for it works after a restart. When another program has the port, the upstream takes another.
async fn start_upstream(file: &Path) -> io::Result<SocketAddr> {
    let last = fs::read_to_string(file).ok();
    let last = last.and_then(|text| text.trim().parse::<SocketAddr>().ok());
    let bound = match last.filter(|last| last.ip().is_loopback()) {
        Some(last) => TcpListener::bind(last).await.ok(),
        None => None,
    };
    let listener = match bound {
        Some(listener) => listener,
        None => TcpListener::bind("127.0.0.1:0").await?,
    };
    let address = listener.local_addr()?;
    new_file::replace(file, format!("{address}\n").as_bytes())?;
    tokio::spawn(echo::serve(listener, None, CancellationToken::new()));
    Ok(address)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_upstream_has_the_address_of_the_last_start_when_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(ADDRESS_FILE);
        let free = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        fs::write(&file, free.to_string()).unwrap();
        assert_eq!(start_upstream(&file).await.unwrap(), free);
        // The upstream still runs, so the port is not free.
        let other = start_upstream(&file).await.unwrap();
        assert_ne!(other, free);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{other}\n"));
        fs::write(&file, "0.0.0.0:0").unwrap();
        assert!(start_upstream(&file).await.unwrap().ip().is_loopback());
    }
}
