//! The hosts under which the data plane answers, and the web pages that it refuses.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

use std::net::SocketAddr;

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Upstream,
    frames::{self, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, STATUS_200, STATUS_400, field, frame},
    pair::server,
    raw::{self, exchange},
};
use http::{HeaderMap, Request, Response, request::Builder};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::injector::v1::Server;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

const APP: &str = "https://app.example";

/// Starts a pair with the server `dev/github` at `upstream`, which pages of `origins` may call.
async fn github(upstream: &Upstream, origins: &[&str]) -> Pair {
    let pair = Pair::start_with(|_| {}, |settings| settings.host = vec!["Injector.Test".into()]).await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", "tok-1").await;
    let allowed_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
    let github = server("dev", "github", &upstream.url(), &["TOKEN"]);
    pair.injector
        .add(Server {
            allowed_origins,
            ..github
        })
        .await;
    pair
}

/// Sends a request with this head on a connection of its own, and returns the status and the reason of the response.
async fn answer_to(address: SocketAddr, head: &str) -> (u16, String) {
    let answer = exchange(address, format!("{head}\r\nConnection: close\r\n\r\n")).await;
    let reason = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-aerostack-reason: "))
        .unwrap_or_default();
    (raw::status(&answer), reason.to_owned())
}

/// Sends a request over HTTP/2, with the authority of its URI as `:authority`.
async fn over_http2(address: SocketAddr, request: Builder) -> Response<Bytes> {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let sent = sender.send_request(request.body(Full::<Bytes>::default()).unwrap());
    let response = timeout(PATIENCE, sent)
        .await
        .expect("the call was never answered")
        .unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

fn reason(response: &Response<Bytes>) -> (u16, &str) {
    let reason = response
        .headers()
        .get("x-aerostack-reason")
        .map_or("", |reason| reason.to_str().unwrap());
    (response.status().as_u16(), reason)
}

/// Returns the names of the headers that a page may read.
fn exposed(response: &Response<Bytes>) -> Vec<&str> {
    let mut lists = response.headers().get_all("access-control-expose-headers").iter();
    let list = lists.next().expect("no headers are exposed").to_str().unwrap();
    assert!(lists.next().is_none(), "the list is given twice");
    list.split(", ").collect()
}

/// Returns everything that a page could learn from a refusal, except for the call id, which differs between calls.
fn learnt(response: Response<Bytes>) -> (u16, HeaderMap, serde_json::Value) {
    let (mut parts, body) = response.into_parts();
    // The length differs with the length of the call id.
    for name in ["date", "content-length", "x-aerostack-call-id"] {
        parts.headers.remove(name);
    }
    let mut problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    problem["call_id"] = serde_json::Value::Null;
    (parts.status.as_u16(), parts.headers, problem)
}

#[tokio::test]
async fn a_request_is_for_exactly_one_host() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream, &[]).await;
    let data_plane = pair.injector.data_plane;
    let absolute = format!("GET http://{data_plane}/dev/github/ HTTP/1.1");
    for head in [
        "GET /dev/github/ HTTP/1.1".to_owned(),
        "GET /dev/github/ HTTP/1.0".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost:".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost: localhost\r\nHost: localhost".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost: localhost\r\nhost: evil.example".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost: user@localhost".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost: evil.example@localhost".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost: localhost/dev".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost: localhost, localhost".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost: localhost evil.example".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost: localhost:x".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost: localhost:99999".to_owned(),
        "GET /dev/github/ HTTP/1.1\r\nHost : localhost".to_owned(),
        "GET http://user@localhost/dev/github/ HTTP/1.1\r\nHost: localhost".to_owned(),
        "GET http://user:x@localhost/dev/github/ HTTP/1.1\r\nHost: user:x@localhost".to_owned(),
        "GET http://evil.example/dev/github/ HTTP/1.1\r\nHost: localhost".to_owned(),
        "GET http://localhost/dev/github/ HTTP/1.1\r\nHost: evil.example".to_owned(),
        "GET http://localhost:1/dev/github/ HTTP/1.1\r\nHost: localhost:2".to_owned(),
        format!("{absolute}\r\nHost: {data_plane}\r\nHost: {data_plane}"),
    ] {
        assert_eq!(answer_to(data_plane, &head).await.0, 400, "{head}");
    }
    assert_eq!(upstream.seen().len(), 0);
    assert_eq!(
        answer_to(data_plane, &format!("{absolute}\r\nHost: {data_plane}"))
            .await
            .0,
        200
    );
    assert_eq!(
        (upstream.last().target.as_str(), upstream.last().host),
        ("/", upstream.address.to_string())
    );
    pair.stop().await;
}

#[tokio::test]
async fn only_hosts_of_the_injector_are_served() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream, &[]).await;
    for host in [
        "localhost",
        "LOCALHOST:7100",
        "127.0.0.1",
        "127.9.9.9:1",
        "[::1]",
        "[::1]:7100",
        "[::ffff:127.0.0.1]",
        "injector.test",
        "INJECTOR.test:80",
    ] {
        let head = format!("GET /dev/github/ HTTP/1.1\r\nHost: {host}");
        assert_eq!(answer_to(pair.injector.data_plane, &head).await.0, 200, "{host}");
    }
    let served = upstream.seen().len();
    for host in [
        "evil.example",
        "localhost.evil.example",
        "evil.example:7100",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "192.0.2.2",
        "0.0.0.0",
        "[::]",
        "[fe80::1]",
        "x.injector.test",
        "a.localhost",
        "a.b.c.localhost",
        "xlocalhost",
        "localhost.",
    ] {
        for target in [
            "/dev/github/".to_owned(),
            "/none/none/".to_owned(),
            format!("http://{host}/dev/github/"),
        ] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: {host}");
            let answer = answer_to(pair.injector.data_plane, &head).await;
            assert_eq!(answer, (421, "HOST_NOT_SERVED".to_owned()), "{host}");
        }
    }
    assert_eq!(upstream.seen().len(), served);
    pair.stop().await;
}

#[tokio::test]
async fn over_http2_the_authority_is_the_host() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream, &[]).await;
    let data_plane = pair.injector.data_plane;
    let to = |authority: &str, path: &str| Request::get(format!("http://{authority}{path}"));
    for (request, answer) in [
        (to("localhost", "/dev/github/"), (200, "")),
        (
            to("localhost:1", "/dev/github/").header("host", "LOCALHOST:1"),
            (200, ""),
        ),
        (to("github.dev.localhost", "/"), (200, "")),
        (
            to("localhost", "/dev/github/").header("host", "evil.example"),
            (400, "HOST_INVALID"),
        ),
        (
            to("evil.example", "/dev/github/").header("host", "localhost"),
            (400, "HOST_INVALID"),
        ),
        (
            to("localhost", "/dev/github/")
                .header("host", "localhost")
                .header("host", "localhost"),
            (400, "HOST_INVALID"),
        ),
        (to("evil.example", "/dev/github/"), (421, "HOST_NOT_SERVED")),
        (
            to("evil.example", "/dev/github/").header("host", "evil.example"),
            (421, "HOST_NOT_SERVED"),
        ),
    ] {
        let described = format!("{request:?}");
        assert_eq!(
            reason(&over_http2(data_plane, request).await),
            answer,
            "{described}"
        );
    }
    assert_eq!(upstream.seen().len(), 3);
    assert_eq!(upstream.last().host, upstream.address.to_string());
    pair.stop().await;
}

/// Sends heads that no HTTP/2 library produces.
#[tokio::test]
async fn an_http2_request_names_one_host_and_no_user() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream, &[]).await;
    let head = |authority: &[&str], host: &[&str]| {
        let mut head = [
            field(":method", "GET"),
            field(":scheme", "http"),
            field(":path", "/dev/github/"),
        ]
        .concat();
        head.extend(authority.iter().flat_map(|value| field(":authority", value)));
        head.extend(host.iter().flat_map(|value| field("host", value)));
        head
    };
    for (authority, host) in [
        (&[][..], &[][..]),
        (&["user@localhost"], &[]),
        (&["user:x@localhost"], &["user:x@localhost"]),
        (&["evil.example@localhost"], &[]),
        (&[], &["user@localhost"]),
        (&["localhost", "localhost"], &[]),
        (&[""], &[]),
        (&["localhost/dev"], &[]),
    ] {
        let mut connection = frames::connect(pair.injector.data_plane).await;
        let call = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head(authority, host));
        connection.write_all(&call).await.unwrap();
        let refused = loop {
            // A malformed head resets its stream (RFC 9113, section 8.1.1).
            match frames::read(&mut connection).await {
                Ok(frame) if frame.kind == RST_STREAM => break true,
                Ok(frame) if frame.kind == HEADERS => break frame.payload[0] == STATUS_400,
                Ok(_) => {}
                Err(_) => break true,
            }
        };
        assert!(refused, "{authority:?} {host:?}");
    }
    assert_eq!(upstream.seen().len(), 0);
    // Without `:authority`, the `host` field names the host.
    let mut connection = frames::connect(pair.injector.data_plane).await;
    let call = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head(&[], &["localhost"]));
    connection.write_all(&call).await.unwrap();
    let answer = frames::next(&mut connection, HEADERS).await.unwrap();
    assert_eq!(answer.payload[0], STATUS_200);
    pair.stop().await;
}

#[tokio::test]
async fn a_web_page_may_not_call() {
    let upstream = Upstream::answering(|_| {
        Response::builder()
            .header("access-control-allow-origin", "*")
            .body(Full::from("theirs"))
            .unwrap()
    })
    .await;
    let pair = github(&upstream, &[]).await;
    let pages: [&[(&str, &str)]; 17] = [
        &[("origin", "https://evil.example")],
        &[("origin", APP)],
        &[("origin", "null")],
        &[("origin", "")],
        &[("origin", "http://localhost:7100")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
        // Browsers send this when a user opens a page from the address bar, and the page redirects to the injector.
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-mode", "navigate")],
        &[("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
        &[("sec-fetch-dest", "image")],
        &[("sec-fetch-user", "?1")],
        &[("sec-fetch-storage-access", "active")],
        &[("sec-fetch-later", "")],
        &[("upgrade-insecure-requests", "1")],
    ];
    for page in pages {
        for method in ["GET", "POST", "OPTIONS"] {
            let request = || {
                Request::builder()
                    .method(method)
                    .header("access-control-request-method", "POST")
            };
            let request = || {
                page.iter()
                    .fold(request(), |request, (name, value)| request.header(*name, *value))
            };
            let known = pair.injector.send(request().uri("/dev/github/"), "").await;
            assert_eq!(reason(&known), (403, "BROWSER_REFUSED"), "{method} {page:?}");
            assert!(
                known
                    .headers()
                    .keys()
                    .all(|name| !name.as_str().starts_with("access-control"))
            );
            let unknown = pair.injector.send(request().uri("/dev/none/"), "").await;
            assert_eq!(learnt(unknown), learnt(known), "{method} {page:?}");
        }
    }
    let page = Request::get("http://localhost/dev/github/").header("origin", APP);
    assert_eq!(
        reason(&over_http2(pair.injector.data_plane, page).await),
        (403, "BROWSER_REFUSED")
    );
    assert_eq!(upstream.seen().len(), 0);
    // Node.js sends this header by itself.
    let program = Request::get("/dev/github/").header("sec-fetch-mode", "cors");
    assert_eq!(pair.injector.send(program, "").await.status(), 200);
    pair.stop().await;
}

/// Over plain HTTP, browsers send no `Sec-Fetch-…` headers to a host that is not a loopback host.
#[tokio::test]
async fn on_a_configured_host_the_user_agent_tells_a_browser() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream, &[APP]).await;
    let from = |agent: &str, host: &str| {
        let request = Request::get("/dev/github/").header("user-agent", agent);
        request.header("host", host)
    };
    let browser = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36";
    for (request, answer) in [
        (from(browser, "injector.test"), (403, "BROWSER_REFUSED")),
        (from(browser, "injector.test").header("origin", APP), (200, "")),
        (from("curl/8.5.0", "injector.test"), (200, "")),
        (from(browser, "localhost"), (200, "")),
    ] {
        let described = format!("{request:?}");
        assert_eq!(
            reason(&pair.injector.send(request, "").await),
            answer,
            "{described}"
        );
    }
    assert_eq!(upstream.seen().len(), 3);
    pair.stop().await;
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_call_and_read_the_response() {
    let upstream = Upstream::answering(|_| {
        let response = Response::builder()
            .header("access-control-allow-origin", "*")
            .header("vary", "accept");
        let response = response.header("access-control-allow-credentials", "true");
        response
            .header("Access-Control-Expose-Headers", "*")
            .header("mcp-session-id", "1")
            .header("etag", "\"2\"")
            .header("set-cookie", "a=1")
            .header("grpc-status", "0")
            .body(Full::from("theirs"))
            .unwrap()
    })
    .await;
    let pair = github(&upstream, &["https://other.example", APP]).await;
    let page = Request::post("/dev/github/x")
        .header("origin", APP)
        .header("sec-fetch-site", "cross-site");
    let response = pair.injector.send(page, "{}").await;
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (200, &b"theirs"[..])
    );
    assert_eq!(upstream.last().header("x-mcp-secret-token"), Some("tok-1"));
    let ours: Vec<_> = response
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control"))
        .collect();
    assert_eq!(ours.len(), 2, "{ours:?}");
    assert_eq!(response.headers()["access-control-allow-origin"], APP);
    let exposed = exposed(&response);
    for name in ["mcp-session-id", "etag", "grpc-status", "x-aerostack-call-id"] {
        assert!(exposed.contains(&name), "{name}: {exposed:?}");
    }
    assert!(!exposed.contains(&"set-cookie"), "{exposed:?}");
    let varies: Vec<_> = response.headers().get_all("vary").iter().collect();
    assert_eq!(varies, ["accept", "Origin"]);

    for origin in [
        "https://app.example.evil",
        "https://APP.example",
        "https://app.example:443",
        "http://app.example",
        "null",
    ] {
        let page = Request::post("/dev/github/x").header("origin", origin);
        assert_eq!(
            reason(&pair.injector.send(page, "{}").await),
            (403, "BROWSER_REFUSED"),
            "{origin}"
        );
    }
    let twice = Request::post("/dev/github/x")
        .header("origin", APP)
        .header("origin", APP);
    assert_eq!(
        reason(&pair.injector.send(twice, "{}").await),
        (403, "BROWSER_REFUSED")
    );
    let elsewhere = Request::post("/dev/none/x").header("origin", APP);
    assert_eq!(
        reason(&pair.injector.send(elsewhere, "{}").await),
        (403, "BROWSER_REFUSED")
    );
    assert_eq!(upstream.seen().len(), 1);
    pair.stop().await;
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_read_a_refusal() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream, &["https://app.example"]).await;
    pair.vault.put("dev", "TOKEN", "not\na header").await;
    let page = Request::get("/dev/github/user").header("origin", "https://app.example");
    let response = pair.injector.send(page, "").await;
    assert_eq!(reason(&response), (502, "SECRET_VALUE_NOT_PLACEABLE"));
    assert_eq!(
        response.headers()["access-control-allow-origin"],
        "https://app.example"
    );
    let exposed = exposed(&response);
    for name in ["x-aerostack-reason", "x-aerostack-call-id"] {
        assert!(exposed.contains(&name), "{exposed:?}");
    }
    let stranger = Request::get("/dev/github/user").header("origin", "https://other.example");
    let response = pair.injector.send(stranger, "").await;
    assert_eq!(reason(&response), (403, "BROWSER_REFUSED"));
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_injector() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream, &[APP]).await;
    let preflight = |origin: &str| {
        let request = Request::options("/dev/github/x").header("origin", origin);
        let request = request.header("access-control-request-method", "DELETE");
        request.header("access-control-request-headers", "content-type,x-mine")
    };
    let response = pair.injector.send(preflight(APP), "").await;
    assert_eq!(response.status(), 204);
    let headers = response.headers();
    assert_eq!(headers["access-control-allow-origin"], APP);
    assert_eq!(headers["access-control-allow-methods"], "DELETE");
    assert_eq!(headers["access-control-allow-headers"], "content-type,x-mine");
    assert!(!headers.contains_key("access-control-allow-credentials"));
    assert_eq!(
        reason(&pair.injector.send(preflight("https://evil.example"), "").await),
        (403, "BROWSER_REFUSED")
    );
    assert_eq!(upstream.seen().len(), 0);
    // An OPTIONS request without `Access-Control-Request-Method` is no preflight, and goes to the upstream.
    let ordinary = Request::options("/dev/github/x").header("origin", APP);
    assert_eq!(pair.injector.send(ordinary, "").await.status(), 200);
    assert_eq!(upstream.last().method, "OPTIONS");
    pair.stop().await;
}

#[tokio::test]
async fn cors_headers_of_the_upstream_are_removed() {
    let upstream = Upstream::answering(|_| {
        let response = Response::builder().header("access-control-allow-origin", "*");
        let response = response.header("access-control-allow-credentials", "true");
        response
            .header("access-control-allow-private-network", "true")
            .body(Full::default())
            .unwrap()
    })
    .await;
    let pair = github(&upstream, &[APP]).await;
    let response = pair.injector.get("/dev/github/").await;
    assert_eq!(response.status(), 200);
    assert!(
        response
            .headers()
            .keys()
            .all(|name| !name.as_str().starts_with("access-control"))
    );
    pair.stop().await;
}

#[tokio::test]
async fn probes_are_served_under_addresses_and_localhost_only() {
    let pair = Pair::start().await;
    for probes in [pair.vault.metrics, pair.injector.metrics] {
        for path in ["/metrics", "/livez", "/readyz"] {
            for host in ["localhost", "127.0.0.1", "10.1.2.3:9052", "[fd00::1]:9052"] {
                assert_eq!(
                    answer_to(probes, &format!("GET {path} HTTP/1.1\r\nHost: {host}"))
                        .await
                        .0,
                    200,
                    "{host}"
                );
            }
            for host in [
                "evil.example",
                "localhost.evil.example",
                "10.1.2.3.evil.example",
                "",
            ] {
                let answer = exchange(
                    probes,
                    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
                )
                .await;
                assert_eq!(raw::status(&answer), 421, "{host}");
                assert!(!answer.contains("aerostack_"), "{answer}");
            }
        }
    }
    pair.stop().await;
}
