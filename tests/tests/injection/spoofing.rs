//! Header fields with which a program tries to replace secrets.

use std::net::SocketAddr;

use bytes::Bytes;
use e2e::{
    PATIENCE, Upstream,
    raw::{self, exchange},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::injector::v1::{AuthType, Protocol, Server};
use tokio::{net::TcpStream, time::timeout};

use super::{api, dev};

/// Names that a server may read as `x-mcp-secret-token`.
const SPOOFS: [&str; 9] = [
    "X-Mcp-Secret-TOKEN",
    "x-mcp-secret-token",
    "X_MCP_SECRET_TOKEN",
    "x.mcp.secret.token",
    "x-mcp_secret.token",
    "X-MCP-SECRETS",
    "x-mcp-secret",
    "x!mcp~secret*token",
    "x-mcp-secret-other",
];

#[tokio::test]
async fn a_secret_header_of_the_program_never_arrives() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    let (headers, bearer, skill) = (AuthType::SecretHeaders, AuthType::Bearer, AuthType::Skill);
    for (name, auth_type, secrets) in [
        ("headers", headers, &["TOKEN"][..]),
        ("missing", headers, &["MISSING"]),
        ("empty", headers, &[]),
        ("bearer", bearer, &["TOKEN"]),
        ("unborn", bearer, &["MISSING"]),
        ("skill", skill, &["TOKEN"]),
    ] {
        let described = api(&upstream.url(), auth_type, secrets);
        pair.injector
            .add(Server {
                name: name.into(),
                ..described
            })
            .await;
        let expected: &[&str] = if name == "headers" {
            &["x-mcp-secret-token"]
        } else {
            &[]
        };
        for spoof in SPOOFS {
            let twice = format!(
                "{spoof}: spoofed\r\n{spoof}: spoofed again\r\n{}: spoofed",
                spoof.to_ascii_uppercase()
            );
            let head =
                format!("POST /dev/{name}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{twice}");
            let body = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
            let answer = exchange(pair.injector.data_plane, format!("{head}\r\n{body}")).await;
            assert_eq!(raw::status(&answer), 200, "{name} {spoof}");
            let seen = upstream.last();
            let folded = |name: &HeaderName| name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            let carried: Vec<_> = seen
                .headers
                .keys()
                .map(folded)
                .filter(|name| name.starts_with("x-mcp-secret"))
                .collect();
            assert_eq!(carried, expected, "{name} {spoof}");
            assert!(
                seen.headers
                    .values()
                    .all(|value| !value.as_bytes().starts_with(b"spoofed")),
                "{name} {spoof}"
            );
            if name == "headers" {
                assert_eq!(seen.header("x-mcp-secret-token"), Some("tok-1"));
            }
        }
    }
    pair.stop().await;
}

/// Sends a POST request with trailers over HTTP/2.
pub(super) async fn with_trailers(address: SocketAddr, path: &str, trailers: HeaderMap) -> u16 {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let frames = [
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"{}"))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(tokio_stream::iter(frames));
    let request = Request::post(format!("http://localhost{path}")).header("content-type", "application/json");
    let sent = sender.send_request(request.body(body).unwrap());
    let response = timeout(PATIENCE, sent)
        .await
        .expect("the call was never answered")
        .unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    status
}

#[tokio::test]
async fn a_secret_header_does_not_arrive_as_a_trailer() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    for (name, auth_type) in [
        ("headers", AuthType::SecretHeaders),
        ("bearer", AuthType::Bearer),
        ("skill", AuthType::Skill),
    ] {
        let described = api(&upstream.url(), auth_type, &["TOKEN"]);
        pair.injector
            .add(Server {
                name: name.into(),
                protocol: Protocol::Http2.into(),
                ..described
            })
            .await;
        let mut trailers = HeaderMap::new();
        for spoof in SPOOFS {
            trailers.append(
                HeaderName::from_bytes(spoof.as_bytes()).unwrap(),
                HeaderValue::from_static("spoofed"),
            );
        }
        trailers.append("authorization", HeaderValue::from_static("Bearer spoofed"));
        trailers.append("x-checksum", HeaderValue::from_static("1"));
        assert_eq!(
            with_trailers(pair.injector.data_plane, &format!("/dev/{name}/"), trailers).await,
            200
        );
        let seen = upstream.last();
        assert!(seen.complete);
        let left: Vec<_> = seen.trailers.keys().map(HeaderName::as_str).collect();
        // The trailers of a rewritten body are dropped, because they describe the original body.
        let expected: &[&str] = if auth_type == AuthType::Skill {
            &[]
        } else {
            &["x-checksum"]
        };
        assert_eq!(left, expected, "{name}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_hop_by_hop_header_cannot_remove_a_secret() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    pair.injector
        .add(api(&upstream.url(), AuthType::SecretHeaders, &["TOKEN"]))
        .await;
    let bearer = api(&upstream.url(), AuthType::Bearer, &["TOKEN"]);
    pair.injector
        .add(Server {
            name: "bearer".into(),
            ..bearer
        })
        .await;
    for (name, header, value) in [
        ("api", "x-mcp-secret-token", "tok-1"),
        ("bearer", "authorization", "Bearer tok-1"),
    ] {
        let head = format!(
            "GET /dev/{name}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close, X-Mcp-Secret-TOKEN\r\n\
             Connection: Authorization, x-mine, host\r\nX-Mine: 1\r\nX-Kept: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\
             Proxy-Authorization: Basic x\r\nTE: trailers, gzip\r\nUpgrade: websocket\r\nHTTP2-Settings: x\r\n\r\n"
        );
        assert_eq!(raw::status(&exchange(pair.injector.data_plane, head).await), 200);
        let seen = upstream.last();
        assert_eq!(seen.header(header), Some(value));
        assert_eq!(seen.header("x-kept"), Some("1"));
        assert_eq!(seen.host, upstream.address.to_string());
        for gone in [
            "connection",
            "x-mine",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "te",
            "upgrade",
            "http2-settings",
        ] {
            assert_eq!(seen.header(gone), None, "{gone}");
        }
    }
    pair.stop().await;
}
