//! Responses of upstreams: URLs lead to the injector, and challenges for injected credentials do not reach the program.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

use std::net::SocketAddr;

use bytes::Bytes;
use e2e::{
    Pair, Upstream,
    pair::{get, send, server},
};
use http::{Request, Response, request::Builder};
use http_body_util::Full;
use proto::injector::v1::{AuthType, Injection, JsonPlacement, Oauth, Server, injection::Placement};
use serde_json::json;

/// Returns the ways in which a request can name the server `dev/api`: the address, the `Host` header, whether further
/// headers name the server, and the prefix of the path.
fn namings(pair: &Pair) -> [(SocketAddr, &'static str, bool, &'static str); 4] {
    let shared = pair.injector.data_plane;
    [
        (shared, "localhost:7100", false, "/dev/api"),
        (shared, "api.dev.localhost:7100", false, ""),
        (shared, "localhost:7100", true, ""),
        (pair.injector.dedicated[0], "localhost:7101", false, ""),
    ]
}

/// Starts a pair with a dedicated listener for the server `dev/api`.
async fn pair() -> Pair {
    let dedicated = |settings: &mut injector_service::config::Settings| {
        settings.listen_server = vec!["127.0.0.1:0=dev/api".into()];
    };
    let pair = Pair::start_with(|_| {}, dedicated).await;
    pair.vault.workspace("dev").await;
    pair
}

/// Starts an upstream that answers with the header, status and body that the request asks for.
async fn scripted_upstream() -> Upstream {
    Upstream::answering(|seen| {
        let answer = Response::builder().status(seen.header("x-status").unwrap_or("200"));
        let answer = match (seen.header("x-name"), seen.header("x-value")) {
            (Some(name), Some(value)) => answer.header(name, value),
            _ => answer,
        };
        answer.body(Full::from(seen.body.clone())).unwrap()
    })
    .await
}

fn by_header(request: Builder, named: bool) -> Builder {
    if !named {
        return request;
    }
    request
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "api")
}

#[tokio::test]
async fn urls_on_the_host_of_the_server_lead_to_the_injector() {
    let upstream = scripted_upstream().await;
    let (pair, own) = (pair().await, upstream.url());
    pair.injector
        .add(server("dev", "api", &format!("{own}/v1"), &[]))
        .await;
    let elsewhere = "https://elsewhere.example/v1/b";
    for (address, host, named, prefix) in namings(&pair) {
        let injector = format!("http://{host}{prefix}");
        for (name, value, expected) in [
            ("location", format!("{own}/v1/b?q#f"), format!("{injector}/b?q#f")),
            ("location", "/v1/b".into(), format!("{prefix}/b")),
            ("location", "b".into(), format!("{prefix}/a/b")),
            ("location", format!("{own}/v2/b"), format!("{own}/v2/b")),
            ("location", elsewhere.into(), elsewhere.into()),
            ("content-location", format!("{own}/v1/b"), format!("{injector}/b")),
            (
                "operation-location",
                format!("{own}/v1/b"),
                format!("{injector}/b"),
            ),
            (
                "azure-asyncoperation",
                format!("{own}/v1/b"),
                format!("{injector}/b"),
            ),
            ("sourcemap", "x.map".into(), format!("{prefix}/a/x.map")),
            ("uri", format!("<{own}/v1/b>"), format!("<{injector}/b>")),
            (
                "refresh",
                format!("5; url={own}/v1/b"),
                format!("5; url={injector}/b"),
            ),
            (
                "link",
                format!("<{own}/v1/r?page=2>; rel=\"next\", <{elsewhere}>; rel=\"help\""),
                format!("<{injector}/r?page=2>; rel=\"next\", <{elsewhere}>; rel=\"help\""),
            ),
        ] {
            let request = Request::get(format!("{prefix}/a/x"));
            let request = by_header(request.header("host", host), named);
            let request = request.header("x-name", name).header("x-value", &value);
            let answer = send(address, request, "").await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()[name], expected, "{host}{prefix} {name}: {value}");
        }
    }
    pair.stop().await;
}

/// The older MCP transport tells its client the endpoint for messages by a server-sent event.
#[tokio::test]
async fn the_endpoint_of_an_event_stream_leads_to_the_injector() {
    let upstream = scripted_upstream().await;
    let (pair, own) = (pair().await, upstream.url());
    pair.injector
        .add(server("dev", "api", &format!("{own}/v1"), &[]))
        .await;
    let events = |endpoint: &str| {
        format!(
            ": hello\r\n\r\nevent: endpoint\r\ndata: {endpoint}\r\n\r\nevent: message\ndata: /v1/messages\n\n"
        )
    };
    for (address, host, named, prefix) in namings(&pair) {
        for (endpoint, moved) in [
            ("/v1/messages?session=1", format!("{prefix}/messages?session=1")),
            ("messages", format!("{prefix}/messages")),
            (
                &format!("{own}/v1/messages"),
                format!("http://{host}{prefix}/messages"),
            ),
            ("https://elsewhere.example/", "https://elsewhere.example/".into()),
        ] {
            for (content_type, expected) in [
                ("text/event-stream; charset=utf-8", events(&moved)),
                ("text/plain", events(endpoint)),
            ] {
                let request = Request::get(format!("{prefix}/sse")).header("host", host);
                let request = by_header(request, named);
                let request = request
                    .header("x-name", "content-type")
                    .header("x-value", content_type);
                let answer = send(address, request, events(endpoint)).await;
                assert_eq!(answer.status(), 200);
                assert_eq!(
                    String::from_utf8_lossy(answer.body()),
                    expected,
                    "{host}{prefix} {endpoint}"
                );
            }
        }
    }
    pair.stop().await;
}

/// Returns the status, the reason and the challenge of a response.
fn challenge_of(answer: &Response<Bytes>) -> (u16, &str, &str) {
    let header = |name| {
        let value = answer.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap())
    };
    (
        answer.status().as_u16(),
        header("x-aerostack-reason"),
        header("www-authenticate"),
    )
}

fn challenged(path: &str, status: &str) -> Builder {
    Request::post(path)
        .header("x-status", status)
        .header("x-name", "www-authenticate")
        .header("x-value", "Bearer realm=\"theirs\"")
}

const REJECTED: (u16, &str, &str) = (502, "UPSTREAM_REJECTED_CREDENTIAL", "");

#[tokio::test]
async fn a_challenge_for_the_injected_credential_does_not_reach_the_program() {
    let upstream = scripted_upstream().await;
    let pair = pair().await;
    pair.vault.put("dev", "TOKEN", "tok-1").await;
    for (name, auth_type, secrets) in [
        ("bearer", AuthType::Bearer, &["TOKEN"][..]),
        ("headers", AuthType::SecretHeaders, &["TOKEN", "GONE"]),
        ("skill", AuthType::Skill, &["TOKEN"]),
    ] {
        let described = Server {
            auth_type: auth_type.into(),
            ..server("dev", name, &upstream.url(), secrets)
        };
        pair.injector.add(described).await;
        let path = format!("/dev/{name}/x");
        let request = || challenged(&path, "401").header("content-type", "application/json");
        let answer = pair.injector.send(request(), "{}").await;
        assert_eq!(challenge_of(&answer), REJECTED, "{name}");
        let problem: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("TOKEN") && detail.contains("401"), "{detail}");
        assert_eq!(detail.contains("GONE"), name == "headers", "{detail}");
        assert!(!detail.contains("tok-1"), "{detail}");
        // Other responses pass without the challenge, which the program could not answer.
        let request = challenged(&path, "403").header("content-type", "application/json");
        let answer = pair.injector.send(request, "{}").await;
        assert_eq!(challenge_of(&answer), (403, "", ""), "{name}");
    }
    assert_eq!(upstream.seen().len(), 6);
    let page = get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let page = String::from_utf8_lossy(page.body()).into_owned();
    for name in ["bearer", "headers", "skill"] {
        let server = format!("{{workspace=\"dev\",server=\"{name}\"");
        let rejected =
            format!("calls_total{server},outcome=\"UPSTREAM_REJECTED_CREDENTIAL\",status_class=\"5xx\"}} 1");
        assert!(page.contains(&rejected), "{page}");
        assert!(
            page.contains(&format!("injected_secrets_total{server}}} 2")),
            "{page}"
        );
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_rejected_credential_of_a_grpc_call_is_reported_in_its_status() {
    let upstream = scripted_upstream().await;
    let pair = pair().await;
    pair.vault.put("dev", "TOKEN", "tok-1").await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    let request = challenged("/dev/api/pkg.S/M", "401").header("content-type", "application/grpc");
    let answer = pair.injector.send(request, "").await;
    assert_eq!(challenge_of(&answer), (200, "UPSTREAM_REJECTED_CREDENTIAL", ""));
    assert_eq!(answer.headers()["grpc-status"], "9");
    pair.stop().await;
}

#[tokio::test]
async fn a_challenge_for_the_programs_own_credential_is_passed_on() {
    let upstream = scripted_upstream().await;
    let pair = pair().await;
    pair.vault.put("dev", "TOKEN", "tok-1").await;
    pair.injector
        .add(server("dev", "none", &upstream.url(), &[]))
        .await;
    pair.injector
        .add(server("dev", "headers", &upstream.url(), &["TOKEN"]))
        .await;
    pair.injector
        .add(Server {
            oauth: Oauth::Pass.into(),
            ..server("dev", "pass", &upstream.url(), &["TOKEN"])
        })
        .await;
    let own = challenged("/dev/headers/x", "401").header("authorization", "Bearer mine");
    let none = challenged("/dev/none/x", "401");
    for request in [none, own, challenged("/dev/pass/x", "401")] {
        let answer = pair.injector.send(request, "theirs").await;
        assert_eq!(challenge_of(&answer), (401, "", "Bearer realm=\"theirs\""));
        assert_eq!(answer.body(), "theirs");
    }
    pair.stop().await;
}

/// Starts an MCP server at `/mcp` that requires OAuth and serves the OAuth metadata.
async fn with_oauth() -> Upstream {
    Upstream::answering(|seen| {
        let own = format!("http://{}", seen.host);
        let metadata = "/.well-known/oauth-protected-resource/mcp";
        let (status, document) = match seen.target.as_str() {
            "/.well-known/oauth-protected-resource/mcp" => {
                let servers = [format!("{own}/auth")];
                let document = json!({"resource": format!("{own}/mcp"), "authorization_servers": servers});
                (200, document)
            }
            "/.well-known/oauth-authorization-server/mcp" => (200, json!({"issuer": own})),
            "/mcp" => (401, json!({})),
            _ => (404, json!({})),
        };
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header(
                "www-authenticate",
                format!("Bearer scope=\"a\", resource_metadata=\"{own}{metadata}\""),
            )
            .body(Full::from(document.to_string()))
            .unwrap()
    })
    .await
}

#[tokio::test]
async fn with_oauth_pass_a_client_discovers_the_injector() {
    let (upstream, pair) = (with_oauth().await, pair().await);
    pair.injector
        .add(Server {
            oauth: Oauth::Pass.into(),
            ..server("dev", "api", &format!("{}/mcp", upstream.url()), &[])
        })
        .await;
    let get = async |path: &str, (address, host, named, _): (SocketAddr, &str, bool, &str)| {
        let request = by_header(Request::get(path).header("host", host), named);
        send(address, request, "").await
    };
    for naming in namings(&pair) {
        let (_, host, _, prefix) = naming;
        let base = if prefix.is_empty() { "/" } else { prefix };
        let metadata = format!("/.well-known/oauth-protected-resource{prefix}");
        let challenge = format!("Bearer scope=\"a\", resource_metadata=\"http://{host}{metadata}\"");
        let demand = get(base, naming).await;
        assert_eq!(challenge_of(&demand), (401, "", challenge.as_str()));

        let document = get(&metadata, naming).await;
        assert_eq!(document.status(), 200, "{metadata}");
        let document: serde_json::Value = serde_json::from_slice(document.body()).unwrap();
        assert_eq!(document["resource"], format!("http://{host}{prefix}"));
        // The program and the user's browser call the authorization server directly.
        let servers = [format!("{}/auth", upstream.url())];
        assert_eq!(document["authorization_servers"], json!(servers));

        let path = format!("/.well-known/oauth-authorization-server{prefix}");
        let document = get(&path, naming).await;
        let own = upstream.url();
        assert_eq!(document.body(), json!({"issuer": own}).to_string().as_bytes());
    }
    pair.stop().await;
}

#[tokio::test]
async fn oauth_metadata_requests_get_no_secrets() {
    let (upstream, pair) = (scripted_upstream().await, pair().await);
    pair.vault.put("dev", "TOKEN", "tok-1").await;
    for (name, paths) in [("api", vec!["/run".into()]), ("all", Vec::new())] {
        pair.injector
            .add(Server {
                oauth: Oauth::Pass.into(),
                auth_type: AuthType::Skill.into(),
                paths,
                ..server("dev", name, &upstream.url(), &["TOKEN"])
            })
            .await;
    }
    for (path, has_secret) in [
        ("/dev/api/run", true),
        ("/.well-known/oauth-protected-resource/dev/api/run", false),
        ("/.well-known/x-aerostack-resource-metadata/dev/api/run", false),
        ("/dev/all/run", true),
        ("/.well-known/oauth-protected-resource/dev/all/run", false),
        ("/.well-known/x-aerostack-resource-metadata/dev/all/run", false),
    ] {
        let (method, body) = if has_secret { ("POST", "{}") } else { ("GET", "") };
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        assert_eq!(pair.injector.send(request, body).await.status(), 200, "{path}");
        let body = upstream.last().body;
        assert_eq!(
            String::from_utf8_lossy(&body).contains("tok-1"),
            has_secret,
            "{path}"
        );
    }
    pair.stop().await;
}

#[tokio::test]
async fn oauth_metadata_is_only_read_and_never_a_way_around_a_required_secret() {
    let (upstream, pair) = (scripted_upstream().await, pair().await);
    let placement = JsonPlacement {
        pointer: "/token".into(),
        value: "${TOKEN}".into(),
    };
    pair.injector
        .add(Server {
            oauth: Oauth::Pass.into(),
            injections: vec![Injection {
                required: true,
                placement: Some(Placement::Json(placement)),
            }],
            ..server("dev", "api", &upstream.url(), &[])
        })
        .await;
    let json = ("content-type", "application/json");
    let mine = r#"{"token":"mine"}"#;
    let read = upstream.seen().len();
    for document in [
        "oauth-protected-resource",
        "x-aerostack-resource-metadata",
        "oauth-authorization-server",
        "openid-configuration",
    ] {
        let path = format!("/.well-known/{document}/dev/api/run");
        for (method, header, body, status, reason) in [
            ("POST", json, mine, 405, "METHOD_REFUSED"),
            ("PUT", json, mine, 405, "METHOD_REFUSED"),
            ("DELETE", json, "", 405, "METHOD_REFUSED"),
            ("OPTIONS", json, "", 405, "METHOD_REFUSED"),
            ("GET", json, mine, 405, "METHOD_REFUSED"),
            ("GET", ("upgrade", "websocket"), "", 405, "METHOD_REFUSED"),
            ("GET", ("accept", "application/json"), "", 200, ""),
            ("HEAD", ("accept", "application/json"), "", 200, ""),
        ] {
            let mut request = Request::builder()
                .method(method)
                .uri(&path)
                .header(header.0, header.1);
            if header.0 == "upgrade" {
                request = request.header("connection", "upgrade");
            }
            let answer = pair.injector.send(request, body).await;
            let answered = answer.headers().get("x-aerostack-reason");
            let answered = answered.map_or("", |reason| reason.to_str().unwrap());
            assert_eq!(
                (answer.status().as_u16(), answered),
                (status, reason),
                "{method} {path}"
            );
        }
    }
    assert_eq!(upstream.seen().len(), read + 8);
    assert!(upstream.seen().iter().all(|seen| seen.body.is_empty()));
    pair.stop().await;
}

#[tokio::test]
async fn without_oauth_pass_oauth_metadata_paths_are_ordinary_paths() {
    let (upstream, pair) = (with_oauth().await, pair().await);
    pair.injector
        .add(server("dev", "api", &format!("{}/mcp", upstream.url()), &[]))
        .await;
    let metadata = "/.well-known/oauth-protected-resource";
    let by_path = pair.injector.get(&format!("{metadata}/dev/api")).await;
    assert_eq!(challenge_of(&by_path).1, "SERVER_NOT_FOUND");
    let listener = pair.injector.dedicated[0];
    let dedicated = send(listener, Request::get(metadata), "").await;
    assert_eq!(dedicated.status(), 404);
    assert_eq!(upstream.last().target, format!("/mcp{metadata}"));
    pair.stop().await;
}
