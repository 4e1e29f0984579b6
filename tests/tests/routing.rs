//! The ways in which a request names its server, and the part of its target that the server gets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

use std::net::SocketAddr;

use bytes::Bytes;
use e2e::{
    Pair, Upstream,
    frames::{self, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, STATUS_200, field, frame},
    pair::{send, server},
    raw::{self, exchange},
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;

/// Starts a pair with the server `dev/github` at `upstream`.
async fn github(upstream: &Upstream) -> Pair {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair.injector
        .add(server("dev", "github", &upstream.url(), &[]))
        .await;
    pair
}

/// Returns the reason of a refusal, and checks that the refusal has every documented member.
fn reason(response: &Response<Bytes>) -> String {
    let text = String::from_utf8_lossy(response.body());
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json",
        "{text}"
    );
    let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["title"], response.status().canonical_reason().unwrap());
    assert_eq!(problem["status"], response.status().as_u16());
    assert!(!problem["detail"].as_str().unwrap().is_empty());
    assert!(!problem["call_id"].as_str().unwrap().is_empty());
    assert_eq!(
        problem["reason"],
        response.headers()["x-aerostack-reason"].to_str().unwrap()
    );
    problem["reason"].as_str().unwrap().to_owned()
}

/// Returns the status and the reason of a refusal.
fn refusal(response: &Response<Bytes>) -> (u16, String) {
    (response.status().as_u16(), reason(response))
}

/// Sends a request with this head on a connection of its own, and returns the status of the response.
async fn status_of(address: SocketAddr, head: &str) -> u16 {
    raw::status(&exchange(address, format!("{head}\r\nConnection: close\r\n\r\n")).await)
}

#[tokio::test]
async fn a_path_names_a_server_which_gets_the_rest_of_the_path() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream).await;
    for (path, target) in [
        ("/dev/github", "/"),
        ("/dev/github/", "/"),
        ("/dev/github?q=1", "/?q=1"),
        (
            "/dev/github/repos/a?per_page=2&q=%20",
            "/repos/a?per_page=2&q=%20",
        ),
        ("/dev/github/dev/github", "/dev/github"),
        ("/dev/github/a?", "/a?"),
    ] {
        assert_eq!(pair.injector.get(path).await.status(), 200, "{path}");
        assert_eq!(upstream.last().target, target);
        assert_eq!(upstream.last().host, upstream.address.to_string());
    }
    pair.stop().await;
}

#[tokio::test]
async fn headers_name_a_server_and_the_path_is_unchanged() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream).await;
    let request = Request::get("/other/server/x?y=z")
        .header("X-Aerostack-Workspace", "dev")
        .header("X-Aerostack-Server", "github")
        .header("x-aerostack-anything", "1")
        .header("x-mine", "1");
    assert_eq!(pair.injector.send(request, "").await.status(), 200);
    let seen = upstream.last();
    assert_eq!(seen.target, "/other/server/x?y=z");
    assert_eq!(seen.host, upstream.address.to_string());
    assert_eq!(seen.header("x-mine"), Some("1"));
    let ours = seen
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-aerostack"));
    assert_eq!(ours.count(), 0, "{:?}", seen.headers);
    pair.stop().await;
}

#[tokio::test]
async fn a_host_names_a_server_and_the_path_is_unchanged() {
    let upstream = Upstream::start().await;
    let pair = Pair::start_with(|_| {}, |settings| settings.host_suffix = "Injector.Test".into()).await;
    pair.vault.workspace("dev").await;
    pair.injector
        .add(server("dev", "github", &upstream.url(), &[]))
        .await;
    for host in ["github.dev.injector.test", "GitHub.Dev.Injector.Test:7100"] {
        let response = pair
            .injector
            .send(Request::get("/a/b/c").header("host", host), "")
            .await;
        assert_eq!(response.status(), 200, "{host}");
        assert_eq!(upstream.last().target, "/a/b/c");
        assert_eq!(upstream.last().host, upstream.address.to_string());
    }
    for host in ["other.dev.injector.test", "github.other.injector.test"] {
        let response = pair
            .injector
            .send(Request::get("/a/b/c").header("host", host), "")
            .await;
        assert_eq!(refusal(&response), (404, "SERVER_NOT_FOUND".to_owned()), "{host}");
    }
    assert_eq!(upstream.seen().len(), 2);
    pair.stop().await;
}

#[tokio::test]
async fn a_listener_of_one_server_ignores_other_ways_of_naming() {
    let (upstream, other) = (Upstream::start().await, Upstream::start().await);
    let dedicated = |settings: &mut injector_service::config::Settings| {
        settings.listen_server = vec!["127.0.0.1:0=dev/github".into(), "127.0.0.1:0=dev/nothing".into()];
    };
    let pair = Pair::start_with(|_| {}, dedicated).await;
    pair.vault.workspace("dev").await;
    pair.injector
        .add(server("dev", "github", &upstream.url(), &[]))
        .await;
    pair.injector.add(server("dev", "other", &other.url(), &[])).await;
    let [github, nothing] = pair.injector.dedicated[..] else {
        panic!("there are two listeners")
    };

    for request in [
        Request::get("/dev/other/x?y"),
        Request::get("/dev/other/x?y").header("host", "other.dev.localhost"),
    ] {
        assert_eq!(send(github, request, "").await.status(), 200);
        assert_eq!(upstream.last().target, "/dev/other/x?y");
    }
    for name in [
        "x-aerostack-workspace",
        "x-aerostack-server",
        "X-Aerostack-Reason",
    ] {
        let response = send(github, Request::get("/").header(name, "dev"), "").await;
        assert_eq!(refusal(&response), (400, "TARGET_INVALID".to_owned()), "{name}");
    }
    assert_eq!(
        refusal(&send(nothing, Request::get("/dev/github/"), "").await),
        (404, "SERVER_NOT_FOUND".to_owned())
    );
    assert_eq!((upstream.seen().len(), other.seen().len()), (2, 0));
    pair.stop().await;
}

#[tokio::test]
async fn headers_take_precedence_over_the_host_and_the_host_over_the_path() {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    let mut upstreams = Vec::new();
    for name in ["by-header", "by-host", "by-path"] {
        let upstream = Upstream::start().await;
        pair.injector.add(server("dev", name, &upstream.url(), &[])).await;
        upstreams.push(upstream);
    }
    let by_path = || Request::get("/dev/by-path/x").header("host", "localhost");
    let by_host = || Request::get("/dev/by-path/x").header("host", "by-host.dev.localhost");
    let by_header = || {
        by_host()
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", "by-header")
    };
    for (request, count) in [
        (by_path(), [0, 0, 1]),
        (by_host(), [0, 1, 1]),
        (by_header(), [1, 1, 1]),
    ] {
        assert_eq!(pair.injector.send(request, "").await.status(), 200);
        assert_eq!(
            upstreams
                .iter()
                .map(|upstream| upstream.seen().len())
                .collect::<Vec<_>>(),
            count
        );
    }
    // A way of naming that is used counts, even when the server does not exist.
    let nowhere = by_host()
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "none");
    assert_eq!(pair.injector.send(nowhere, "").await.status(), 404);
    assert_eq!(
        upstreams
            .iter()
            .map(|upstream| upstream.seen().len())
            .sum::<usize>(),
        3
    );
    pair.stop().await;
}

#[tokio::test]
async fn an_unknown_server_is_404_and_nothing_is_forwarded() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream).await;
    pair.vault.workspace("ops").await;
    for path in [
        "/",
        "/dev",
        "/dev/",
        "//dev/github",
        "/dev//github",
        "/dev/githu",
        "/dev/github2",
        "/ops/github",
        "/DEV/github",
        "/dev/GitHub",
        "/github/dev",
        "/-/github",
        "/dev/github;x/y",
        "/?/dev/github",
    ] {
        let response = pair.injector.get(path).await;
        assert_eq!(refusal(&response), (404, "SERVER_NOT_FOUND".to_owned()), "{path}");
    }
    assert_eq!(
        status_of(pair.injector.data_plane, "OPTIONS * HTTP/1.1\r\nHost: localhost").await,
        404
    );
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

#[tokio::test]
async fn names_in_the_path_are_not_percent_decoded() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream).await;
    for path in [
        "/d%65v/github/x",
        "/dev/gith%75b/x",
        "/%64ev/github",
        "/dev/github%2fx",
        "/dev%2fgithub/x",
        "/%/%",
    ] {
        let response = pair.injector.get(path).await;
        assert_eq!(refusal(&response), (400, "PATH_INVALID".to_owned()), "{path}");
    }
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

#[tokio::test]
async fn headers_that_name_a_server_must_both_be_valid_names_given_once() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream).await;
    pair.vault.workspace("ops").await;
    let (workspace, server) = ("X-Aerostack-Workspace", "x-aerostack-server");
    let long = "a".repeat(4000);
    for (pairs, status) in [
        (vec![(workspace, "dev")], 400),
        (vec![(server, "github")], 400),
        (
            vec![(workspace, "dev"), (workspace, "dev"), (server, "github")],
            400,
        ),
        (
            vec![(workspace, "dev"), (server, "github"), (server, "other")],
            400,
        ),
        (vec![(workspace, ""), (server, "github")], 400),
        (vec![(workspace, "dev"), (server, "")], 400),
        (vec![(workspace, "dev/github"), (server, "x")], 400),
        (vec![(workspace, ".."), (server, "github")], 400),
        (vec![(workspace, "dev"), (server, "../github")], 400),
        (vec![(workspace, "dev"), (server, "git%68ub")], 400),
        (vec![(workspace, "Dev"), (server, "github")], 400),
        (vec![(workspace, "dev"), (server, "github,github")], 400),
        (vec![(workspace, "dev"), (server, "github\u{e9}")], 400),
        (vec![(workspace, &long), (server, "github")], 400),
        (vec![(workspace, "ops"), (server, "github")], 404),
        (vec![(workspace, "none"), (server, "github")], 404),
        (vec![(workspace, "dev"), (server, "none")], 404),
    ] {
        let request = pairs
            .iter()
            .fold(Request::get("/dev/github/x"), |request, (name, value)| {
                request.header(*name, *value)
            });
        let response = pair.injector.send(request, "").await;
        let expected = if status == 400 {
            "TARGET_INVALID"
        } else {
            "SERVER_NOT_FOUND"
        };
        assert_eq!(refusal(&response), (status, expected.to_owned()), "{pairs:?}");
    }
    let huge = "a".repeat(1 << 20);
    let head =
        format!("GET /dev/github/x HTTP/1.1\r\nHost: localhost\r\n{workspace}: {huge}\r\n{server}: github");
    assert_eq!(status_of(pair.injector.data_plane, &head).await, 431);
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

#[tokio::test]
async fn dot_segments_are_refused_in_every_encoding() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream).await;
    pair.injector
        .add(server("dev", "api", &format!("{}/v1/mine", upstream.url()), &[]))
        .await;
    for path in [
        "/..",
        "/../x",
        "/a/../b",
        "/./a",
        "/a/.",
        "/a/%2e%2e/b",
        "/a/%2E%2e",
        "/.%2e/a",
        "/%2e/a",
        "/a/..;/b",
        "/a/..;x=y/b",
        "/a/..%3b/b",
        "/a/..%2fb",
        "/a%2f..%2fb",
        "/a/..%5cb",
        "/a/..\\b",
        "/a/.;x",
        "/..?x",
        "/a//../b",
    ] {
        let head = format!("GET /dev/api{path} HTTP/1.1\r\nHost: localhost");
        assert_eq!(status_of(pair.injector.data_plane, &head).await, 400, "{path}");
        let named = "x-aerostack-workspace: dev\r\nx-aerostack-server: api";
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{named}");
        assert_eq!(status_of(pair.injector.data_plane, &head).await, 400, "{path}");
    }
    let response = pair.injector.get("/dev/api/a/%2e%2e/b").await;
    assert_eq!(refusal(&response), (400, "PATH_INVALID".to_owned()));
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

#[tokio::test]
async fn any_other_path_and_query_is_forwarded_byte_for_byte() {
    let mut upstream =
        raw::RawUpstream::start(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair.injector
        .add(server(
            "dev",
            "api",
            &format!("http://{}/v1", upstream.address),
            &[],
        ))
        .await;
    for rest in [
        "/",
        "//",
        "//a//b",
        "/a%2fb",
        "/a%2Fb%5c",
        "/a;b=c;d",
        "/%20%0a%00",
        "/%ff%fe",
        "/%c3%28",
        "/%252e%252e/x",
        "/a.b/...",
        "/..a",
        "/a?../b",
        "/a?x=/../&y=%2e%2e",
        "/a?q=%ff&&=;",
        "/{a}|b\"",
        "/a'b(c)*!$,",
        "/%zz%",
        "/:80@x",
        "/\u{e9}",
        "?",
        "",
    ] {
        let head = format!("GET /dev/api{rest} HTTP/1.1\r\nHost: localhost");
        assert_eq!(status_of(pair.injector.data_plane, &head).await, 200, "{rest}");
        let received = String::from_utf8(upstream.received().await).unwrap();
        assert_eq!(
            received.lines().next().unwrap(),
            format!("GET /v1{rest} HTTP/1.1")
        );
    }
    pair.stop().await;
}

/// A call that adds nothing to a server's URL gets exactly this URL, with or without its final slash.
#[tokio::test]
async fn the_url_of_a_server_keeps_its_final_slash_or_none() {
    let upstream = Upstream::start().await;
    let dedicated = |settings: &mut injector_service::config::Settings| {
        settings.listen_server = vec!["127.0.0.1:0=dev/slash".into(), "127.0.0.1:0=dev/none".into()];
    };
    let pair = Pair::start_with(|_| {}, dedicated).await;
    pair.vault.workspace("dev").await;
    for (name, path) in [("slash", "/mcp/"), ("none", "/mcp")] {
        let url = format!("{}{path}", upstream.url());
        pair.injector.add(server("dev", name, &url, &[])).await;
    }
    for (path, target) in [
        ("/dev/slash", "/mcp/"),
        ("/dev/slash?a=b", "/mcp/?a=b"),
        ("/dev/slash/", "/mcp/"),
        ("/dev/slash/x", "/mcp/x"),
        ("/dev/none", "/mcp"),
        ("/dev/none?a=b", "/mcp?a=b"),
        ("/dev/none/", "/mcp/"),
    ] {
        assert_eq!(pair.injector.get(path).await.status(), 200, "{path}");
        assert_eq!(upstream.last().target, target, "{path}");
    }
    for (name, listener, root) in [
        ("slash", pair.injector.dedicated[0], "/mcp/"),
        ("none", pair.injector.dedicated[1], "/mcp"),
    ] {
        let by_host =
            |request: http::request::Builder| request.header("host", format!("{name}.dev.localhost"));
        let by_header = |request: http::request::Builder| {
            let request = request.header("x-aerostack-workspace", "dev");
            request.header("x-aerostack-server", name)
        };
        for (path, target) in [
            ("/", root.to_owned()),
            ("/?a=b", format!("{root}?a=b")),
            ("/x", "/mcp/x".to_owned()),
            ("//", "/mcp//".to_owned()),
        ] {
            for (address, request) in [
                (listener, Request::get(path)),
                (pair.injector.data_plane, by_host(Request::get(path))),
                (pair.injector.data_plane, by_header(Request::get(path))),
            ] {
                let described = format!("{request:?}");
                assert_eq!(send(address, request, "").await.status(), 200, "{described}");
                assert_eq!(upstream.last().target, target, "{described}");
            }
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_target_of_70_kb_is_refused() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream).await;
    let head = format!(
        "GET /dev/github/{} HTTP/1.1\r\nHost: localhost",
        "a".repeat(70_000)
    );
    assert_eq!(status_of(pair.injector.data_plane, &head).await, 414);
    let head = format!(
        "GET /dev/github/?{} HTTP/1.1\r\nHost: localhost",
        "a".repeat(70_000)
    );
    assert_eq!(status_of(pair.injector.data_plane, &head).await, 414);
    let long = "a".repeat(60_000);
    assert_eq!(
        pair.injector.get(&format!("/dev/github/{long}")).await.status(),
        200
    );
    assert_eq!(upstream.last().target, format!("/{long}"));
    assert_eq!(upstream.seen().len(), 1);
    pair.stop().await;
}

#[tokio::test]
async fn a_location_on_the_server_is_moved_under_the_path_of_the_server() {
    let upstream = Upstream::answering(|seen| {
        let location = seen.headers["x-answer"].to_str().unwrap();
        Response::builder()
            .status(302)
            .header("location", location)
            .body(Full::default())
            .unwrap()
    })
    .await;
    let (pair, own) = (Pair::start().await, upstream.url());
    pair.vault.workspace("dev").await;
    pair.injector
        .add(server("dev", "api", &format!("{own}/v1"), &[]))
        .await;
    let located = async |path: &str, host: &str, location: &str| {
        let request = Request::get(path)
            .header("host", host)
            .header("x-answer", location);
        let response = pair.injector.send(request, "").await;
        assert_eq!(response.status(), 302);
        response.headers()["location"].to_str().unwrap().to_owned()
    };
    for (location, moved) in [
        ("/v1/b?q#f", "/dev/api/b?q#f".to_owned()),
        ("b", "/dev/api/a/b".to_owned()),
        (&format!("{own}/v1/b"), "http://localhost/dev/api/b".to_owned()),
        (&format!("{own}/v1"), "http://localhost/dev/api".to_owned()),
        ("/v2/b", format!("{own}/v2/b")),
        (
            "https://elsewhere.example/v1/b",
            "https://elsewhere.example/v1/b".to_owned(),
        ),
        (
            "//elsewhere.example/v1/b",
            "http://elsewhere.example/v1/b".to_owned(),
        ),
    ] {
        assert_eq!(
            located("/dev/api/a/x", "localhost", location).await,
            moved,
            "{location}"
        );
    }
    // A path outside the path of the server's URL leads to no server here.
    assert_eq!(located("/a/x", "api.dev.localhost", "/v1/b").await, "/b");
    pair.stop().await;
}

#[tokio::test]
async fn a_cookie_of_one_server_is_not_sent_to_another() {
    let upstream = Upstream::answering(|_| {
        let cookies = [
            "a=1; Path=/; Domain=localhost; HttpOnly",
            "b=2; path=/v1/x; Secure",
            "c=3",
        ];
        cookies
            .iter()
            .fold(Response::builder(), |response, cookie| {
                response.header("set-cookie", *cookie)
            })
            .body(Full::default())
            .unwrap()
    })
    .await;
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair.injector
        .add(server("dev", "api", &format!("{}/v1", upstream.url()), &[]))
        .await;
    let response = pair.injector.get("/dev/api/x/y").await;
    let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
    assert_eq!(
        cookies,
        [
            "a=1; HttpOnly; Path=/dev/api",
            "b=2; Secure; Path=/dev/api/x",
            "c=3; Path=/dev/api/x"
        ]
    );
    pair.stop().await;
}

#[tokio::test]
async fn methods_that_are_not_for_the_upstream_are_refused() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream).await;
    for request in [
        "TRACE /dev/github/",
        "get /dev/github/",
        "Get /dev/github/",
        "PRI /dev/github/",
        "PRI *",
        "CONNECT localhost:80",
        "CONNECT 127.0.0.1:80",
    ] {
        let head = format!("{request} HTTP/1.1\r\nHost: localhost:80");
        assert_eq!(status_of(pair.injector.data_plane, &head).await, 405, "{request}");
    }
    assert_eq!(upstream.seen().len(), 0);
    for method in [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH",
    ] {
        let request = Request::builder().method(method).uri("/dev/github/");
        assert_eq!(
            pair.injector.send(request, "").await.status(),
            StatusCode::OK,
            "{method}"
        );
        assert_eq!(
            upstream.last().method,
            Method::from_bytes(method.as_bytes()).unwrap()
        );
    }
    pair.stop().await;
}

#[tokio::test]
async fn methods_that_are_not_for_the_upstream_are_refused_over_http2() {
    let upstream = Upstream::start().await;
    let pair = github(&upstream).await;
    let request = |method: &str| frames::request(method, "/dev/github/");
    let connect = [field(":method", "CONNECT"), field(":authority", "127.0.0.1:80")].concat();
    // Extended CONNECT (RFC 8441), which the injector does not offer.
    let extended = [request("CONNECT"), field(":protocol", "websocket")].concat();
    for (what, head) in [
        ("TRACE", request("TRACE")),
        ("get", request("get")),
        ("PRI", request("PRI")),
        ("CONNECT", connect),
        ("CONNECT with a path", request("CONNECT")),
        ("extended CONNECT", extended),
    ] {
        let mut connection = frames::connect(pair.injector.data_plane).await;
        let call = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head);
        connection.write_all(&call).await.unwrap();
        let refused = loop {
            match frames::read(&mut connection).await {
                // A malformed head gets no response: its stream is reset.
                Ok(frame) if frame.kind == RST_STREAM || frame.kind == GOAWAY => break true,
                Ok(frame) if frame.kind == HEADERS => break frame.payload[0] != STATUS_200,
                Ok(_) => {}
                Err(_) => break true,
            }
        };
        assert!(refused, "{what}");
    }
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

#[tokio::test]
async fn a_reason_header_of_the_upstream_is_removed() {
    let upstream = Upstream::answering(|_| {
        let response = Response::builder()
            .status(502)
            .header("x-aerostack-reason", "VAULT_UNAVAILABLE");
        response
            .header("X-Aerostack-Other", "1")
            .header("x-mine", "1")
            .body(Full::from("theirs"))
            .unwrap()
    })
    .await;
    let pair = github(&upstream).await;
    let response = pair.injector.get("/dev/github/").await;
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (502, &b"theirs"[..])
    );
    let ours = response
        .headers()
        .keys()
        .filter(|name| name.as_str().starts_with("x-aerostack"));
    assert_eq!(ours.collect::<Vec<_>>(), ["x-aerostack-call-id"]);
    assert_eq!(response.headers()["x-mine"], "1");
    pair.stop().await;
}
