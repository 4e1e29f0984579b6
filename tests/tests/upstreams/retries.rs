//! Retries: a request that an HTTP/2 upstream did not process is sent again, whole and with its secrets (RFC 9113,
//! section 8.7).

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Upstream,
    frames::{
        self, DATA, END_STREAM, HEADERS, INTERNAL_ERROR, NO_ERROR, PREFACE, SETTINGS, frame, go_away, reset,
    },
    pair::server,
};
use futures_util::{StreamExt as _, future::join_all, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::injector::v1::{
    AuthType, FormPlacement, HeaderPlacement, Injection, JsonPlacement, ProtobufPlacement, Protocol, Server,
    injection::Placement,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

const VALUE: &str = "canary-30e7-long-enough-to-be-masked";
const REFUSED_STREAM: u32 = 7;

async fn dev_with(edit: impl FnOnce(&mut injector_service::config::Settings)) -> Pair {
    let pair = Pair::start_with(|_| {}, edit).await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", VALUE).await;
    pair
}

/// An upstream whose first connections close without processing the first request on them. Further connections lead to
/// a server that responds.
struct ClosingUpstream {
    address: SocketAddr,
    made: Arc<AtomicUsize>,
    server: Upstream,
}

impl ClosingUpstream {
    /// Starts an upstream whose first `connections` connections send `farewell`: after the whole request when `whole` is
    /// true, and otherwise as soon as a part of the request was received.
    async fn start(connections: usize, farewell: Vec<u8>, whole: bool) -> Self {
        let server = Upstream::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, onward) = (listener.local_addr().unwrap(), server.address);
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let farewell = farewell.clone();
                match count.fetch_add(1, SeqCst) < connections {
                    true => drop(tokio::spawn(close_unprocessed(stream, farewell, whole))),
                    false => drop(tokio::spawn(forward(stream, onward))),
                }
            }
        });
        Self {
            address,
            made,
            server,
        }
    }

    fn connections(&self) -> usize {
        self.made.load(SeqCst)
    }
}

/// Reads the preface and the first request.
async fn read_request(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE.len()]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let frame = frames::read(stream).await?;
        if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
            return Ok(());
        }
    }
}

async fn close_unprocessed(mut stream: TcpStream, farewell: Vec<u8>, whole: bool) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE.len()]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let frame = frames::read(&mut stream).await?;
        let ended = frame.flags & END_STREAM != 0;
        if matches!(frame.kind, HEADERS | DATA) && (ended || (!whole && frame.kind == DATA)) {
            break;
        }
    }
    stream.write_all(&farewell).await?;
    // The connection stays open, so that only `farewell` reports that the request was not processed.
    while frames::read(&mut stream).await.is_ok() {}
    Ok(())
}

async fn forward(mut stream: TcpStream, onward: SocketAddr) -> io::Result<()> {
    let mut onward = TcpStream::connect(onward).await?;
    copy_bidirectional(&mut stream, &mut onward).await?;
    Ok(())
}

/// Returns all frames that report that stream 1 was not processed.
fn farewells() -> [(&'static str, Vec<u8>); 3] {
    [
        ("going away", go_away(0, NO_ERROR)),
        ("going away for an error", go_away(0, INTERNAL_ERROR)),
        ("refused", reset(1, REFUSED_STREAM)),
    ]
}

fn api(upstream: SocketAddr) -> Server {
    Server {
        protocol: Protocol::Http2.into(),
        ..server("dev", "api", &format!("http://{upstream}"), &["TOKEN"])
    }
}

fn skill(upstream: SocketAddr) -> Server {
    Server {
        auth_type: AuthType::Skill.into(),
        ..api(upstream)
    }
}

fn grpc_skill(upstream: SocketAddr) -> Server {
    Server {
        protobuf_secrets_field: 7,
        grpc_methods: vec!["e2e.Probe/*".into()],
        ..skill(upstream)
    }
}

type Sent = UnsyncBoxBody<Bytes, io::Error>;

fn pieces(pieces: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Sent {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

fn whole(body: &'static [u8]) -> Sent {
    pieces(stream::iter((!body.is_empty()).then(|| Bytes::from_static(body))))
}

async fn call(pair: &Pair, http2: bool, method: Method, content_type: &str, body: Sent) -> Response<Bytes> {
    let request = Request::builder()
        .method(method)
        .uri(pair.injector.url("/e2e.Probe/Any"))
        .header("content-type", content_type)
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "api");
    let client = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http();
    let answer = async {
        let response = client.request(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    };
    timeout(PATIENCE, answer).await.expect("no answer came")
}

#[tokio::test]
async fn a_request_that_was_not_processed_is_sent_again_whole() {
    let grpc = b"\0\0\0\0\x03\x0a\x01a";
    type Kind = (&'static str, fn(SocketAddr) -> Server, Method, &'static [u8]);
    let kinds: [Kind; 4] = [
        ("text/plain", api, Method::GET, b""),
        ("text/plain", api, Method::POST, b"hello"),
        ("application/json", skill, Method::POST, b"{\"a\":1}"),
        ("application/grpc", grpc_skill, Method::POST, grpc),
    ];
    let pair = dev_with(|_| {}).await;
    for (farewell, bytes) in farewells() {
        for (content_type, described, method, body) in kinds.clone() {
            for http2 in [false, true] {
                // gRPC requires HTTP/2.
                if content_type == "application/grpc" && !http2 {
                    continue;
                }
                let what = format!(
                    "{farewell}: {method} {content_type} over HTTP/{}",
                    1 + u8::from(http2)
                );
                let upstream = ClosingUpstream::start(2, bytes.clone(), true).await;
                pair.injector.add(described(upstream.address)).await;
                let response = call(&pair, http2, method.clone(), content_type, whole(body)).await;
                assert_eq!(response.status(), StatusCode::OK, "{what}");
                assert_eq!(upstream.connections(), 3, "{what}");
                let seen = upstream.server.seen();
                assert_eq!(seen.len(), 1, "{what}");
                assert!(seen[0].complete, "{what}");
                let token = seen[0].header("x-mcp-secret-token");
                match content_type {
                    "text/plain" => assert_eq!((token, &seen[0].body[..]), (Some(VALUE), body), "{what}"),
                    _ => {
                        let text = String::from_utf8_lossy(&seen[0].body);
                        assert_eq!((token, text.matches(VALUE).count()), (None, 1), "{what}");
                    }
                }
                pair.injector.remove("dev", "api").await;
            }
        }
    }
}

/// An upstream that refuses the first request once the test says so, and leads further connections to a server.
struct RefusingOnce {
    address: SocketAddr,
    server: Upstream,
    received: oneshot::Receiver<()>,
    refuse: oneshot::Sender<()>,
}

impl RefusingOnce {
    async fn start(farewell: Vec<u8>) -> Self {
        let server = Upstream::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, onward) = (listener.local_addr().unwrap(), server.address);
        let (arrived, received) = oneshot::channel();
        let (refuse, refused) = oneshot::channel();
        tokio::spawn(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            read_request(&mut first).await.unwrap();
            arrived.send(()).unwrap();
            refused.await.unwrap();
            first.write_all(&farewell).await.unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(forward(stream, onward));
            }
        });
        Self {
            address,
            server,
            received,
            refuse,
        }
    }
}

fn injection(placement: Placement) -> Injection {
    Injection {
        required: true,
        placement: Some(placement),
    }
}

/// Returns a server with the secret `TOKEN` in its URL, in a header, and in every kind of body.
fn everywhere(upstream: SocketAddr) -> Server {
    let value = || "v=${TOKEN}".to_owned();
    let (name, pointer, field) = ("x-key".to_owned(), "/a/token".to_owned(), "token".to_owned());
    let key = "token".to_owned();
    let placements = [
        Placement::Header(HeaderPlacement { name, value: value() }),
        Placement::Json(JsonPlacement {
            pointer,
            value: value(),
        }),
        Placement::Form(FormPlacement {
            field,
            value: value(),
        }),
        Placement::Protobuf(ProtobufPlacement {
            field: 7,
            key,
            value: value(),
        }),
    ];
    Server {
        protocol: Protocol::Http2.into(),
        injections: placements.map(injection).to_vec(),
        grpc_methods: vec!["e2e.Probe/*".into()],
        ..server(
            "dev",
            "api",
            &format!("http://{upstream}/in/${{TOKEN}}?key=${{TOKEN}}"),
            &[],
        )
    }
}

#[tokio::test]
async fn a_request_that_is_sent_again_has_the_values_of_that_time_in_every_place() {
    let pair = dev_with(|_| {}).await;
    for (farewell, bytes) in farewells() {
        for (content_type, body, expected) in [
            (
                "application/json",
                &b"{}"[..],
                br#"{"a":{"token":"v=new-value"}}"#.to_vec(),
            ),
            (
                "application/x-www-form-urlencoded",
                b"a=1",
                b"a=1&token=v%3Dnew-value".to_vec(),
            ),
            (
                "application/grpc",
                b"\0\0\0\0\x03\x0a\x01a",
                b"\0\0\0\0\x19\x0a\x01a\x3a\x14\x0a\x05token\x12\x0bv=new-value".to_vec(),
            ),
        ] {
            let what = format!("{farewell}, {content_type}");
            pair.vault.put("dev", "TOKEN", "old-value").await;
            let RefusingOnce {
                address,
                server,
                received,
                refuse,
            } = RefusingOnce::start(bytes.clone()).await;
            pair.injector.add(everywhere(address)).await;
            let rotating = async {
                timeout(PATIENCE, received).await.unwrap().unwrap();
                pair.vault.put("dev", "TOKEN", "new-value").await;
                refuse.send(()).unwrap();
            };
            let calling = call(&pair, true, Method::POST, content_type, whole(body));
            let (response, ()) = tokio::join!(calling, rotating);
            assert_eq!(response.status(), StatusCode::OK, "{what}: {response:?}");
            let seen = server.last();
            assert_eq!(seen.target, "/in/new-value/e2e.Probe/Any?key=new-value", "{what}");
            assert_eq!(seen.header("x-key"), Some("v=new-value"), "{what}");
            assert_eq!(
                String::from_utf8_lossy(&seen.body),
                String::from_utf8_lossy(&expected),
                "{what}"
            );
            pair.injector.remove("dev", "api").await;
        }
    }
}

#[tokio::test]
async fn a_partly_sent_body_is_sent_again_from_its_beginning() {
    let pair = dev_with(|_| {}).await;
    for (farewell, bytes) in farewells() {
        let upstream = ClosingUpstream::start(1, bytes, false).await;
        pair.injector.add(api(upstream.address)).await;
        let (more, rest) = mpsc::channel(1);
        let body = pieces(ReceiverStream::new(rest));
        let sending = async {
            more.send(Bytes::from_static(b"one, ")).await.unwrap();
            e2e::eventually("it is sent again", async || upstream.connections() == 2).await;
            more.send(Bytes::from_static(b"two")).await.unwrap();
            drop(more);
        };
        let (response, ()) = tokio::join!(call(&pair, true, Method::POST, "text/plain", body), sending);
        assert_eq!(response.status(), StatusCode::OK, "{farewell}");
        let seen = upstream.server.last();
        assert_eq!(
            (&seen.body[..], seen.complete),
            (&b"one, two"[..], true),
            "{farewell}"
        );
        pair.injector.remove("dev", "api").await;
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_to_keep_is_not_sent_again() {
    let pair = dev_with(|settings| settings.limits.max_buffered_body = "1KiB".to_owned()).await;
    for (farewell, bytes) in farewells() {
        let upstream = ClosingUpstream::start(1, bytes, true).await;
        pair.injector.add(api(upstream.address)).await;
        let body = pieces(stream::iter((0..3).map(|_| Bytes::from_static(&[b'x'; 1000]))));
        let response = call(&pair, true, Method::POST, "text/plain", body).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{farewell}");
        assert_eq!(
            response.headers()["x-aerostack-reason"],
            "UPSTREAM_UNREACHABLE",
            "{farewell}"
        );
        let told = String::from_utf8_lossy(response.body()).into_owned();
        assert!(told.contains("--max-buffered-body"), "{farewell}: {told}");
        assert_eq!(
            (upstream.connections(), upstream.server.seen().len()),
            (1, 0),
            "{farewell}"
        );
        pair.injector.remove("dev", "api").await;
    }
}

#[tokio::test]
async fn retries_end_when_an_upstream_processes_nothing() {
    let pair = dev_with(|_| {}).await;
    for (farewell, bytes) in farewells() {
        let upstream = ClosingUpstream::start(usize::MAX, bytes, true).await;
        pair.injector.add(api(upstream.address)).await;
        let response = call(&pair, true, Method::POST, "text/plain", whole(b"hello")).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{farewell}");
        assert_eq!(
            response.headers()["x-aerostack-reason"],
            "UPSTREAM_UNREACHABLE",
            "{farewell}"
        );
        assert_eq!(upstream.connections(), 11, "{farewell}");
        pair.injector.remove("dev", "api").await;
    }
}

/// nginx closes a connection like this after `keepalive_requests`.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_lost_when_connections_close_after_a_few_calls() {
    const CALLS: usize = 40;
    let pair = dev_with(|_| {}).await;
    let upstream = ClosingUpstream::start(12, go_away(0, NO_ERROR), true).await;
    pair.injector.add(api(upstream.address)).await;
    let calls = (0..CALLS).map(|_| call(&pair, true, Method::POST, "text/plain", whole(b"hello")));
    for response in join_all(calls).await {
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(upstream.server.seen().len(), CALLS);
}
