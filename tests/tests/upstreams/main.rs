//! Connections to upstreams: their protocol, their addresses, and the identity that TLS must prove.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

mod address;
mod interim;
mod ping;
mod retries;
mod tls;

use std::net::SocketAddr;

use bytes::Bytes;
use e2e::{PATIENCE, Pair, Upstream, pair::server};
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::injector::v1::{Protocol, Server, UpdateServerRequest};
use tokio::time::timeout;

const SECRET: &str = "tok-1-never-in-cleartext";

/// Starts a pair with a secret `TOKEN` in the workspace `dev`.
async fn dev() -> Pair {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", SECRET).await;
    pair
}

/// Makes a call through the injector to the server `api`.
async fn call(pair: &Pair, version: Version) -> Response<Bytes> {
    let http2 = version == Version::HTTP_2;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http::<Full<Bytes>>();
    let request = Request::post(pair.injector.url("/dev/api/a?b=c")).version(version);
    let sent = client.request(request.body(Full::from("hello")).unwrap());
    let response = timeout(PATIENCE, sent)
        .await
        .expect("the call was never answered")
        .unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

fn refusal(response: &Response<Bytes>) -> (u16, &str) {
    let reason = response
        .headers()
        .get("x-aerostack-reason")
        .map_or("", |reason| reason.to_str().unwrap());
    assert!(!String::from_utf8_lossy(response.body()).contains(SECRET));
    (response.status().as_u16(), reason)
}

/// Checks that the last call arrived whole, with its secret, over `version`.
fn assert_arrived(upstream: &Upstream, version: Version) {
    let seen = upstream.last();
    assert_eq!(seen.version, version);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/a?b=c"));
    assert_eq!(seen.host, upstream.address.to_string());
    assert_eq!(seen.header("x-mcp-secret-token"), Some(SECRET));
    assert_eq!((&seen.body[..], seen.complete), (&b"hello"[..], true));
}

/// A listener to which nothing may connect.
struct Untouched(std::net::TcpListener);

impl Untouched {
    fn bind() -> (Self, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (Self(listener), address)
    }

    /// Checks that nothing has connected. The kernel accepts connections by itself, so each one that was made is found.
    fn check(self) {
        assert_eq!(
            self.0.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "somebody connected"
        );
    }
}

#[tokio::test]
async fn every_pair_of_versions_works_in_cleartext() {
    let (upstream, pair) = (Upstream::start().await, dev().await);
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    for (protocol, sent) in [
        (Protocol::Http1, Version::HTTP_11),
        (Protocol::Http2, Version::HTTP_2),
        (Protocol::Auto, Version::HTTP_11),
    ] {
        let changed = Server {
            protocol: protocol.into(),
            ..server("dev", "api", "", &[])
        };
        let update_mask = Some(prost_types::FieldMask {
            paths: vec!["protocol".into()],
        });
        let request = UpdateServerRequest {
            server: Some(changed),
            update_mask,
        };
        pair.injector.servers().update_server(request).await.unwrap();
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let response = call(&pair, version).await;
            assert_eq!((response.status().as_u16(), response.version()), (200, version));
            assert_eq!(&response.body()[..], b"ok");
            assert_arrived(&upstream, sent);
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn servers_at_one_address_get_only_their_own_secrets() {
    let upstream = Upstream::start().await;
    let pair = dev().await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    pair.injector
        .add(server("dev", "plain", &upstream.url(), &[]))
        .await;
    for path in ["/dev/api/", "/dev/plain/", "/dev/api/"] {
        assert_eq!(pair.injector.get(path).await.status(), 200);
    }
    let secrets: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.header("x-mcp-secret-token").is_some())
        .collect();
    assert_eq!(secrets, [true, false, true]);
    pair.stop().await;
}
