//! Limits of the connections to upstreams.

use super::*;

/// An upstream over HTTP/1.1, or over HTTP/2 with up to `most` calls on each connection. The upstream answers `/whole`
/// at once, `/slow` soon and `/never` not at all, and `/echo-head` and `/echo-body` with the secret `LONG` of the request. Other
/// responses begin and do not end.
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
    let value = request.headers().get("x-mcp-secret-long").cloned();
    let body = match request.uri().path() {
        "/whole" => Full::from("whole").boxed_unsync(),
        "/slow" => {
            sleep(Duration::from_millis(400)).await;
            Full::from("slow").boxed_unsync()
        }
        "/echo-head" => {
            let mut response = Response::new(Full::from("ok").boxed_unsync());
            response.headers_mut().insert("x-echo", value.unwrap());
            return Ok(response);
        }
        "/echo-body" => Full::from(Bytes::from_owner(value.unwrap())).boxed_unsync(),
        "/never" => std::future::pending().await,
        _ => StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()).boxed_unsync(),
    };
    Ok(Response::new(body))
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

/// Each thread also has a stream to the vault of its own, of which the vault allows a limited number.
#[tokio::test]
async fn there_are_as_many_worker_threads_as_the_setting_says() {
    for threads in [1, 3] {
        let upstream = Counting::start(100).await;
        let pair = pair(upstream.address, |limits| {
            limits.worker_threads = threads.to_string()
        })
        .await;
        add_http2(&pair, "wide", upstream.address).await;
        let mut all = Vec::new();
        for _ in 0..2 * threads {
            // New client connections reach the threads in turn, and the threads share no connection to the upstream.
            all.extend(held(&pair, "/dev/wide/", 1).await);
        }
        assert_eq!(upstream.made(), threads);
        drop(all);
        pair.stop().await;
    }
}

/// The buffers of such a connection have the value until the connection is closed.
#[tokio::test]
async fn a_connection_whose_answer_has_a_value_is_closed_after_the_call() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Counting::start(100).await;
        let pair = pair(upstream.address, |limits| {
            limits.worker_threads = "1".into();
            limits.upstream_idle_timeout = "1h".into();
        })
        .await;
        pair.vault.put("dev", "LONG", &"a-long-value".repeat(4)).await;
        let server = Server {
            protocol: protocol.into(),
            scrub: Scrub::All.into(),
            ..server(
                "dev",
                "echoing",
                &format!("http://{}", upstream.address),
                &["LONG"],
            )
        };
        pair.injector.add(server).await;
        let call = async |path| {
            let answer = pair.injector.get(&format!("/dev/echoing/{path}")).await;
            assert_eq!(answer.status(), 200);
        };
        for (made, echo) in [(1, "echo-head"), (2, "echo-body")] {
            call("whole").await;
            call("whole").await;
            assert_eq!((upstream.made(), upstream.open()), (made, 1), "{protocol:?}");
            call(echo).await;
            eventually("the connection is closed", async || upstream.open() == 0).await;
            assert_eq!(upstream.made(), made, "{protocol:?}");
        }
        pair.stop().await;
    }
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
    // The threads share no connection to the upstream. New client connections reach the threads in turn.
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
    // Every thread of the data plane gets some of these calls, and dials once.
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
