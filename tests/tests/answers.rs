//! What an upstream's answer tells the program of where things are.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

use std::net::SocketAddr;

use e2e::{
    Pair, Upstream,
    pair::{send, server},
};
use http::{Request, Response, request::Builder};
use http_body_util::Full;

/// The ways in which a request names the server `dev/api`: the address to send it to, the header `Host`, further
/// headers, and the part of the path that names the server.
fn namings(pair: &Pair) -> [(SocketAddr, &'static str, bool, &'static str); 4] {
    let shared = pair.injector.data_plane;
    [
        (shared, "localhost:7100", false, "/dev/api"),
        (shared, "api.dev.localhost:7100", false, ""),
        (shared, "localhost:7100", true, ""),
        (pair.injector.dedicated[0], "localhost:7101", false, ""),
    ]
}

/// A pair with a listener of its own for the server `dev/api`.
async fn pair() -> Pair {
    let dedicated = |settings: &mut injector_service::config::Settings| {
        settings.listen_server = vec!["127.0.0.1:0=dev/api".into()];
    };
    let pair = Pair::start_with(|_| {}, dedicated).await;
    pair.vault.workspace("dev").await;
    pair
}

/// An upstream that answers with the header, the status and the body that the request asks for.
async fn obedient() -> Upstream {
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
async fn urls_on_the_servers_own_host_lead_to_the_injector_in_every_way_of_naming() {
    let upstream = obedient().await;
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

/// The endpoint that the older MCP transport over server-sent events tells its client to post to.
#[tokio::test]
async fn the_endpoint_of_an_event_stream_leads_to_the_injector() {
    let upstream = obedient().await;
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
