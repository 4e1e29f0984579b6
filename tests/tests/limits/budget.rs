//! The budget for buffered bodies and messages.

use super::*;

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
