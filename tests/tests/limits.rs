//! Limits of calls and connections, and the refusals of those that exceed them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

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
use proto::injector::v1::{AuthType, Protocol, Server};
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

/// An upstream over HTTP/1.1, or over HTTP/2 with up to `most` calls on each connection. The upstream answers `/whole`
/// at once, `/slow` soon and `/never` not at all. Other responses begin and do not end.
#[derive(Clone)]
struct Counting {
    address: SocketAddr,
    /// Number of accepted connections.
    made: Arc<AtomicUsize>,
    /// Number of closed connections.
    closed: Arc<AtomicUsize>,
}

impl Counting {
    async fn start(most: u32) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), most)
    }

    fn on(listener: TcpListener, most: u32) -> Self {
        let counting = Self {
            address: listener.local_addr().unwrap(),
            made: Arc::default(),
            closed: Arc::default(),
        };
        let serving = counting.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.made.fetch_add(1, Ordering::SeqCst);
                let open = Counted(serving.closed.clone());
                tokio::spawn(async move {
                    let mut http = auto::Builder::new(TokioExecutor::new());
                    http.http2().max_concurrent_streams(most);
                    let _ = http
                        .serve_connection(TokioIo::new(stream), service_fn(counted))
                        .await;
                    drop(open);
                });
            }
        });
        counting
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.made() - self.closed.load(Ordering::SeqCst)
    }
}

async fn counted(request: Request<Incoming>) -> Result<Response<Streamed>, Infallible> {
    let body = match request.uri().path() {
        "/whole" => Full::from("whole").boxed_unsync(),
        "/slow" => {
            sleep(Duration::from_millis(400)).await;
            Full::from("slow").boxed_unsync()
        }
        "/never" => std::future::pending().await,
        _ => StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()).boxed_unsync(),
    };
    Ok(Response::new(body))
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

/// Makes calls whose responses begin and do not end.
async fn held(pair: &Pair, path: &str, count: usize) -> Vec<Response<Incoming>> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut held = Vec::new();
    for _ in 0..count {
        let url = pair.injector.url(path).parse().unwrap();
        let answer = timeout(PATIENCE, client.get(url)).await.expect("a call hangs");
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        held.push(answer);
    }
    held
}

#[tokio::test]
async fn a_server_with_full_connections_gets_another_one() {
    let upstream = Counting::start(1).await;
    let pair = pair(upstream.address, |_| {}).await;
    add_http2(&pair, "narrow", upstream.address).await;
    let held = held(&pair, "/dev/narrow/", 8).await;
    let whole = timeout(PATIENCE, pair.injector.get("/dev/narrow/whole")).await;
    assert_eq!(whole.expect("the call hangs").status(), 200);
    // A call that has just ended may not have released its slot for the next call.
    let made = upstream.made();
    assert!((9..=10).contains(&made), "{made}");
    drop(held);
    pair.stop().await;
}

#[tokio::test]
async fn calls_share_a_connection_until_it_is_full() {
    let upstream = Counting::start(4).await;
    let pair = pair(upstream.address, |_| {}).await;
    add_http2(&pair, "narrow", upstream.address).await;
    let held = held(&pair, "/dev/narrow/", 4 * 3).await;
    let threads = ThreadCount::PerProcessor.count();
    let made = upstream.made();
    assert!((3..3 + threads).contains(&made), "{made}");
    drop(held);
    pair.stop().await;
}

#[tokio::test]
async fn a_call_waits_a_limited_time_for_a_free_slot() {
    let upstream = Counting::start(1).await;
    let pair = pair(upstream.address, |limits| {
        limits.upstream_max_http2_connections = "1".into();
        limits.upstream_connect_timeout = "700ms".into();
    })
    .await;
    add_http2(&pair, "narrow", upstream.address).await;
    let threads = ThreadCount::PerProcessor.count();
    let mut all = held(&pair, "/dev/narrow/", 1).await;
    // Each thread has its own connections to the upstream. New client connections reach the threads in turn.
    let mut refused = None;
    for _ in 0..4 * threads {
        let url = pair.injector.url("/dev/narrow/").parse().unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let answer = timeout(PATIENCE, client.get(url)).await.expect("a call hangs");
        let answer = answer.unwrap();
        if answer.status() == StatusCode::OK {
            all.push(answer);
        } else {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("there is a place for everyone");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["x-aerostack-reason"], "OVERLOADED");
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(upstream.made(), all.len());
    let waiting: Vec<_> = (0..threads)
        .map(|_| {
            let url = pair.injector.url("/dev/narrow/whole");
            tokio::spawn(async move { e2e::pair::get(&url).await.status() })
        })
        .collect();
    sleep(Duration::from_millis(100)).await;
    drop(all);
    for call in waiting {
        assert_eq!(call.await.unwrap(), 200);
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_client_that_opens_no_window_loses_only_that_response() {
    let upstream = Endless::start(Duration::from_millis(1)).await;
    let pair = pair(upstream.address, |limits| limits.write_timeout = "500ms".into()).await;
    let mut connection = frames::connect(pair.injector.data_plane).await;
    let room = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
    let endless = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &frames::request("GET", "/dev/headers/"),
    );
    connection.write_all(&[room, endless].concat()).await.unwrap();
    // The client reads the connection, but the window of the stream ends after 64 KiB.
    let reset = frames::next(&mut connection, RST_STREAM).await;
    let reset = reset.expect("the connection was closed");
    assert_eq!((reset.stream, reset.code()), (1, CANCEL));
    eventually("the upstream is rid of it", async || {
        upstream.dropped.load(Ordering::SeqCst) == 1
    })
    .await;
    let late = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        3,
        &frames::request("GET", "/dev/headers/late"),
    );
    connection.write_all(&late).await.unwrap();
    let answer = frames::next(&mut connection, DATA).await.unwrap();
    assert_eq!((answer.stream, &answer.payload[..]), (3, &b"late"[..]));
    pair.stop().await;
}

#[tokio::test]
async fn an_unfinished_http2_head_is_cut_off() {
    let upstream = Upstream::start().await;
    let pair = pair(upstream.address, |limits| {
        limits.idle_timeout = "300ms".into();
        limits.head_timeout = "300ms".into();
    })
    .await;
    let mut connection = frames::connect(pair.injector.data_plane).await;
    let head = frame(HEADERS, END_STREAM, 1, &frames::request("GET", "/dev/headers/"));
    connection.write_all(&head).await.unwrap();
    closed(&mut connection).await;
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

/// Makes a call over HTTP/2 to a server whose secrets go into the JSON body.
fn skilled(pair: &Pair, path: &str) -> impl Future<Output = StatusCode> + use<> {
    let url = pair.injector.url(&format!("/dev/skill2/{path}"));
    async move {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let request = Request::post(url).header("content-type", "application/json");
        let sent = client.request(request.body(Full::from("{}")).unwrap());
        timeout(PATIENCE, sent)
            .await
            .expect("no answer")
            .unwrap()
            .status()
    }
}

#[tokio::test]
async fn a_connection_that_sent_a_value_closes_with_its_call() {
    let upstream = Counting::start(100).await;
    let pair = pair(upstream.address, |limits| {
        limits.upstream_idle_timeout = "1h".into();
        limits.max_call_duration = "900ms".into();
    })
    .await;
    let skill = Server {
        auth_type: AuthType::Skill.into(),
        protocol: Protocol::Http2.into(),
        ..server(
            "dev",
            "skill2",
            &format!("http://{}", upstream.address),
            &["TOKEN"],
        )
    };
    pair.injector.add(skill).await;
    assert_eq!(skilled(&pair, "whole").await, 200);
    eventually("it is closed after an answer", async || upstream.open() == 0).await;
    assert_eq!(skilled(&pair, "never").await, 504);
    eventually("it is closed after the deadline", async || upstream.open() == 0).await;
    let given_up = tokio::spawn(skilled(&pair, "never"));
    eventually("the call is under way", async || upstream.made() == 3).await;
    sleep(Duration::from_millis(100)).await;
    given_up.abort();
    eventually("it is closed when nobody waits", async || upstream.open() == 0).await;
    // A connection is kept after a call without a value in its body.
    add_http2(&pair, "kept", upstream.address).await;
    for _ in 0..10 {
        assert_eq!(pair.injector.get("/dev/kept/whole").await.status(), 200);
    }
    assert!(upstream.open() > 0);
    pair.stop().await;
}

#[tokio::test]
async fn idle_upstream_connections_are_kept_for_a_while() {
    for http2 in [false, true] {
        let upstream = Counting::start(100).await;
        let pair = pair(upstream.address, |limits| {
            limits.upstream_idle_timeout = "300ms".into();
        })
        .await;
        match http2 {
            true => add_http2(&pair, "kept", upstream.address).await,
            false => {
                let url = format!("http://{}", upstream.address);
                pair.injector.add(server("dev", "kept", &url, &["TOKEN"])).await;
            }
        }
        for _ in 0..8 {
            assert_eq!(pair.injector.get("/dev/kept/whole").await.status(), 200);
        }
        assert!(
            upstream.made() <= ThreadCount::PerProcessor.count(),
            "{}",
            upstream.made()
        );
        eventually("they are closed", async || upstream.open() == 0).await;
        pair.stop().await;
    }
}

#[tokio::test]
async fn the_number_of_idle_upstream_connections_is_limited() {
    for http2 in [false, true] {
        let upstream = Counting::start(1).await;
        let pair = pair(upstream.address, |limits| {
            limits.upstream_max_idle = "2".into();
            limits.upstream_idle_timeout = "1h".into();
        })
        .await;
        match http2 {
            true => add_http2(&pair, "kept", upstream.address).await,
            false => {
                let url = format!("http://{}", upstream.address);
                pair.injector.add(server("dev", "kept", &url, &["TOKEN"])).await;
            }
        }
        let most = 2 * ThreadCount::PerProcessor.count();
        let calls = (0..3 * most).map(|_| pair.injector.get("/dev/kept/slow"));
        for answer in join_all(calls).await {
            assert_eq!(answer.status(), 200);
        }
        assert!(upstream.made() > most, "{}", upstream.made());
        eventually("the others are closed", async || upstream.open() <= most).await;
        pair.stop().await;
    }
}

#[tokio::test]
async fn a_call_waits_a_limited_time_for_a_handshake() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let pair = pair(address, |limits| limits.upstream_connect_timeout = "300ms".into()).await;
    // One upstream never begins TLS, and the other never begins HTTP/2.
    pair.injector
        .add(server("dev", "tls", &format!("https://{address}"), &["TOKEN"]))
        .await;
    add_http2(&pair, "http2", address).await;
    for name in ["tls", "http2"] {
        let answer = timeout(PATIENCE, pair.injector.get(&format!("/dev/{name}/"))).await;
        let answer = answer.expect("it is waited for without an end");
        assert_eq!(answer.status(), 502, "{name}");
        assert_eq!(answer.headers()["x-aerostack-reason"], "UPSTREAM_UNREACHABLE");
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_upstream_that_was_not_ready_is_dialled_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pair = pair(address, |limits| limits.upstream_connect_timeout = "500ms".into()).await;
    add_http2(&pair, "http2", address).await;
    // Each thread dials once.
    let calls = async || {
        let calls = (0..8 * ThreadCount::PerProcessor.count()).map(|_| pair.injector.get("/dev/http2/whole"));
        timeout(PATIENCE, join_all(calls)).await.expect("a call hangs")
    };
    for answer in calls().await {
        assert_eq!(answer.status(), 502);
    }
    // Old connections stay silent, and new connections are served.
    let mut silent = Vec::new();
    while let Ok(accepted) = timeout(Duration::from_millis(100), listener.accept()).await {
        silent.push(accepted.unwrap());
    }
    let upstream = Counting::on(listener, 100);
    for answer in calls().await {
        assert_eq!(answer.status(), 200);
    }
    assert!(!silent.is_empty() && upstream.made() > 0);
    pair.stop().await;
}

#[tokio::test]
async fn the_number_of_concurrent_calls_on_a_connection_is_limited() {
    const MAX_CONCURRENT_STREAMS: &[u8] = &[0, 3, 0, 0, 0, 2];
    const REFUSED_STREAM: u32 = 7;
    let upstream = Endless::start(Duration::ZERO).await;
    let pair = pair(upstream.address, |limits| {
        limits.max_concurrent_streams = "2".into()
    })
    .await;
    let mut connection = frames::connect(pair.injector.data_plane).await;
    let said = frames::next(&mut connection, SETTINGS).await.unwrap();
    let mut settings = said.payload.chunks(6);
    assert!(settings.any(|setting| setting == MAX_CONCURRENT_STREAMS));
    for stream in [1, 3, 5] {
        let head = frames::request("GET", "/dev/headers/");
        let call = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
        connection.write_all(&call).await.unwrap();
    }
    let refused = frames::next(&mut connection, RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.code()), (5, REFUSED_STREAM));
    pair.stop().await;
}

#[tokio::test]
async fn buffered_bodies_share_one_budget() {
    let upstream = Upstream::start().await;
    let pair = pair(upstream.address, |limits| {
        limits.max_buffered_total = "1MiB".into()
    })
    .await;
    // A body of which only the first 700 KB arrive.
    let begin = async || {
        let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let head = "POST /dev/skill/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 1000000\r\n\r\n{\"a\":\"";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b'x'; 700_000]).await.unwrap();
        stream
    };
    let call = async || {
        let request = Request::post("/dev/skill/").header("content-type", "application/json");
        let body = format!("{{\"a\":\"{}\"}}", "x".repeat(600_000));
        pair.injector.send(request, body).await
    };
    let (mut held, mut refused) = (begin().await, None);
    eventually("there is no room", async || {
        // The injector may refuse the unfinished call instead of the new one. If so, begin another unfinished call.
        if held.try_read(&mut [0]).is_ok() {
            held = begin().await;
        }
        refused = Some(call().await).filter(|answer| answer.status() == 503);
        refused.is_some()
    })
    .await;
    let refused = refused.unwrap();
    assert_eq!(refused.headers()["x-aerostack-reason"], "OVERLOADED");
    assert!(refused.headers().contains_key("retry-after"));
    // Calls that need no buffer are served.
    assert_eq!(pair.injector.get("/dev/headers/").await.status(), 200);
    drop(held);
    eventually("there is room again", async || call().await.status() == 200).await;
    // Bytes that were sent are no longer counted.
    for _ in 0..5 {
        assert_eq!(call().await.status(), 200);
    }
    pair.stop().await;
}

/// Starts a call over HTTP/2 whose body ends when the returned sender is dropped.
fn endless(
    client: &Client<HttpConnector, UnendedBody>,
    url: &str,
) -> (
    mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    JoinHandle<StatusCode>,
) {
    let (sender, body) = mpsc::channel(1);
    let request = Request::post(url).body(StreamBody::new(ReceiverStream::new(body)));
    let sent = client.request(request.unwrap());
    (sender, tokio::spawn(async move { sent.await.unwrap().status() }))
}

type UnendedBody = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

#[tokio::test]
async fn bytes_read_ahead_over_http2_count_in_the_budget() {
    let upstream = Upstream::start().await;
    let pair = pair(upstream.address, |limits| {
        limits.max_buffered_total = "1MiB".into()
    })
    .await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let url = pair.injector.url("/dev/headers/");
    // 16 bodies without an end take 16 times 64 KiB, which is the whole budget.
    let mut held: Vec<_> = (0..16).map(|_| endless(&client, &url)).collect();
    let refused = loop {
        let (sender, mut answered) = endless(&client, &url);
        match timeout(Duration::from_millis(500), &mut answered).await {
            Ok(status) => break status.unwrap(),
            Err(_) => held.push((sender, answered)),
        }
        assert!(held.len() < 32, "nothing is counted");
    };
    assert_eq!(refused, 503);
    let (answered, waiting): (Vec<_>, Vec<_>) = held.into_iter().partition(|(_, call)| call.is_finished());
    assert_eq!(waiting.len(), 16, "{} were refused", answered.len());
    // A body of known length counts at most that length, and a body that has ended counts nothing.
    drop(waiting);
    eventually("there is room again", async || {
        let request = Request::post("/dev/headers/");
        pair.injector.send(request, "x".repeat(100_000)).await.status() == 200
    })
    .await;
    pair.stop().await;
}

#[tokio::test]
async fn buffered_messages_share_one_budget() {
    let upstream = Upstream::start().await;
    let pair = pair(upstream.address, |limits| {
        limits.max_buffered_total = "1MiB".into()
    })
    .await;
    let url = format!("http://{}", upstream.address);
    let messages = Server {
        auth_type: AuthType::Skill.into(),
        protobuf_secrets_field: 7,
        grpc_methods: vec!["package.Service/*".into()],
        ..server("dev", "messages", &url, &["TOKEN"])
    };
    pair.injector.add(messages).await;
    let message = |len: usize| b"\x0a\x01x".repeat(len / 3);
    let framed = |flag: u8, message: &[u8]| {
        let len = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flag][..], &len, message].concat()
    };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&message(2 << 20)).unwrap();
    for (what, body, reason) in [
        ("too long", framed(0, &message(2 << 20)), Some("OVERLOADED")),
        ("unfolded", framed(1, &gzip.finish().unwrap()), Some("OVERLOADED")),
        // Bytes that were sent are no longer counted.
        ("many", framed(0, &message(10_000)).repeat(300), None),
    ] {
        let request = Request::post("/package.Service/Method")
            .header("content-type", "application/grpc")
            .header("grpc-encoding", "gzip")
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", "messages");
        let answer = timeout(PATIENCE, pair.injector.send(request, body)).await;
        let answer = answer.expect("the call hangs");
        let told = answer.headers().get("x-aerostack-reason");
        assert_eq!(told.map(|told| told.to_str().unwrap()), reason, "{what}");
    }
    assert_eq!(upstream.seen().len(), 1);
    pair.stop().await;
}
