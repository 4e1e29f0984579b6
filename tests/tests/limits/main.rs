//! Limits of calls and connections, and the refusals of those that exceed them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod budget;
mod upstream_connections;

use std::{
    convert::Infallible,
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chassis::worker_threads::ThreadCount;
use e2e::{
    PATIENCE, Pair, Upstream, eventually,
    frames::{
        self, CANCEL, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
    },
    pair::server,
    raw,
};
use flate2::{Compression, write::GzEncoder};
use futures_util::{future::join_all, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use injector_service::limits::LimitSettings;
use proto::injector::v1::{AuthType, Protocol, Scrub, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

const VALUE: &str = "canary-90be27";

/// Starts a pair with these limits. The workspace `dev` has the secret `TOKEN`, and the servers `headers` and `skill`
/// lead to the upstream.
async fn pair(upstream: SocketAddr, limit: impl FnOnce(&mut LimitSettings)) -> Pair {
    let pair = Pair::start_with(|_| {}, |settings| limit(&mut settings.limits)).await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", VALUE).await;
    let url = format!("http://{upstream}");
    let headers = server("dev", "headers", &url, &["TOKEN"]);
    pair.injector.add(headers.clone()).await;
    let skill = Server {
        name: "skill".into(),
        auth_type: AuthType::Skill.into(),
        ..headers
    };
    pair.injector.add(skill).await;
    pair
}

/// Adds a server without secrets that is called over HTTP/2. A connection that sent a value in plain would close after
/// its call.
async fn add_http2(pair: &Pair, name: &str, upstream: SocketAddr) {
    let server = Server {
        protocol: Protocol::Http2.into(),
        ..server("dev", name, &format!("http://{upstream}"), &[])
    };
    pair.injector.add(server).await;
}

/// Reads until the injector closes the connection. Returns the time that this took.
async fn closed(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    let mut rest = Vec::new();
    // A reset counts as an end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("the connection was never closed");
    started.elapsed()
}

#[tokio::test]
async fn a_slow_head_is_cut_off_and_others_are_served() {
    let upstream = Upstream::start().await;
    let pair = pair(upstream.address, |limits| limits.head_timeout = "400ms".into()).await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        stream
            .write_all(b"GET /dev/headers/slow HTTP/1.1\r\nHost: l")
            .await
            .unwrap();
        slow.push(tokio::spawn(async move {
            let started = Instant::now();
            // Single bytes must not extend the time for a head.
            while started.elapsed() < PATIENCE && stream.write_all(b"o").await.is_ok() {
                let mut byte = [0];
                if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_millis(50), stream.read(&mut byte)).await {
                    return started.elapsed();
                }
            }
            panic!("the connection was never closed");
        }));
    }
    for _ in 0..20 {
        assert_eq!(pair.injector.get("/dev/headers/").await.status(), 200);
    }
    for stream in slow {
        let took = stream.await.unwrap();
        assert!(took >= Duration::from_millis(300), "{took:?}");
    }
    assert!(upstream.seen().iter().all(|seen| seen.target == "/"));
    pair.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_call_is_not() {
    let upstream = Endless::start(Duration::from_millis(900)).await;
    let pair = pair(upstream.address, |limits| limits.idle_timeout = "300ms".into()).await;
    let mut silent = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    assert!(closed(&mut silent).await >= Duration::from_millis(250));

    let mut kept = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let head = "GET /dev/headers/late HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..2 {
        kept.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(PATIENCE, kept.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        // The rest of the response.
        while kept.try_read(&mut [0; 1024]).is_ok() {}
    }
    closed(&mut kept).await;

    // In HTTP/2 a call may outlast the idle time, too. After the call the connection is closed.
    let stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let (mut send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://localhost/dev/headers/late").body(Full::<Bytes>::default());
    let response = send.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
    timeout(PATIENCE, connection)
        .await
        .expect("the connection was never closed")
        .unwrap()
        .unwrap();
    pair.stop().await;
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused_with_a_reason() {
    let upstream = Upstream::start().await;
    let pair = pair(upstream.address, |limits| {
        limits.max_headers = "20".into();
        limits.max_headers_size = "2KiB".into();
        limits.max_uri_size = "300".into();
    })
    .await;
    for http2 in [false, true] {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http();
        let send = async |path: &str, fields: usize, length: usize| {
            let url = format!("http://{}/dev/headers/{path}", pair.injector.data_plane);
            let mut request = Request::get(url);
            for number in 0..fields {
                request = request.header(format!("x-{number}"), "a".repeat(length));
            }
            let response = client
                .request(request.body(Full::<Bytes>::default()).unwrap())
                .await;
            let response = response.unwrap();
            let (status, kind) = (
                response.status().as_u16(),
                response.headers().get("content-type").cloned(),
            );
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let reason = kind.filter(|kind| kind == "application/problem+json").map(|_| {
                let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
                problem["reason"].as_str().unwrap().to_owned()
            });
            (status, reason)
        };
        let refused = |status, reason: &str| (status, Some(reason.to_owned()));
        assert_eq!(send("x", 18, 10).await, (200, None));
        assert_eq!(send("x", 21, 10).await, refused(431, "HEADERS_TOO_LARGE"));
        assert_eq!(send("x", 2, 1030).await, refused(431, "HEADERS_TOO_LARGE"));
        assert_eq!(send(&"x".repeat(280), 0, 0).await, (200, None));
        assert_eq!(send(&"x".repeat(300), 0, 0).await, refused(414, "URI_TOO_LONG"));
        // A head far beyond the limit is answered by the library, without a reason.
        assert_eq!(send("x", 60, 10).await.0, 431);
        assert_eq!(send("x", 3, 4000).await.0, 431);
    }
    assert_eq!(upstream.seen().len(), 4);
    pair.stop().await;
}

#[tokio::test]
async fn a_body_that_is_buffered_has_to_arrive_in_time() {
    let upstream = Upstream::start().await;
    let pair = pair(upstream.address, |limits| {
        limits.body_timeout = "300ms".into();
        limits.max_buffered_body = "16".into();
    })
    .await;
    let head = "POST /dev/skill/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"a\":";
    let answer = raw::exchange(pair.injector.data_plane, head).await;
    assert_eq!(raw::status(&answer), 408, "{answer}");
    assert!(answer.contains("BODY_TIMEOUT"), "{answer}");
    assert_eq!(upstream.seen().len(), 0);

    for (body, whole) in [("{\"a\": 1}", true), ("{\"a\": \"0123456789\"}", false)] {
        let request = Request::post("/dev/skill/").header("content-type", "application/json");
        assert_eq!(pair.injector.send(request, body).await.status(), 200);
        assert_eq!(
            upstream.last().header("content-length").is_some(),
            whole,
            "{body}"
        );
    }
    pair.stop().await;
}

type Streamed = UnsyncBoxBody<Bytes, Infallible>;

/// An upstream that answers `/late` after a while, and whose other responses never end. The upstream counts its
/// connections, and the responses that were dropped.
#[derive(Clone)]
struct Endless {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

/// Counts itself when it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Endless {
    async fn start(late: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            dropped: Arc::default(),
        };
        let serving = upstream.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let serving = serving.clone();
                let calls = service_fn(move |request| {
                    let serving = serving.clone();
                    async move { Ok::<_, Infallible>(serving.answer(&request, late).await) }
                });
                tokio::spawn(async move {
                    let http = auto::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(stream), calls).await;
                });
            }
        });
        upstream
    }

    async fn answer(&self, request: &Request<Incoming>, late: Duration) -> Response<Streamed> {
        if request.uri().path() == "/late" {
            sleep(late).await;
            return Response::new(Full::from("late").boxed_unsync());
        }
        let endless = stream::unfold(Counted(self.dropped.clone()), async |counted| {
            sleep(Duration::from_millis(1)).await;
            let piece = Frame::data(Bytes::from_static(&[b'x'; 16 * 1024]));
            Some((Ok::<_, Infallible>(piece), counted))
        });
        Response::new(StreamBody::new(endless).boxed_unsync())
    }
}

#[tokio::test]
async fn a_call_ends_at_its_longest_duration() {
    let upstream = Endless::start(PATIENCE).await;
    let pair = pair(upstream.address, |limits| {
        limits.max_call_duration = "400ms".into()
    })
    .await;
    for http2 in [false, true] {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http::<Full<Bytes>>();
        let url = format!("http://{}/dev/headers/", pair.injector.data_plane);
        let response = client.get(url.parse().unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let ended = timeout(PATIENCE, response.into_body().collect()).await;
        assert!(
            ended.expect("the answer never ended").is_err(),
            "it ended as if it was whole"
        );
    }
    eventually("the upstream is told", async || {
        upstream.dropped.load(Ordering::SeqCst) == 2
    })
    .await;
    // A call whose response does not begin ends, too.
    let late = pair.injector.get("/dev/headers/late").await;
    assert_eq!(late.status(), 504);
    assert_eq!(late.headers()["x-aerostack-reason"], "DEADLINE_EXCEEDED");
    pair.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off_and_others_are_served() {
    let upstream = Endless::start(Duration::ZERO).await;
    let pair = pair(upstream.address, |limits| limits.write_timeout = "500ms".into()).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let head = "GET /dev/headers/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(pair.injector.get("/dev/headers/late").await.status(), 200);
    // The client reads nothing, so sent bytes fill the buffers of the system.
    eventually("the upstream is rid of them", async || {
        upstream.dropped.load(Ordering::SeqCst) == 20
    })
    .await;
    drop(slow);
    pair.stop().await;
}

#[tokio::test]
async fn a_connection_to_an_upstream_takes_no_calls_after_its_longest_age() {
    const AGE: Duration = Duration::from_millis(600);
    for http2 in [false, true] {
        let upstream = Endless::start(Duration::from_millis(1)).await;
        let pair = pair(upstream.address, |limits| {
            limits.upstream_max_connection_age = "600ms".into();
        })
        .await;
        let name = if http2 { "http2" } else { "headers" };
        add_http2(&pair, "http2", upstream.address).await;
        // A call may outlast the age of its connection.
        let mut endless = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let head = format!("GET /dev/{name}/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
        endless.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        timeout(PATIENCE, endless.read_exact(&mut first))
            .await
            .unwrap()
            .unwrap();
        let call_for = async |time: Duration| {
            let started = Instant::now();
            while started.elapsed() < time {
                let late = pair.injector.get(&format!("/dev/{name}/late")).await;
                assert_eq!(late.status(), 200);
                sleep(Duration::from_millis(20)).await;
            }
            upstream.connections.load(Ordering::SeqCst)
        };
        let first_age = call_for(AGE / 2).await;
        let all = call_for(AGE * 2).await;
        // Each thread of the data plane makes a connection per age, and the endless call keeps one more.
        let threads = ThreadCount::PerProcessor.count();
        assert!(first_age < all && all <= 5 * threads, "{first_age}, {all}");
        assert_eq!(upstream.dropped.load(Ordering::SeqCst), 0);
        let mut more = vec![0; 1 << 20];
        timeout(PATIENCE, endless.read_exact(&mut more))
            .await
            .unwrap()
            .unwrap();
        pair.stop().await;
    }
}

/// Starts an upstream that echoes bodies frame by frame.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let calls = service_fn(|request: Request<Incoming>| async move {
                    Ok::<_, Infallible>(Response::new(request.into_body()))
                });
                let mut http = auto::Builder::new(TokioExecutor::new()).http2_only();
                http.http2()
                    .initial_stream_window_size(1 << 20)
                    .initial_connection_window_size(1 << 28);
                let _ = http.serve_connection(TokioIo::new(stream), calls).await;
            });
        }
    });
    address
}

/// Some libraries send each message in a frame of its own, and other libraries take many such frames for an attack.
#[tokio::test(flavor = "multi_thread")]
async fn a_multitude_of_small_messages_passes_both_ways() {
    const MESSAGES: usize = 300_000;
    let pair = pair(echo().await, |_| {}).await;
    let stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let (mut send, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_connection_window_size(1 << 28)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let messages =
        (0..MESSAGES).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\0\0\x02ab"))));
    let request = Request::post("http://localhost/package.Service/Method")
        .header("content-type", "application/grpc")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "headers")
        .body(StreamBody::new(stream::iter(messages)))
        .unwrap();
    let response = timeout(PATIENCE, send.send_request(request))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut received = 0;
    while let Some(frame) = timeout(PATIENCE, body.frame()).await.expect("it stands still") {
        received += frame
            .expect("the stream broke")
            .into_data()
            .map_or(0, |data| data.len());
    }
    assert_eq!(received, MESSAGES * 7);
    pair.stop().await;
}

#[tokio::test]
async fn a_refusal_arrives_although_the_body_is_sent_later() {
    let upstream = Upstream::start().await;
    let pair = pair(upstream.address, |_| {}).await;
    let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    for (path, kind, status) in [
        ("/dev/skill/", "text/plain", "415"),
        ("/dev/unknown/", "application/json", "404"),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..10 {
            sleep(Duration::from_millis(10)).await;
            stream.write_all(&[b'x'; 10_000]).await.unwrap();
        }
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let mut piece = [0; 1024];
            let read = timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().unwrap();
            assert!(read > 0, "the connection ended before the answer");
            answer.extend_from_slice(&piece[..read]);
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    // The injector does not read an endless body for ever.
    let head = "POST /dev/unknown/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let sent = timeout(PATIENCE, async {
        while stream.write_all(&[b'x'; 10_000]).await.is_ok() {}
    });
    sent.await.expect("it is read for ever");
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}
