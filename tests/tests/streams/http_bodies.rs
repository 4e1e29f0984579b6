//! HTTP calls whose bodies are streamed.

use super::*;

#[tokio::test]
async fn server_sent_events_are_passed_on_one_by_one() {
    let (pair, mut upstream) = (
        Pair::start().await,
        ManualUpstream::start(Some("text/event-stream")).await,
    );
    upstream.served_by(&pair).await;
    for (http2, server) in VERSIONS {
        let request = Request::get(pair.injector.url(&format!("/dev/{server}/events")))
            .header("last-event-id", "41")
            .body(fixed(""))
            .unwrap();
        let response = tokio::spawn(async move { client(http2).request(request).await });
        let events = upstream.next().await;
        // The head arrives before the first event.
        let response = timeout(PATIENCE, response)
            .await
            .expect("the head was held back")
            .unwrap()
            .unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        for event in ["id: 42\ndata: one\n\n", ": comment\n\n", "data: \u{e9}"] {
            // The next event is sent only after this one has arrived, so a proxy that buffers would wait for ever.
            events.send(Ok(Bytes::from(event))).await.unwrap();
            assert_eq!(piece(&mut body).await.unwrap(), event);
        }
        // A piece may end within a character.
        for half in [&b"\xc3"[..], b"\xa9\n\n"] {
            events.send(Ok(Bytes::from_static(half))).await.unwrap();
            assert_eq!(piece(&mut body).await.unwrap(), half);
        }
        drop(events);
        assert!(piece(&mut body).await.is_none());
    }
}

/// The stream lasts longer than every limit, with silence between events.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_outlasts_every_limit_without_delay() {
    const LIMIT: &str = "300ms";
    let pair = Pair::start_with(
        |_| {},
        |settings| {
            let limits = &mut settings.limits;
            for limit in [
                &mut limits.head_timeout,
                &mut limits.body_timeout,
                &mut limits.idle_timeout,
                &mut limits.write_timeout,
                &mut limits.upstream_connect_timeout,
                &mut limits.upstream_idle_timeout,
            ] {
                *limit = LIMIT.to_owned();
            }
        },
    )
    .await;
    let mut upstream = ManualUpstream::start(Some("text/event-stream")).await;
    upstream.served_by(&pair).await;
    let mut streams = Vec::new();
    for (http2, server) in VERSIONS {
        let url = pair.injector.url(&format!("/dev/{server}/events"));
        let request = Request::get(url).body(fixed("")).unwrap();
        let response = tokio::spawn(async move { client(http2).request(request).await });
        let events = upstream.next().await;
        let body = response.await.unwrap().unwrap().into_body();
        streams.push((http2, server, events, body));
    }
    let mut delays = Vec::new();
    for _ in 0..3 {
        sleep(Duration::from_secs(1)).await;
        for (http2, server, events, body) in &mut streams {
            let sent = Instant::now();
            let event = events.send(Ok(Bytes::from_static(b"data: x\n\n"))).await;
            assert!(event.is_ok(), "{server} {http2}: the upstream was given up");
            assert_eq!(piece(body).await.unwrap(), "data: x\n\n");
            delays.push(sent.elapsed());
        }
    }
    delays.sort_unstable();
    // A single slow event can be caused by other tests on the machine.
    assert!(delays[delays.len() / 2] < Duration::from_millis(50), "{delays:?}");
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_the_upstream_call() {
    let (pair, mut upstream) = (Pair::start().await, ManualUpstream::start(None).await);
    upstream.served_by(&pair).await;
    for (http2, server) in VERSIONS {
        let request = Request::get(pair.injector.url(&format!("/dev/{server}/")))
            .body(fixed(""))
            .unwrap();
        let response = tokio::spawn(async move { client(http2).request(request).await });
        let events = upstream.next().await;
        events.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
        let mut response = timeout(PATIENCE, response).await.unwrap().unwrap().unwrap();
        assert_eq!(piece(response.body_mut()).await.unwrap(), "first");
        drop(response);
        timeout(PATIENCE, events.closed())
            .await
            .expect("the upstream never heard that nobody listens");
    }
}

#[tokio::test]
async fn a_body_streams_both_ways_at_once() {
    let pair = Pair::start().await;
    let upstream = serving(|request: Request<Incoming>| async {
        Ok(Response::new(
            request.into_body().map_err(io::Error::other).boxed_unsync(),
        ))
    })
    .await;
    serve_all(&pair, &format!("http://{upstream}")).await;
    for (http2, server) in VERSIONS {
        let (pieces, body) = mpsc::channel::<Result<Bytes, io::Error>>(1);
        let body =
            StreamBody::new(ReceiverStream::new(body).map(|piece| piece.map(Frame::data))).boxed_unsync();
        let request = Request::post(pair.injector.url(&format!("/dev/{server}/")))
            .body(body)
            .unwrap();
        let response = tokio::spawn(async move { client(http2).request(request).await });
        pieces.send(Ok(Bytes::from_static(b"0"))).await.unwrap();
        let mut response = timeout(PATIENCE, response)
            .await
            .expect("waited for the end")
            .unwrap()
            .unwrap();
        assert_eq!(piece(response.body_mut()).await.unwrap(), "0");
        for number in 1..20 {
            let sent = Bytes::from(number.to_string());
            pieces.send(Ok(sent.clone())).await.unwrap();
            assert_eq!(piece(response.body_mut()).await.unwrap(), sent);
        }
        drop(pieces);
        assert!(piece(response.body_mut()).await.is_none());
    }
}

#[tokio::test]
async fn an_aborted_response_never_ends_cleanly() {
    let (pair, mut upstream) = (Pair::start().await, ManualUpstream::start(None).await);
    upstream.served_by(&pair).await;
    for (http2, server) in VERSIONS {
        let request = Request::get(pair.injector.url(&format!("/dev/{server}/")))
            .body(fixed(""))
            .unwrap();
        let response = tokio::spawn(async move { client(http2).request(request).await });
        let pieces = upstream.next().await;
        pieces.send(Ok(Bytes::from_static(b"partial"))).await.unwrap();
        let response = timeout(PATIENCE, response).await.unwrap().unwrap().unwrap();
        // HTTP/1.1 cuts the connection within the chunks. HTTP/2 resets the stream.
        pieces.send(Err(io::Error::other("broken"))).await.unwrap();
        let ended = timeout(PATIENCE, response.into_body().collect()).await.unwrap();
        assert!(ended.is_err(), "{server} http2={http2}");
    }
}

#[tokio::test]
async fn a_truncated_http1_response_never_ends_cleanly() {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    for (number, (answer, whole)) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial"[..],
            None,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n",
            None,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n0\r\n",
            None,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n70\r\npartial",
            None,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\nnonsense\r\n",
            None,
        ),
        // The end of the connection is the regular end of this body.
        (b"HTTP/1.1 200 OK\r\n\r\nwhole", Some("whole")),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole",
            Some("whole"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("s{number}");
        let address = answering(answer, None).await;
        pair.injector
            .add(server("dev", &name, &format!("http://{address}"), &[]))
            .await;
        for http2 in [false, true] {
            let request = Request::get(pair.injector.url(&format!("/dev/{name}/")))
                .body(fixed(""))
                .unwrap();
            let response = timeout(PATIENCE, client(http2).request(request)).await.unwrap();
            let ended = match response {
                Ok(response) => timeout(PATIENCE, response.into_body().collect())
                    .await
                    .unwrap()
                    .ok(),
                Err(_) => None,
            };
            assert_eq!(
                ended.map(|body| body.to_bytes()).as_deref(),
                whole.map(str::as_bytes),
                "{number} {http2}"
            );
        }
    }
}

/// Without `close_notify`, an attacker may have truncated the TLS stream (RFC 8446, section 6.1).
#[tokio::test]
async fn a_response_that_ends_with_the_tls_stream_needs_close_notify() {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    let files = pair.vault.pki.principal(pki::VAULT);
    let config = tls::http_server(Identity::load(&files.cert, &files.key).unwrap(), None).unwrap();
    let answer = b"HTTP/1.1 200 OK\r\n\r\nperhaps whole";
    for (name, closes) in [("closed", true), ("cut", false)] {
        let address = answering(answer, Some((config.clone(), closes))).await;
        let tls = UpstreamTls {
            ca_pem: pair.vault.pki.ca_pem(),
            ..Default::default()
        };
        let url = format!("https://{address}");
        let protocol = Protocol::Http1.into();
        pair.injector
            .add(Described {
                tls: Some(tls),
                protocol,
                ..server("dev", name, &url, &[])
            })
            .await;
        let request = Request::get(pair.injector.url(&format!("/dev/{name}/")))
            .body(fixed(""))
            .unwrap();
        let response = timeout(PATIENCE, client(false).request(request))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let ended = timeout(PATIENCE, response.into_body().collect()).await.unwrap();
        assert_eq!(ended.is_ok(), closes, "{name}");
    }
}

/// Starts an upstream that answers one request on each connection and closes it.
async fn answering(answer: &'static [u8], tls: Option<(Arc<rustls::ServerConfig>, bool)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => drop(answer_once(stream, answer).await),
                    Some((config, closes)) => {
                        let stream = tokio_rustls::TlsAcceptor::from(config)
                            .accept(stream)
                            .await
                            .unwrap();
                        let mut stream = answer_once(stream, answer).await;
                        if closes {
                            let _ = stream.shutdown().await;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn answer_once<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &[u8]) -> S {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

#[tokio::test]
async fn a_call_that_reached_the_upstream_is_never_sent_again() {
    let pair = Pair::start().await;
    let reached = Arc::new(AtomicUsize::new(0));
    let counting = reached.clone();
    // The upstream reads every second request completely, and then breaks the connection.
    let upstream = breaking(move |request: Request<Incoming>, broken: CancellationToken| {
        let counting = counting.clone();
        async move {
            drop(request.into_body().collect().await);
            if counting.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
                broken.cancel();
                pending::<()>().await;
            }
            Ok(Response::new(fixed("ok")))
        }
    })
    .await;
    serve_all(&pair, &format!("http://{upstream}")).await;
    for server in ["http1", "http2"] {
        for method in ["POST", "PUT", "GET"] {
            let before = reached.load(Ordering::SeqCst);
            for status in [StatusCode::OK, StatusCode::BAD_GATEWAY] {
                let request = Request::builder().method(method).uri(format!("/dev/{server}/"));
                let response = pair.injector.send(request, "{\"amount\":1}").await;
                assert_eq!(response.status(), status, "{server} {method}");
            }
            assert_eq!(reached.load(Ordering::SeqCst), before + 2, "{server} {method}");
        }
    }
}

#[tokio::test]
async fn a_pooled_connection_that_closes_during_a_call_causes_no_second_call() {
    let pair = Pair::start().await;
    let reached: Arc<Mutex<Vec<String>>> = Arc::default();
    let address = closing_after_each(reached.clone()).await;
    serve_all(&pair, &format!("http://{address}")).await;
    for number in 0..100 {
        let response = pair
            .injector
            .send(Request::post(format!("/dev/http1/{number}")), "{}")
            .await;
        let status = response.status();
        let times = reached
            .lock()
            .unwrap()
            .iter()
            .filter(|path| **path == format!("/{number}"))
            .count();
        // The injector may notice the closed connection before the call, and make another, or only during the call.
        match status {
            StatusCode::OK => assert_eq!(times, 1),
            StatusCode::BAD_GATEWAY => assert!(times <= 1),
            other => panic!("{other}"),
        }
    }
}

/// Starts an upstream that answers one request on each connection without `Connection: close`, and then closes it.
async fn closing_after_each(reached: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let reached = reached.clone();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n{}") {
                    match stream.read_u8().await {
                        Ok(byte) => read.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8(read).unwrap();
                reached
                    .lock()
                    .unwrap()
                    .push(head.split(' ').nth(1).unwrap().to_owned());
                drop(
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .await,
                );
                drop(stream.shutdown().await);
            });
        }
    });
    address
}

#[tokio::test]
async fn connections_are_closed_after_aborted_calls() {
    let (pair, mut upstream) = (Pair::start().await, ManualUpstream::start(None).await);
    upstream.served_by(&pair).await;
    for _ in 0..50 {
        let request = Request::get(pair.injector.url("/dev/http2/"))
            .body(fixed(""))
            .unwrap();
        let response = tokio::spawn(async move { client(true).request(request).await });
        let pieces = upstream.next().await;
        response.abort();
        eventually("the upstream's stream is closed", async || pieces.is_closed()).await;
    }
}
