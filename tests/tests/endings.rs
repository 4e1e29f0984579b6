//! Calls that one side aborts or ends early. A truncated message never looks complete, and a complete message is passed
//! on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair,
    frames::{
        self, CANCEL, DATA, END_HEADERS, END_STREAM, HEADERS, INTERNAL_ERROR, NO_ERROR, PREFACE, RST_STREAM,
        SETTINGS, STATUS_200, field, frame, go_away, reset,
    },
    pair::server,
};
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use proto::injector::v1::{Protocol, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

const VALUE: &str = "canary-9d02";

async fn dev() -> Pair {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", VALUE).await;
    pair
}

async fn add(pair: &Pair, name: &str, upstream: SocketAddr, protocol: Protocol) {
    let described = Server {
        protocol: protocol.into(),
        ..server("dev", name, &format!("http://{upstream}"), &["TOKEN"])
    };
    pair.injector.add(described).await;
}

// ---- responses that an upstream ends early ----

/// An HTTP/2 upstream whose frames the test writes.
struct FrameUpstream {
    address: SocketAddr,
    connections: mpsc::UnboundedReceiver<TcpStream>,
}

impl FrameUpstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, connections) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Self { address, connections }
    }

    /// Returns the next connection with a request, and the stream of the request.
    async fn next(&mut self) -> (TcpStream, u32) {
        let connection = timeout(PATIENCE, self.connections.recv()).await;
        let mut connection = connection.expect("nobody connected").unwrap();
        let head = frames::next(&mut connection, HEADERS).await.unwrap();
        (connection, head.stream)
    }
}

/// A way to end a response: its name, the bytes to write, and true when the connection is closed after them.
type Ending = (&'static str, Vec<u8>, bool);

/// Returns all ways to truncate the response on stream 1.
fn cuts() -> Vec<Ending> {
    vec![
        ("no error", reset(1, NO_ERROR), false),
        ("cancelled", reset(1, CANCEL), false),
        ("an error", reset(1, INTERNAL_ERROR), false),
        ("not seen", go_away(0, NO_ERROR), false),
        ("not seen, for an error", go_away(0, INTERNAL_ERROR), false),
        ("closed", Vec::new(), true),
        ("seen, and closed", go_away(1, NO_ERROR), true),
    ]
}

async fn end(mut connection: TcpStream, (_, bytes, close): &Ending) -> Option<TcpStream> {
    connection.write_all(bytes).await.unwrap();
    (!close).then_some(connection)
}

type Sent = UnsyncBoxBody<Bytes, io::Error>;

fn client(http2: bool) -> Client<HttpConnector, Sent> {
    Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http()
}

fn fixed(body: &'static str) -> Sent {
    Full::from(body)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// Returns a body that ends when the sender is dropped.
fn open_ended() -> (mpsc::Sender<Bytes>, Sent) {
    let (more, pieces) = mpsc::channel(1);
    let pieces = ReceiverStream::new(pieces).map(|piece| Ok(Frame::data(piece)));
    (more, StreamBody::new(pieces).boxed_unsync())
}

type Calling = JoinHandle<Result<Response<Incoming>, Error>>;

fn send(pair: &Pair, http2: bool, name: &str, content_type: &str, body: Sent) -> Calling {
    send_by(&client(http2), pair, name, content_type, body)
}

/// Sends a call. Calls of one client share a connection to the injector, and so a connection to the upstream.
fn send_by(
    client: &Client<HttpConnector, Sent>,
    pair: &Pair,
    name: &str,
    content_type: &str,
    body: Sent,
) -> Calling {
    let request = Request::post(pair.injector.url("/x.Y/Z"))
        .header("content-type", content_type)
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", name)
        .body(body)
        .unwrap();
    let client = client.clone();
    tokio::spawn(async move { client.request(request).await })
}

async fn answered(calling: Calling) -> Response<Incoming> {
    timeout(PATIENCE, calling)
        .await
        .expect("no answer came")
        .unwrap()
        .unwrap()
}

/// Returns the body, and true when a gRPC status followed it. Returns `None` when the body did not end cleanly.
async fn ended(response: Response<Incoming>) -> Option<(Bytes, bool)> {
    let collected = timeout(PATIENCE, response.into_body().collect())
        .await
        .expect("the answer never ended")
        .ok()?;
    let failed = collected
        .trailers()
        .and_then(|trailers| trailers.get("grpc-status"))
        .is_some_and(|status| status != "0");
    Some((collected.to_bytes(), failed))
}

#[tokio::test]
async fn a_truncated_http2_response_never_ends_cleanly() {
    let (pair, mut upstream) = (dev().await, FrameUpstream::start().await);
    for (number, cut) in cuts().iter().enumerate() {
        for (kind, http2) in [
            ("text/plain", false),
            ("text/plain", true),
            ("application/grpc", true),
        ] {
            let what = format!("{}: {kind} over HTTP/{}", cut.0, 1 + u8::from(http2));
            let name = format!("{kind}{http2}{number}").replace(['/'], "-");
            add(&pair, &name, upstream.address, Protocol::Http2).await;
            let calling = send(&pair, http2, &name, kind, fixed(""));
            let (mut connection, stream) = upstream.next().await;
            assert_eq!(stream, 1);
            let head = [&[STATUS_200][..], &field("content-type", kind)].concat();
            let answer = [
                frame(HEADERS, END_HEADERS, 1, &head),
                frame(DATA, 0, 1, b"\0\0\0\0\x02ab"),
            ];
            connection.write_all(&answer.concat()).await.unwrap();
            let response = answered(calling).await;
            assert_eq!(response.status(), StatusCode::OK, "{what}");
            let _connection = end(connection, cut).await;
            let ended = ended(response).await;
            assert!(ended.is_none_or(|(_, failed)| failed), "{what}");
        }
    }
}

#[tokio::test]
async fn an_http2_response_shorter_than_its_length_never_ends_cleanly() {
    let (pair, mut upstream) = (dev().await, FrameUpstream::start().await);
    for http2 in [false, true] {
        let name = format!("short-{http2}");
        add(&pair, &name, upstream.address, Protocol::Http2).await;
        let calling = send(&pair, http2, &name, "text/plain", fixed(""));
        let (mut connection, _) = upstream.next().await;
        let head = [&[STATUS_200][..], &field("content-length", "100")].concat();
        let answer = [
            frame(HEADERS, END_HEADERS, 1, &head),
            frame(DATA, END_STREAM, 1, b"partial"),
        ];
        connection.write_all(&answer.concat()).await.unwrap();
        let whole = match timeout(PATIENCE, calling).await.expect("no answer came").unwrap() {
            Ok(response) if response.status() == StatusCode::OK => ended(response).await.is_some(),
            Ok(_) | Err(_) => false,
        };
        assert!(!whole, "over HTTP/{}", 1 + u8::from(http2));
    }
}

#[tokio::test]
async fn a_response_that_was_complete_before_its_stream_was_reset_is_complete() {
    let (pair, mut upstream) = (dev().await, FrameUpstream::start().await);
    let after: [Ending; 4] = [
        ("nothing", Vec::new(), false),
        // `NO_ERROR` tells the client to stop sending the request (RFC 9113, section 8.1).
        ("no error", reset(1, NO_ERROR), false),
        ("seen, and closed", go_away(1, NO_ERROR), true),
        ("closed", Vec::new(), true),
    ];
    for (number, ending) in after.iter().enumerate() {
        for http2 in [false, true] {
            let what = format!("{} over HTTP/{}", ending.0, 1 + u8::from(http2));
            let name = format!("s{number}-{http2}");
            add(&pair, &name, upstream.address, Protocol::Http2).await;
            let (more, body) = open_ended();
            let calling = send(&pair, http2, &name, "text/plain", body);
            more.send(Bytes::from_static(b"first")).await.unwrap();
            let (mut connection, _) = upstream.next().await;
            // On an open connection, the client continues to send the request.
            let more = if ending.2 {
                drop(more);
                while frames::next(&mut connection, DATA).await.unwrap().flags & END_STREAM == 0 {}
                None
            } else {
                Some(more)
            };
            let answer = [
                frame(HEADERS, END_HEADERS, 1, &[STATUS_200]),
                frame(DATA, 0, 1, b"who"),
                frame(DATA, END_STREAM, 1, b"le"),
            ];
            connection.write_all(&answer.concat()).await.unwrap();
            let _connection = end(connection, ending).await;
            let response = answered(calling).await;
            assert_eq!(response.status(), StatusCode::OK, "{what}");
            let (body, _) = ended(response).await.unwrap_or_else(|| panic!("{what}"));
            assert_eq!(body, "whole", "{what}");
            drop(more);
        }
    }
}

/// `upstreams/retries.rs` tests requests that the upstream did not process, which are sent again.
#[tokio::test]
async fn a_call_that_the_upstream_may_have_processed_is_not_sent_again() {
    let (pair, mut upstream) = (dev().await, FrameUpstream::start().await);
    let mut endings = cuts();
    endings.retain(|(what, ..)| !what.starts_with("not seen"));
    for (number, ending) in endings.iter().enumerate() {
        let name = format!("s{number}");
        add(&pair, &name, upstream.address, Protocol::Http2).await;
        let calling = send(&pair, true, &name, "text/plain", fixed("{}"));
        let (connection, _) = upstream.next().await;
        let connection = end(connection, ending).await;
        let response = answered(calling).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{}", ending.0);
        assert_eq!(
            response.headers()["x-aerostack-reason"],
            "UPSTREAM_UNREACHABLE",
            "{}",
            ending.0
        );
        assert!(
            upstream.connections.try_recv().is_err(),
            "{}: it was sent again on another connection",
            ending.0
        );
        if let Some(mut connection) = connection {
            let again = timeout(Duration::from_millis(30), frames::next(&mut connection, HEADERS)).await;
            assert!(
                !matches!(again, Ok(Some(_))),
                "{}: it was sent again on the same connection",
                ending.0
            );
        }
    }
}

#[tokio::test]
async fn an_upstream_that_sends_goaway_finishes_its_calls_and_gets_no_new_ones() {
    let (pair, mut upstream) = (dev().await, FrameUpstream::start().await);
    let client = client(true);
    add(&pair, "s", upstream.address, Protocol::Http2).await;
    let seen = send_by(&client, &pair, "s", "text/plain", fixed(""));
    let (mut leaving, first) = upstream.next().await;
    // The injector may wait for the upstream's SETTINGS before it opens a second stream.
    leaving
        .write_all(&frame(SETTINGS, frames::ACK, 0, &[]))
        .await
        .unwrap();
    let unseen = send_by(&client, &pair, "s", "text/plain", fixed(""));
    let second = frames::next(&mut leaving, HEADERS).await.unwrap().stream;
    assert_eq!((first, second), (1, 3));
    let answer = [
        frame(HEADERS, END_HEADERS, first, &[STATUS_200]),
        frame(DATA, 0, first, b"who"),
        go_away(first, NO_ERROR),
    ];
    leaving.write_all(&answer.concat()).await.unwrap();
    let response = answered(seen).await;
    // The unprocessed call and new calls use another connection, although the old connection is still open.
    let (mut staying, stream) = upstream.next().await;
    let answer = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[STATUS_200]);
    staying.write_all(&answer(stream)).await.unwrap();
    assert_eq!(answered(unseen).await.status(), StatusCode::OK);
    let next = send_by(&client, &pair, "s", "text/plain", fixed(""));
    let (mut another, stream) = upstream.next().await;
    another.write_all(&answer(stream)).await.unwrap();
    assert_eq!(answered(next).await.status(), StatusCode::OK);
    leaving
        .write_all(&frame(DATA, END_STREAM, first, b"le"))
        .await
        .unwrap();
    assert_eq!(ended(response).await.expect("it was seen").0, "whole");
    assert!(upstream.connections.try_recv().is_err());
}

// ---- requests that a client ends early ----

/// An upstream that reports the beginning of a body, and true or false for its clean end.
struct ObservedUpstream {
    address: SocketAddr,
    began: mpsc::UnboundedReceiver<()>,
    ended: mpsc::UnboundedReceiver<bool>,
}

impl ObservedUpstream {
    /// Starts an upstream that answers at once (`early`), or after the whole request.
    async fn start(early: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (begins, began) = mpsc::unbounded_channel();
        let (ends, ended) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (begins, ends) = (begins.clone(), ends.clone());
                let calls = service_fn(move |request: Request<Incoming>| {
                    let (all, everything) = oneshot::channel();
                    let reading = read(request.into_body(), begins.clone(), ends.clone());
                    // The task continues when the call is cancelled.
                    tokio::spawn(async move {
                        reading.await;
                        all.send(())
                    });
                    async move {
                        if !early {
                            drop(everything.await);
                        }
                        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
                    }
                });
                let http = auto::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), calls).await.is_ok() });
            }
        });
        Self {
            address,
            began,
            ended,
        }
    }
}

async fn read(mut body: Incoming, begins: mpsc::UnboundedSender<()>, ends: mpsc::UnboundedSender<bool>) {
    let whole = loop {
        match body.frame().await {
            Some(Ok(_)) => drop(begins.send(())),
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    // The receiver is gone when the test has failed.
    let _ = ends.send(whole);
}

#[tokio::test]
async fn a_truncated_http2_request_never_ends_cleanly() {
    let pair = dev().await;
    for early in [false, true] {
        let mut upstream = ObservedUpstream::start(early).await;
        for (name, protocol) in [("http1", Protocol::Http1), ("http2", Protocol::Http2)] {
            let name = format!("{name}-{early}");
            add(&pair, &name, upstream.address, protocol).await;
            for cut in cuts() {
                // A client's GOAWAY concerns only streams that the server opens.
                if cut.0.starts_with("not seen") {
                    continue;
                }
                let what = format!("{}: {name}", cut.0);
                let mut connection = frames::connect(pair.injector.data_plane).await;
                let head = frames::request("POST", &format!("/dev/{name}/"));
                let begin = [
                    frame(HEADERS, END_HEADERS, 1, &head),
                    frame(DATA, 0, 1, b"partial"),
                ];
                connection.write_all(&begin.concat()).await.unwrap();
                let began = timeout(PATIENCE, upstream.began.recv()).await;
                began
                    .unwrap_or_else(|_| panic!("{what}: it never began"))
                    .unwrap();
                if early {
                    frames::next(&mut connection, HEADERS).await.unwrap();
                }
                let _connection = end(connection, &cut).await;
                let complete = timeout(PATIENCE, upstream.ended.recv()).await;
                let complete = complete
                    .unwrap_or_else(|_| panic!("{what}: it never ended"))
                    .unwrap();
                assert!(!complete, "{what}");
            }
        }
    }
}

/// A client that closes only its sending side looks like one that has disconnected. nginx and Envoy cancel the call,
/// too.
#[tokio::test]
async fn an_http1_client_that_closes_its_sending_side_cancels_its_call() {
    let (pair, mut upstream) = (dev().await, FrameUpstream::start().await);
    add(&pair, "s", upstream.address, Protocol::Http2).await;
    let mut connection = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let head = b"GET /dev/s/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    connection.write_all(head).await.unwrap();
    let (mut asked, stream) = upstream.next().await;
    connection.shutdown().await.unwrap();
    let given_up = frames::next(&mut asked, RST_STREAM).await.unwrap();
    assert_eq!((given_up.stream, given_up.code()), (stream, CANCEL));
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, connection.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn a_client_that_sends_goaway_gets_its_pending_responses() {
    let (pair, mut upstream) = (dev().await, FrameUpstream::start().await);
    add(&pair, "s", upstream.address, Protocol::Http2).await;
    let mut connection = frames::connect(pair.injector.data_plane).await;
    let head = frames::request("GET", "/dev/s/");
    let asked = [
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &head),
        go_away(0, NO_ERROR),
    ];
    connection.write_all(&asked.concat()).await.unwrap();
    let (mut answering, stream) = upstream.next().await;
    let answer = [
        frame(HEADERS, END_HEADERS, stream, &[STATUS_200]),
        frame(DATA, END_STREAM, stream, b"whole"),
    ];
    answering.write_all(&answer.concat()).await.unwrap();
    let mut body = Vec::new();
    loop {
        let data = frames::next(&mut connection, DATA)
            .await
            .expect("it waits for this");
        body.extend_from_slice(&data.payload);
        if data.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(body, b"whole");
}
