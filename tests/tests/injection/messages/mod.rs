//! Secrets in the messages of gRPC calls.

mod broken;
mod entries;
mod kinds;
mod peer;
mod refused;
mod wire;

use std::{convert::Infallible, io};

use bytes::Bytes;
use e2e::{PATIENCE, Pair, Seen, Upstream, eventually, pair::server};
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::injector::v1::{AuthType, ProtobufMessages, Server};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The number of the field that gets secrets in the tests' messages.
const FIELD: u32 = 7;
/// `TOKEN` with the value `v-1`, as an entry of that field.
const TOKEN: &[u8] = b"\x3a\x0c\x0a\x05TOKEN\x12\x03v-1";

/// Returns the server `dev/skill`, which gets `TOKEN` in its messages.
fn skill(url: &str, messages: ProtobufMessages) -> Server {
    Server {
        auth_type: AuthType::Skill.into(),
        protobuf_secrets_field: FIELD,
        protobuf_messages: messages.into(),
        grpc_methods: vec!["e2e.Probe/*".into()],
        ..server("dev", "skill", url, &["TOKEN"])
    }
}

/// Starts an upstream that records requests and answers them as a gRPC service does.
async fn recording() -> Upstream {
    Upstream::answering(|_| {
        Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "0")
            .body(Full::default())
            .unwrap()
    })
    .await
}

/// Starts a pair whose `TOKEN` is `v-1`, and an upstream that records the requests of `dev/skill`.
async fn recorded(messages: ProtobufMessages) -> (Pair, Upstream) {
    let upstream = recording().await;
    let pair = super::dev(&[("TOKEN", "v-1")]).await;
    pair.injector.add(skill(&upstream.url(), messages)).await;
    (pair, upstream)
}

/// Returns a message in its gRPC frame.
fn framed(flag: u8, message: impl AsRef<[u8]>) -> Vec<u8> {
    let message = message.as_ref();
    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &len, message].concat()
}

type Sent = UnsyncBoxBody<Bytes, io::Error>;

/// Returns a body of these chunks.
fn chunks(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Sent {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

fn whole(body: impl Into<Bytes>) -> Sent {
    Full::new(body.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// Calls `dev/skill` without a gRPC library, with the given headers.
async fn begin(pair: &Pair, headers: &[(&str, &str)], body: Sent) -> Response<Incoming> {
    let request = Request::post(pair.injector.url("/e2e.Probe/Any"))
        .header("te", "trailers")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "skill");
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    timeout(PATIENCE, client.request(request.body(body).unwrap()))
        .await
        .expect("the call was never answered")
        .unwrap()
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// Calls `dev/skill`, and returns the status and the headers of the response.
async fn call(pair: &Pair, headers: &[(&str, &str)], body: Sent) -> (Status, HeaderMap) {
    let (head, body) = begin(pair, headers, body).await.into_parts();
    let body = timeout(PATIENCE, body.collect()).await.unwrap().unwrap();
    let status = Status::from_header_map(&head.headers);
    let status = status.or_else(|| Status::from_header_map(body.trailers()?));
    (status.expect("no status came"), head.headers)
}

fn refused(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    assert!(!format!("{status:?}").contains("v-1"), "{status:?}");
    (status.code(), info.map(|info| info.reason).unwrap_or_default())
}

/// Waits for `count` requests, and returns the last one.
async fn seen(upstream: &Upstream, count: usize) -> Seen {
    eventually("the upstream was called", async || upstream.seen().len() >= count).await;
    assert_eq!(upstream.seen().len(), count);
    upstream.last()
}

fn one_by_one(bytes: Vec<u8>) -> Sent {
    let bytes = bytes.into_iter().map(|byte| Ok(Bytes::from(vec![byte])));
    chunks(stream::iter(bytes))
}
