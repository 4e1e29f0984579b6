//! Callers that identify themselves by a token.

use e2e::{Upstream, eventually, pair::get, raw};
use http::{Request, Version};
use tokio::net::TcpStream;

use super::{CI, Tokens, WEB, comparable, get_with, log::Log, outcome, over_http2, pair, with_token};

#[tokio::test]
async fn a_caller_reaches_its_servers_and_a_refusal_does_not_show_which_others_exist() {
    let (upstream, tokens) = (Upstream::start().await, Tokens::new());
    let pair = pair(&upstream, |settings| tokens.configure(settings)).await;
    let address = pair.injector.data_plane;
    for (path, token, expected) in [
        ("/dev/api/", Some(CI), (200, "")),
        ("/dev/api/", None, (401, "UNAUTHENTICATED")),
        ("/dev/api/", Some("wrong"), (401, "UNAUTHENTICATED")),
        ("/dev/api/", Some(""), (401, "UNAUTHENTICATED")),
        ("/dev/api/", Some(WEB), (403, "PERMISSION_DENIED")),
        ("/dev/other/", Some(CI), (403, "PERMISSION_DENIED")),
        ("/web/none/", Some(WEB), (404, "SERVER_NOT_FOUND")),
        ("/none", Some(CI), (404, "SERVER_NOT_FOUND")),
        ("/dev/none/", None, (401, "UNAUTHENTICATED")),
    ] {
        let answer = get_with(address, path, token).await;
        assert_eq!(outcome(&answer), expected, "{path} {token:?}");
        let challenge = answer
            .headers()
            .get("www-authenticate")
            .map(|value| value.as_bytes());
        assert_eq!(
            challenge,
            (expected.0 == 401).then_some(&b"Aerostack-Token"[..]),
            "{path} {token:?}"
        );
    }
    assert_eq!(upstream.seen().len(), 1, "only the permitted call was forwarded");
    // A server that exists, one that does not, and a workspace that does not, in every way of naming them.
    for token in [Some(CI), None, Some("wrong")] {
        let mut answers = Vec::new();
        for path in ["/dev/other/x", "/dev/none/x", "/nowhere/none/x"] {
            answers.push(comparable(&get_with(address, path, token).await));
        }
        for (workspace, server) in [("dev", "other"), ("dev", "none"), ("nowhere", "none")] {
            let by_headers = with_token("/x", token)
                .header("x-aerostack-workspace", workspace)
                .header("x-aerostack-server", server);
            let answer = pair.injector.send(by_headers, "").await;
            answers.push(comparable(&answer));
            let by_host = with_token("/x", token).header("host", format!("{server}.{workspace}.localhost"));
            let stream = TcpStream::connect(address).await.unwrap();
            answers.push(comparable(&super::over_http1_to(stream, by_host).await));
        }
        assert!(
            answers.windows(2).all(|two| two[0] == two[1]),
            "{token:?}: {answers:#?}"
        );
    }
    pair.stop().await;
}

#[tokio::test]
async fn the_token_is_in_no_request_log_or_metric_and_the_caller_is_only_in_the_log() {
    let log = Log::captured();
    let (upstream, tokens) = (Upstream::start().await, Tokens::new());
    let pair = pair(&upstream, |settings| tokens.configure(settings)).await;
    assert_eq!(
        get_with(pair.injector.data_plane, "/dev/api/", Some(CI))
            .await
            .status(),
        200
    );
    assert_eq!(
        get_with(pair.injector.data_plane, "/dev/other/", Some(CI))
            .await
            .status(),
        403
    );
    let stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let request = with_token("http://localhost/dev/api/", Some(CI));
    assert_eq!(over_http2(stream, request).await.status(), 200);
    for seen in upstream.seen() {
        assert!(
            seen.headers
                .keys()
                .all(|name| !name.as_str().contains("aerostack")),
            "{seen:?}"
        );
        assert!(seen.headers.values().all(|value| value != CI), "{seen:?}");
    }
    let metrics = get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    let refused = "outcome=\"PERMISSION_DENIED\"";
    let counted = metrics.lines().find(|line| line.contains(refused)).unwrap();
    assert!(counted.contains("workspace=\"\",server=\"\""), "{counted}");
    assert!(
        !metrics.contains("cAnArY") && !metrics.contains("token:ci"),
        "{metrics}"
    );
    pair.stop().await;
    let log = log.text();
    let leaking: Vec<_> = log.lines().filter(|line| line.contains("cAnArY")).collect();
    assert!(leaking.is_empty(), "{leaking:#?}");
    let lines = |message: &str| {
        let of_caller = |line: &&str| line.contains(message) && line.contains("caller=token:ci");
        log.lines().filter(of_caller).count()
    };
    assert!(
        lines("call forwarded") >= 2 && lines("call refused") >= 1,
        "{log}"
    );
}

#[tokio::test]
async fn a_doubled_or_misspelt_token_identifies_nobody() {
    let (upstream, tokens) = (Upstream::start().await, Tokens::new());
    let pair = pair(&upstream, |settings| tokens.configure(settings)).await;
    let doubled = with_token("/dev/api/", Some(CI)).header("x-aerostack-token", CI);
    let answer = pair.injector.send(doubled, "").await;
    assert_eq!(outcome(&answer), (400, "REQUEST_MALFORMED"));
    let stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let doubled = with_token("http://localhost/dev/api/", Some(WEB)).header("x-aerostack-token", CI);
    assert_eq!(
        outcome(&over_http2(stream, doubled).await),
        (400, "REQUEST_MALFORMED")
    );
    for (name, value) in [
        ("x_aerostack_token", CI.to_owned()),
        ("x-aerostack.token", CI.to_owned()),
        ("x-aerostack-tokens", CI.to_owned()),
        ("authorization", format!("Bearer {CI}")),
        ("x-aerostack-token", format!("Bearer {CI}")),
        ("x-aerostack-token", format!("{CI}, {CI}")),
        ("x-aerostack-token", format!("{CI} x")),
    ] {
        let answer = pair
            .injector
            .send(Request::get("/dev/api/").header(name, &value), "")
            .await;
        assert_eq!(outcome(&answer), (401, "UNAUTHENTICATED"), "{name}: {value}");
    }
    // A token in trailers comes after the decision.
    let late = format!(
        "POST /dev/api/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         0\r\nx-aerostack-token: {CI}\r\n\r\n"
    );
    let answer = raw::exchange(pair.injector.data_plane, late).await;
    assert_eq!(raw::status(&answer), 401, "{answer}");
    // Beside a right token, the misspelt ones are removed.
    let both = with_token("/dev/api/", Some(CI)).header("x_aerostack_token", "other");
    assert_eq!(pair.injector.send(both, "").await.status(), 200);
    assert!(
        upstream
            .last()
            .headers
            .keys()
            .all(|name| !name.as_str().contains("aerostack"))
    );
    assert_eq!(upstream.seen().len(), 1);
    pair.stop().await;
}

#[tokio::test]
async fn a_token_is_replaced_while_calls_are_served() {
    const NEW: &str = "new-0123456789abcdef0123456789abcdef";
    let (upstream, tokens) = (Upstream::start().await, Tokens::new());
    let pair = pair(&upstream, |settings| tokens.configure(settings)).await;
    let status = async |token| {
        get_with(pair.injector.data_plane, "/dev/api/", Some(token))
            .await
            .status()
            .as_u16()
    };
    assert_eq!((status(CI).await, status(NEW).await), (200, 401));
    tokens.replace("ci", NEW);
    eventually("the new token counts", async || {
        let (old, new) = (status(CI).await, status(NEW).await);
        // The file may be replaced between the two calls, so both may be answered. One of the two tokens counts at every moment.
        assert!(
            [(200, 401), (401, 200), (200, 200)].contains(&(old, new)),
            "{old} {new}"
        );
        (old, new) == (401, 200)
    })
    .await;
    // An empty file withdraws the token.
    tokens.replace("ci", "");
    eventually("no token counts", async || status(NEW).await == 401).await;
    tokens.replace("ci", CI);
    eventually("the first token counts again", async || status(CI).await == 200).await;
    pair.stop().await;
}

#[tokio::test]
async fn grpc_callers_get_a_grpc_status() {
    let (upstream, tokens) = (Upstream::start().await, Tokens::new());
    let pair = pair(&upstream, |settings| tokens.configure(settings)).await;
    for (server, token, code, reason) in [
        ("api", None, "16", "UNAUTHENTICATED"),
        ("api", Some("wrong"), "16", "UNAUTHENTICATED"),
        ("other", Some(CI), "7", "PERMISSION_DENIED"),
        ("none", Some(CI), "7", "PERMISSION_DENIED"),
    ] {
        let stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let mut call = with_token("http://localhost/package.Service/Method", token)
            .method("POST")
            .header("content-type", "application/grpc")
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", server);
        call = call.header("te", "trailers");
        let answer = over_http2(stream, call).await;
        assert_eq!(outcome(&answer), (200, reason), "{server} {token:?}");
        assert_eq!(answer.headers()["grpc-status"], code, "{server} {token:?}");
        assert!(!answer.headers().contains_key("www-authenticate"));
    }
    // The permitted call reaches the upstream, which speaks HTTP/2 and no gRPC.
    let stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let call = with_token("http://localhost/package.Service/Method", Some(CI))
        .method("POST")
        .header("content-type", "application/grpc")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "api");
    assert_eq!(over_http2(stream, call).await.status(), 200);
    assert_eq!(upstream.last().version, Version::HTTP_2);
    pair.stop().await;
}

#[tokio::test]
async fn a_token_does_not_open_the_data_plane_to_web_pages_or_foreign_hosts() {
    let (upstream, tokens) = (Upstream::start().await, Tokens::new());
    let pair = pair(&upstream, |settings| tokens.configure(settings)).await;
    for (name, value, expected) in [
        ("origin", "https://evil.example", (403, "BROWSER_REFUSED")),
        ("sec-fetch-site", "cross-site", (403, "BROWSER_REFUSED")),
        ("host", "evil.example", (421, "HOST_NOT_SERVED")),
    ] {
        let stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let mut request = with_token("/dev/api/", Some(CI)).header(name, value);
        if name != "host" {
            request = request.header("host", "localhost");
        }
        let answer = super::over_http1_to(stream, request).await;
        assert_eq!(outcome(&answer), expected, "{name}");
    }
    // A page that a server allows has to identify itself like every caller, and its preflight cannot.
    let page = with_token("/dev/api/", Some(CI)).header("origin", "https://app.example");
    assert_eq!(pair.injector.send(page, "").await.status(), 200);
    let preflight = Request::options("/dev/api/")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "GET");
    assert_eq!(
        outcome(&pair.injector.send(preflight, "").await),
        (401, "UNAUTHENTICATED")
    );
    // The status page answers everyone but web pages.
    assert_eq!(
        get_with(pair.injector.data_plane, "/-/status", None)
            .await
            .status(),
        200
    );
    let page = Request::get("/-/status").header("origin", "https://evil.example");
    assert_eq!(
        outcome(&pair.injector.send(page, "").await),
        (403, "BROWSER_REFUSED")
    );
    pair.stop().await;
}

#[tokio::test]
async fn a_listener_of_one_server_asks_for_the_caller_too() {
    let (upstream, tokens) = (Upstream::start().await, Tokens::new());
    let pair = pair(&upstream, |settings| {
        tokens.configure(settings);
        settings.listen_server = vec!["127.0.0.1:0=dev/api".into(), "127.0.0.1:0=dev/other".into()];
    })
    .await;
    for (listener, token, expected) in [
        (0, Some(CI), (200, "")),
        (0, None, (401, "UNAUTHENTICATED")),
        (0, Some(WEB), (403, "PERMISSION_DENIED")),
        (1, Some(CI), (403, "PERMISSION_DENIED")),
    ] {
        let answer = get_with(pair.injector.dedicated[listener], "/", token).await;
        assert_eq!(outcome(&answer), expected, "{listener} {token:?}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn without_callers_in_the_settings_a_token_is_only_removed() {
    let upstream = Upstream::start().await;
    let pair = pair(&upstream, |settings| {
        settings.listen_server = vec!["127.0.0.1:0=dev/api".into()];
    })
    .await;
    for (address, path) in [
        (pair.injector.data_plane, "/dev/api/"),
        (pair.injector.dedicated[0], "/"),
    ] {
        assert_eq!(get_with(address, path, Some("anything")).await.status(), 200);
        assert_eq!(upstream.last().header("x-aerostack-token"), None);
        let doubled = with_token(path, Some("a")).header("x-aerostack-token", "b");
        let answer = e2e::pair::send(address, doubled, "").await;
        assert_eq!(outcome(&answer), (400, "REQUEST_MALFORMED"));
    }
    pair.stop().await;
}
