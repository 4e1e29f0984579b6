//! What of its secrets a server gets, and in which place; and what the downstream cannot do about it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

use std::net::SocketAddr;

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Upstream,
    pair::{get, server},
    raw::{self, RawUpstream, exchange},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::injector::v1::{
    AuthType, ExplainInjectionRequest, ExplainInjectionResponse, ExplainedSecret, Protocol, Server,
    explained_secret::State,
};
use tokio::{net::TcpStream, time::timeout};

/// A workspace `dev` with these secrets.
async fn dev(secrets: &[(&str, &str)]) -> Pair {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    for (name, value) in secrets {
        pair.vault.put("dev", name, value).await;
    }
    pair
}

/// The server `dev/api` of an auth type.
fn api(url: &str, auth_type: AuthType, secrets: &[&str]) -> Server {
    Server {
        auth_type: auth_type.into(),
        ..server("dev", "api", url, secrets)
    }
}

/// GETs a path of the data plane: an answer, or the test fails.
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

/// The value of a counter, 0 when it is not shown.
async fn counter(pair: &Pair, line: &str) -> u64 {
    let page = get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let page = String::from_utf8(page.body().to_vec()).unwrap();
    page.lines()
        .find_map(|shown| shown.strip_prefix(line)?.trim().parse().ok())
        .unwrap_or(0)
}

/// A listener that nobody must connect to.
struct Untouched(std::net::TcpListener);

impl Untouched {
    fn bind() -> (Self, String) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (Self(listener), url)
    }

    /// The kernel accepts whether or not we do, so a connection that was ever made shows here.
    fn check(&self) {
        assert_eq!(
            self.0.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "somebody connected"
        );
    }
}

#[tokio::test]
async fn every_secret_has_a_header_of_its_own() {
    let upstream = Upstream::start().await;
    let pair = dev(&[
        ("GITHUB_TOKEN", "gh-1"),
        ("my.api.key", "key-2"),
        ("_a__9", "odd-3"),
        ("OTHER", "no"),
    ])
    .await;
    let names = ["github-token", "MY_API_KEY", "_A__9"];
    pair.injector
        .add(api(&upstream.url(), AuthType::Unspecified, &names))
        .await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
    let seen = upstream.last();
    assert_eq!(
        seen.secret_headers(),
        [
            "x-mcp-secret--a--9",
            "x-mcp-secret-github-token",
            "x-mcp-secret-my-api-key"
        ]
    );
    assert_eq!(seen.header("x-mcp-secret-github-token"), Some("gh-1"));
    assert_eq!(seen.header("x-mcp-secret-my-api-key"), Some("key-2"));
    assert_eq!(seen.header("x-mcp-secret--a--9"), Some("odd-3"));
    pair.stop().await;
}

#[tokio::test]
async fn secrets_of_other_servers_and_workspaces_never_arrive() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("A", "dev-a"), ("B", "dev-b")]).await;
    pair.vault.workspace("ops").await;
    pair.vault.put("ops", "A", "ops-a").await;
    for (workspace, name, secrets) in [
        ("dev", "one", &["A"][..]),
        ("dev", "two", &["B"]),
        ("dev", "none", &[]),
        ("ops", "one", &["A"]),
    ] {
        pair.injector
            .add(server(workspace, name, &upstream.url(), secrets))
            .await;
    }
    let carried = async |path: &str| {
        assert_eq!(call(&pair, path).await.status(), 200);
        let seen = upstream.last();
        let names: Vec<_> = seen.secret_headers().iter().map(ToString::to_string).collect();
        names
            .into_iter()
            .map(|name| (seen.header(&name).unwrap().to_owned(), name))
            .collect::<Vec<_>>()
    };
    let a = |value: &str| vec![(value.to_owned(), "x-mcp-secret-a".to_owned())];
    assert_eq!(carried("/dev/one/").await, a("dev-a"));
    assert_eq!(
        carried("/dev/two/").await,
        [("dev-b".to_owned(), "x-mcp-secret-b".to_owned())]
    );
    assert_eq!(carried("/dev/none/").await, []);
    assert_eq!(carried("/ops/one/").await, a("ops-a"));
    assert_eq!(carried("/dev/one/").await, a("dev-a"));
    pair.stop().await;
}

#[tokio::test]
async fn a_bearer_token_replaces_what_the_downstream_sent() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    pair.injector
        .add(api(&upstream.url(), AuthType::Bearer, &["TOKEN"]))
        .await;
    let mine = || {
        Request::get("/dev/api/")
            .header("authorization", "Bearer mine")
            .header("Authorization", "Basic mine")
    };
    assert_eq!(pair.injector.send(mine(), "").await.status(), 200);
    assert_eq!(upstream.last().header("authorization"), Some("Bearer tok-1"));
    assert_eq!(upstream.last().secret_headers(), [] as [&str; 0]);

    pair.vault.delete("dev", "TOKEN").await;
    assert_eq!(pair.injector.send(mine(), "").await.status(), 200);
    assert_eq!(upstream.last().header("authorization"), None);
    pair.stop().await;
}

#[tokio::test]
async fn authorization_passes_where_it_is_not_ours() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    pair.injector
        .add(api(&upstream.url(), AuthType::SecretHeaders, &["TOKEN"]))
        .await;
    let mine = Request::get("/dev/api/").header("authorization", "Bearer mine");
    assert_eq!(pair.injector.send(mine, "").await.status(), 200);
    assert_eq!(upstream.last().header("authorization"), Some("Bearer mine"));
    pair.stop().await;
}

/// Names that a server may take for `x-mcp-secret-token`, as they may be written.
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
async fn a_secret_header_that_the_downstream_sent_never_arrives() {
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

/// POSTs over HTTP/2 with trailers.
async fn with_trailers(address: SocketAddr, path: &str, trailers: HeaderMap) -> u16 {
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
async fn a_secret_header_does_not_arrive_as_a_trailer_either() {
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
        // A body that is rewritten has no trailers that still describe it.
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
async fn a_header_that_is_about_the_connection_cannot_remove_a_secret() {
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

#[tokio::test]
async fn a_value_that_is_no_header_is_refused_before_anything_is_sent() {
    let (untouched, url) = Untouched::bind();
    let pair = dev(&[("GOOD", "good-value")]).await;
    pair.injector
        .add(api(&url, AuthType::SecretHeaders, &["GOOD", "BAD"]))
        .await;
    let bearer = api(&url, AuthType::Bearer, &["BAD"]);
    pair.injector
        .add(Server {
            name: "bearer".into(),
            ..bearer
        })
        .await;
    let long = [b'a'; 8193];
    let values: [&[u8]; 14] = [
        b"canary\r\nx: y",
        b"canary\n",
        b"canary\r",
        b"\ncanary",
        b"can\0ary",
        b"can\tary",
        b"can\x7fary",
        "can\u{e9}ary".as_bytes(),
        b"can\xffary",
        b" canary",
        b"canary ",
        b"\x1bcanary",
        b" ",
        &long,
    ];
    for value in values {
        pair.vault.put("dev", "BAD", value).await;
        for path in ["/dev/api/", "/dev/bearer/"] {
            let response = call(&pair, path).await;
            assert_eq!(
                refusal(&response),
                (502, "SECRET_VALUE_NOT_PLACEABLE"),
                "{value:?}"
            );
            let answer = format!(
                "{:?} {}",
                response.headers(),
                String::from_utf8_lossy(response.body())
            );
            assert!(
                answer.contains("BAD")
                    && !answer.contains("ary")
                    && !answer.contains("aaaa")
                    && !answer.contains("good-value")
            );
        }
    }
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn every_legal_value_arrives_byte_for_byte() {
    let mut upstream =
        RawUpstream::start(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let url = format!("http://{}", upstream.address);
    let pair = dev(&[]).await;
    pair.injector
        .add(api(&url, AuthType::SecretHeaders, &["TOKEN"]))
        .await;
    let bearer = api(&url, AuthType::Bearer, &["TOKEN"]);
    pair.injector
        .add(Server {
            name: "bearer".into(),
            ..bearer
        })
        .await;
    let all: String = (0x21..=0x7e).map(char::from).chain(" ~".chars()).collect();
    for value in [
        all,
        "a".into(),
        "a  b".into(),
        "\"{}\\%0d%0a".into(),
        "x".repeat(8192),
    ] {
        pair.vault.put("dev", "TOKEN", &value).await;
        for (path, line) in [
            ("/dev/api/", format!("\r\nx-mcp-secret-token: {value}\r\n")),
            ("/dev/bearer/", format!("\r\nauthorization: Bearer {value}\r\n")),
        ] {
            assert_eq!(call(&pair, path).await.status(), 200);
            let received = String::from_utf8(upstream.received().await).unwrap();
            assert!(received.contains(&line), "{received}");
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_call_goes_out_without_a_missing_secret_and_that_is_no_secret() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("HERE", "here-1")]).await;
    pair.injector
        .add(api(
            &upstream.url(),
            AuthType::SecretHeaders,
            &["HERE", "GONE", "AWAY"],
        ))
        .await;
    let shown = "aerostack_injector_missed_secrets_total{workspace=\"dev\",server=\"api\"}";
    assert_eq!(counter(&pair, shown).await, 0);
    for calls in 1..=2 {
        assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
        assert_eq!(upstream.last().secret_headers(), ["x-mcp-secret-here"]);
        assert_eq!(counter(&pair, shown).await, 2 * calls);
    }
    let secret = |name: &str, state: State, version| ExplainedSecret {
        name: name.into(),
        placement: format!("header x-mcp-secret-{}", name.to_ascii_lowercase()),
        required: false,
        state: state.into(),
        version,
    };
    let explained = explain(&pair, "api").await;
    assert!(explained.would_forward);
    let expected = [
        secret("HERE", State::Injected, 1),
        secret("GONE", State::Missing, 0),
        secret("AWAY", State::Missing, 0),
    ];
    assert_eq!(explained.secrets, expected);

    pair.vault.put("dev", "GONE", "back-1").await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
    assert_eq!(upstream.last().header("x-mcp-secret-gone"), Some("back-1"));
    assert_eq!(counter(&pair, shown).await, 5);
    assert_eq!(
        explain(&pair, "api").await.secrets[1],
        secret("GONE", State::Injected, 1)
    );
    pair.stop().await;
}

#[tokio::test]
async fn a_call_without_a_required_secret_is_refused() {
    let (untouched, url) = Untouched::bind();
    let pair = dev(&[("HERE", "here-1")]).await;
    let described = api(&url, AuthType::SecretHeaders, &["HERE", "GONE"]);
    pair.injector
        .add(Server {
            required_secrets: vec!["gone".into()],
            ..described
        })
        .await;
    let response = call(&pair, "/dev/api/").await;
    assert_eq!(refusal(&response), (502, "SECRET_REQUIRED_MISSING"));
    let text = String::from_utf8_lossy(response.body());
    assert!(text.contains("GONE") && !text.contains("here-1"), "{text}");
    let explained = explain(&pair, "api").await;
    assert!(!explained.would_forward && explained.secrets[1].required && !explained.secrets[0].required);
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn a_value_bound_to_other_origins_is_not_sent() {
    let (untouched, url) = Untouched::bind();
    let pair = dev(&[("FREE", "free-1")]).await;
    pair.injector
        .add(api(&url, AuthType::SecretHeaders, &["FREE", "BOUND"]))
        .await;
    let port = url.rsplit_once(':').unwrap().1;
    for origins in [
        &["https://api.example.com"][..],
        &[&format!("https://127.0.0.1:{port}")],
        &[&format!("http://localhost:{port}")],
        &["http://127.0.0.1"],
        &["https://*.example.com", "http://127.0.0.1:1"],
    ] {
        pair.vault.put_for("dev", "BOUND", "bound-1", origins).await;
        let response = call(&pair, "/dev/api/").await;
        assert_eq!(
            refusal(&response),
            (502, "SECRET_NOT_FOR_THIS_UPSTREAM"),
            "{origins:?}"
        );
        let text = String::from_utf8_lossy(response.body());
        assert!(
            text.contains("BOUND") && !text.contains("bound-1") && !text.contains("example"),
            "{text}"
        );
    }
    let explained = explain(&pair, "api").await;
    assert!(!explained.would_forward);
    assert_eq!(explained.secrets[1].state(), State::OriginRefused);
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn rebinding_a_value_holds_from_the_next_call_on() {
    let upstream = Upstream::start().await;
    let pair = dev(&[]).await;
    let (here, elsewhere) = (upstream.url(), "https://api.example.com");
    pair.vault
        .put_for("dev", "TOKEN", "tok-1", &[elsewhere, &here])
        .await;
    pair.injector.add(api(&here, AuthType::Bearer, &["TOKEN"])).await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
    pair.vault.put_for("dev", "TOKEN", "tok-2", &[elsewhere]).await;
    assert_eq!(
        refusal(&call(&pair, "/dev/api/").await),
        (502, "SECRET_NOT_FOR_THIS_UPSTREAM")
    );
    pair.vault.put_for("dev", "TOKEN", "tok-3", &[]).await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
    let sent: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(sent, ["Bearer tok-1", "Bearer tok-3"]);
    pair.stop().await;
}

#[tokio::test]
async fn nobody_sees_a_value_in_what_the_injector_says() {
    let canary = "canary-value-7f3a";
    let upstream =
        Upstream::answering(|_| Response::builder().status(500).body(Full::default()).unwrap()).await;
    let pair = dev(&[("TOKEN", canary)]).await;
    pair.injector
        .add(api(&upstream.url(), AuthType::SecretHeaders, &["TOKEN", "GONE"]))
        .await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 500);
    assert_eq!(upstream.last().header("x-mcp-secret-token"), Some(canary));
    let explained = format!("{:?}", explain(&pair, "api").await);
    let metrics = get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    let file = std::fs::read_to_string(pair.injector.servers_file()).unwrap();
    for text in [explained, metrics, file] {
        assert!(!text.contains(canary), "{text}");
    }
    pair.stop().await;
}
