//! The places in which a server gets its secrets, and attempts of a program to send something in these places.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

mod messages;
mod places;
mod policy;
mod spoofing;
mod targets;
mod values;

use bytes::Bytes;
use e2e::{PATIENCE, Pair, pair::server};
use http::Response;
use proto::injector::v1::{AuthType, ExplainInjectionRequest, ExplainInjectionResponse, Server};
use tokio::time::timeout;

/// Starts a pair whose workspace `dev` has these secrets.
async fn dev(secrets: &[(&str, &str)]) -> Pair {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    for (name, value) in secrets {
        pair.vault.put("dev", name, value).await;
    }
    pair
}

/// Returns the server `dev/api` with an auth type.
fn api(url: &str, auth_type: AuthType, secrets: &[&str]) -> Server {
    Server {
        auth_type: auth_type.into(),
        ..server("dev", "api", url, secrets)
    }
}

/// Sends a GET request to the data plane.
async fn call(pair: &Pair, path: &str) -> Response<Bytes> {
    timeout(PATIENCE, pair.injector.get(path))
        .await
        .expect("the call was never answered")
}

fn refusal(response: &Response<Bytes>) -> (u16, &str) {
    let reason = response
        .headers()
        .get("x-aerostack-reason")
        .map_or("", |reason| reason.to_str().unwrap());
    (response.status().as_u16(), reason)
}

async fn explain(pair: &Pair, name: &str) -> ExplainInjectionResponse {
    let request = ExplainInjectionRequest {
        workspace: "dev".into(),
        name: name.into(),
    };
    pair.injector
        .servers()
        .explain_injection(request)
        .await
        .unwrap()
        .into_inner()
}

/// A listener to which nothing may connect.
struct Untouched(std::net::TcpListener);

impl Untouched {
    fn bind() -> (Self, String) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (Self(listener), url)
    }

    /// Checks that nothing has connected. The kernel accepts connections by itself, so each one that was made is found.
    fn check(&self) {
        assert_eq!(
            self.0.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "somebody connected"
        );
    }
}
