//! The id of a call, which the injector sends to the program in the response, to the upstream, and to the vault.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::collections::HashSet;

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Upstream,
    pair::{send, server},
    pki,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::{
    CallId,
    injector::v1::{Protocol, Server},
    vault::v1::{DecryptRequest, decrypt_service_client::DecryptServiceClient},
};
use tokio::time::timeout;
use tonic::Code;

const CALL_ID: &str = "x-aerostack-call-id";

/// Returns the call id of a response, which must have exactly one.
fn call_id(headers: &HeaderMap) -> String {
    let ids: Vec<_> = headers.get_all(CALL_ID).iter().collect();
    assert_eq!(ids.len(), 1, "{headers:?}");
    CallId::parse(ids[0].to_str().unwrap()).unwrap().to_string()
}

/// Starts a pair with the server `dev/api`, whose upstream responds with a call id of its own.
async fn scene() -> (Pair, Upstream) {
    let upstream = Upstream::answering(|_| {
        let answer = Response::builder().header(CALL_ID, "of-the-upstream");
        answer.body(Full::from("ok")).unwrap()
    })
    .await;
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", "value").await;
    let api = Server {
        allowed_origins: vec!["https://page.example".into()],
        ..server("dev", "api", &upstream.url(), &["TOKEN"])
    };
    pair.injector.add(api).await;
    (pair, upstream)
}

async fn http2(pair: &Pair, request: http::request::Builder) -> Response<Bytes> {
    let mut request = request.body(Full::new(Bytes::new())).unwrap();
    *request.uri_mut() = pair.injector.url(request.uri().path()).parse().unwrap();
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    let answer = timeout(PATIENCE, client.request(request)).await.unwrap().unwrap();
    let (parts, body) = answer.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

fn grpc(path: &str, server: &str) -> http::request::Builder {
    Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", server)
}

#[tokio::test]
async fn response_and_upstream_get_the_same_id_which_differs_between_calls() {
    let (pair, upstream) = scene().await;
    let mut ids = HashSet::new();
    for _ in 0..5 {
        let answer = pair.injector.get("/dev/api/").await;
        assert_eq!(answer.status(), StatusCode::OK);
        let id = call_id(answer.headers());
        assert_eq!(upstream.last().header("x-request-id"), Some(id.as_str()));
        ids.insert(id);
    }
    assert_eq!(ids.len(), 5);
    pair.stop().await;
}

#[tokio::test]
async fn a_request_id_of_the_program_is_forwarded_and_a_call_id_of_the_program_is_not() {
    let (pair, upstream) = scene().await;
    let request = Request::get("/dev/api/")
        .header("x-request-id", "mine")
        .header(CALL_ID, "forged");
    let answer = send(pair.injector.data_plane, request, "").await;
    assert_eq!(upstream.last().header("x-request-id"), Some("mine"));
    assert_eq!(upstream.last().header(CALL_ID), None);
    assert!(!["mine", "forged"].contains(&call_id(answer.headers()).as_str()));
    // `Connection` removes this request id, so the injector writes one.
    let request = Request::get("/dev/api/")
        .header("connection", "x-request-id")
        .header("x-request-id", "mine");
    let answer = send(pair.injector.data_plane, request, "").await;
    let id = call_id(answer.headers());
    assert_eq!(upstream.last().header("x-request-id"), Some(id.as_str()));
    pair.stop().await;
}

#[tokio::test]
async fn responses_of_the_injector_itself_have_a_call_id() {
    let (pair, upstream) = scene().await;
    let absent = pair.injector.get("/dev/absent/").await;
    assert_eq!(absent.status(), StatusCode::NOT_FOUND);
    let problem: serde_json::Value = serde_json::from_slice(absent.body()).unwrap();
    assert_eq!(problem["call_id"], call_id(absent.headers()));
    let preflight = Request::builder()
        .method(Method::OPTIONS)
        .uri("/dev/api/")
        .header("origin", "https://page.example")
        .header("access-control-request-method", "POST");
    let preflight = send(pair.injector.data_plane, preflight, "").await;
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    call_id(preflight.headers());
    let refused = http2(&pair, grpc("/x.Y/Z", "absent")).await;
    assert_eq!(refused.headers()["grpc-status"], "5");
    call_id(refused.headers());
    assert!(upstream.seen().is_empty());
    pair.stop().await;
}

#[tokio::test]
async fn a_grpc_response_has_a_call_id() {
    let (pair, upstream) = scene().await;
    let over_http2 = Server {
        protocol: Protocol::Http2.into(),
        ..server("dev", "grpc", &upstream.url(), &["TOKEN"])
    };
    pair.injector.add(over_http2).await;
    let answer = http2(&pair, grpc("/x.Y/Z", "grpc")).await;
    let id = call_id(answer.headers());
    assert_eq!(upstream.last().header("x-request-id"), Some(id.as_str()));
    pair.stop().await;
}

#[tokio::test]
async fn the_vault_refuses_an_invalid_call_id() {
    let (pair, _upstream) = scene().await;
    let mut vault = DecryptServiceClient::new(pair.vault.channel(pki::INJECTOR));
    for (id, code) in [("", None), ("a-1", None), ("a b", Some(Code::InvalidArgument))] {
        let request = DecryptRequest {
            workspace: "dev".into(),
            names: vec!["TOKEN".into()],
            call_id: id.into(),
            ..Default::default()
        };
        let refused = vault.decrypt(request).await.err();
        assert_eq!(refused.map(|status| status.code()), code, "{id:?}");
    }
    pair.stop().await;
}
