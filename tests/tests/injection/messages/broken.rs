//! Streams that break while they are forwarded: earlier messages arrive, malformed ones do not, and neither side sees a
//! regular end.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// A call whose first message was answered. The test decides which bytes follow.
struct Open {
    send: mpsc::Sender<io::Result<Bytes>>,
    body: Incoming,
}

async fn open(pair: &Pair, headers: &[(&str, &str)]) -> Open {
    let (send, sent) = mpsc::channel(4);
    send.send(Ok(framed(0, b"\x0a\x01a").into())).await.unwrap();
    let mut body = begin(pair, headers, chunks(ReceiverStream::new(sent)))
        .await
        .into_body();
    let first = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
    assert!(first.is_data());
    Open { send, body }
}

impl Open {
    async fn send(&self, bytes: impl Into<Bytes>) {
        self.send.send(Ok(bytes.into())).await.unwrap();
    }

    /// Returns the rest of the response's data and its status, or an error when the response breaks off.
    async fn rest(self) -> Result<(Bytes, Status), hyper::Error> {
        let rest = timeout(PATIENCE, self.body.collect()).await.unwrap()?;
        let status = Status::from_header_map(rest.trailers().expect("it ended without trailers"));
        Ok((rest.to_bytes(), status.expect("it ended without a status")))
    }
}

/// Starts an upstream that sends back each piece of a request's body. The channel returns the whole body, and whether
/// it ended without an error.
async fn echo() -> (String, mpsc::UnboundedReceiver<(Vec<u8>, bool)>) {
    let (report, bodies) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let report = report.clone();
            let calls = hyper::service::service_fn(move |request: Request<Incoming>| {
                let report = report.clone();
                async move {
                    let (answer, answers) = mpsc::channel(4);
                    tokio::spawn(echo_all(request.into_body(), answer, report));
                    let response = Response::builder().header("content-type", "application/grpc");
                    let frames = StreamBody::new(ReceiverStream::new(answers));
                    Ok::<_, Infallible>(response.body(frames).unwrap())
                }
            });
            let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(async move { http.serve_connection(io, calls).await.is_ok() });
        }
    });
    (url, bodies)
}

async fn echo_all(
    mut body: Incoming,
    answer: mpsc::Sender<io::Result<Frame<Bytes>>>,
    report: mpsc::UnboundedSender<(Vec<u8>, bool)>,
) {
    let mut received = Vec::new();
    let ended = loop {
        match body.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap();
                received.extend_from_slice(&data);
                let _ = answer.send(Ok(Frame::data(data))).await;
            }
        }
    };
    let _ = report.send((received, ended));
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let _ = answer.send(Ok(Frame::trailers(trailers))).await;
}

async fn echoed(messages: ProtobufMessages) -> (Pair, mpsc::UnboundedReceiver<(Vec<u8>, bool)>) {
    let pair = super::super::dev(&[("TOKEN", "v-1")]).await;
    let (url, bodies) = echo().await;
    pair.injector.add(skill(&url, messages)).await;
    (pair, bodies)
}

fn first() -> Vec<u8> {
    framed(0, [b"\x0a\x01a", TOKEN].concat())
}

#[tokio::test]
async fn a_half_close_is_forwarded_and_the_response_still_arrives() {
    for messages in [ProtobufMessages::First, ProtobufMessages::All] {
        let (pair, mut bodies) = echoed(messages).await;
        let call = open(&pair, &[GRPC]).await;
        let Open { send, body } = call;
        drop(send);
        assert_eq!(
            timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap(),
            (first(), true)
        );
        let rest = body.collect().await.unwrap();
        assert_eq!(rest.trailers().unwrap()["grpc-status"], "0");
        pair.stop().await;
    }
}

#[tokio::test]
async fn a_malformed_later_message_breaks_the_call_and_is_not_sent() {
    for messages in [ProtobufMessages::First, ProtobufMessages::All] {
        let (pair, mut bodies) = echoed(messages).await;
        let gzip = [GRPC, ("grpc-encoding", "gzip")];
        for (headers, bytes, code, reason) in [
            (
                &[GRPC][..],
                b"\0\0\x40\0\x01".to_vec(),
                Code::ResourceExhausted,
                "LIMIT_EXCEEDED",
            ),
            (
                &[GRPC],
                framed(0, b"\x3a\x02a"),
                Code::InvalidArgument,
                "BODY_INVALID",
            ),
            (&[GRPC], framed(3, ""), Code::Internal, "MESSAGE_FLAG_INVALID"),
            (&gzip, framed(1, "no gzip"), Code::InvalidArgument, "BODY_INVALID"),
        ] {
            let call = open(&pair, headers).await;
            call.send(bytes.clone()).await;
            let received = timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap();
            assert_eq!(received, (first(), false), "{bytes:x?}");
            let (data, status) = call.rest().await.unwrap();
            assert!(data.is_empty());
            assert_eq!(refused(&status), (code, reason.to_owned()), "{bytes:x?}");
        }
        let page = e2e::pair::get(&format!("http://{}/metrics", pair.injector.metrics)).await;
        let page = String::from_utf8_lossy(page.body()).into_owned();
        let counted = "aerostack_injector_broken_off_calls_total{workspace=\"dev\",server=\"skill\",reason=\"BODY_INVALID\"} 2\n";
        assert!(page.contains(counted), "{page}");
        pair.stop().await;
    }
}

#[tokio::test]
async fn nothing_is_sent_after_a_malformed_message_among_good_ones() {
    for messages in [ProtobufMessages::First, ProtobufMessages::All] {
        let (pair, mut bodies) = echoed(messages).await;
        let call = open(&pair, &[GRPC, ("grpc-encoding", "gzip")]).await;
        let (good, bad) = (framed(0, b"\x0a\x01b"), framed(1, "no gzip"));
        call.send([&good[..], &bad, &good].concat()).await;
        let (received, ended) = timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap();
        let good = match messages {
            ProtobufMessages::All => framed(0, [b"\x0a\x01b", TOKEN].concat()),
            _ => good,
        };
        assert!(!ended && [first(), good].concat().starts_with(&received));
        let (_, status) = call.rest().await.unwrap();
        assert_eq!(refused(&status).0, Code::InvalidArgument);
        pair.stop().await;
    }
}

#[tokio::test]
async fn a_body_that_ends_within_a_message_is_reported_as_incomplete() {
    let (pair, mut bodies) = echoed(ProtobufMessages::First).await;
    for cut in [&b"\0"[..], b"\0\0\0\0\x02", b"\0\0\0\0\x02a"] {
        let call = open(&pair, &[GRPC]).await;
        call.send(cut).await;
        let Open { send, body } = call;
        drop(send);
        assert_eq!(
            timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap(),
            (first(), false)
        );
        let rest = timeout(PATIENCE, body.collect()).await.unwrap().unwrap();
        let status = Status::from_header_map(rest.trailers().unwrap()).unwrap();
        assert_eq!(
            refused(&status),
            (Code::InvalidArgument, "BODY_INVALID".to_owned())
        );
    }
    pair.stop().await;
}

/// Over HTTP/1.1, trailers may get lost on the way, and a response without them would look complete.
#[tokio::test]
async fn a_broken_call_over_http1_ends_without_a_last_chunk() {
    let (pair, mut bodies) = echoed(ProtobufMessages::First).await;
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let head =
        b"POST /dev/skill/e2e.Probe/Any HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc\r\n\
                 te: trailers\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    stream
        .write_all(&[&head[..], &chunk(&framed(0, b"\x0a\x01a"))].concat())
        .await
        .unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 1000]);
    while !answer.ends_with(&chunk(&first())) {
        let count = timeout(PATIENCE, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..count]);
    }
    stream.write_all(&chunk(&framed(9, ""))).await.unwrap();
    assert!(!timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap().1);
    let mut rest = Vec::new();
    // The connection may also be reset.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "", "it ended as if it were whole");
    pair.stop().await;
}

#[tokio::test]
async fn a_reset_of_the_client_resets_the_upstream() {
    for messages in [ProtobufMessages::First, ProtobufMessages::All] {
        let (pair, mut bodies) = echoed(messages).await;
        let call = open(&pair, &[GRPC]).await;
        call.send(&b"\0\0\0"[..]).await;
        call.send
            .send(Err(io::ErrorKind::BrokenPipe.into()))
            .await
            .unwrap();
        assert_eq!(
            timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap(),
            (first(), false)
        );
        // Dropping the response's body resets the stream as well.
        drop(open(&pair, &[GRPC]).await.body);
        assert!(!timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap().1);
        pair.stop().await;
    }
}

#[tokio::test]
async fn a_stream_that_needs_the_vault_ends_without_it() {
    let (pair, mut bodies) = echoed(ProtobufMessages::All).await;
    let call = open(&pair, &[GRPC]).await;
    pair.vault.stop().await;
    call.send(framed(0, "")).await;
    assert_eq!(
        timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap(),
        (first(), false)
    );
    let (_, status) = call.rest().await.unwrap();
    assert_eq!(refused(&status).0, Code::Unavailable);
    pair.injector.stop().await;
}

#[tokio::test]
async fn a_reset_of_the_upstream_is_forwarded() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (breaks, broken) = mpsc::channel(4);
    breaks.send(Ok(framed(0, "half").into())).await.unwrap();
    let answer = std::sync::Mutex::new(Some(broken));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let calls = hyper::service::service_fn(|_: Request<Incoming>| {
            let answer = chunks(ReceiverStream::new(answer.lock().unwrap().take().unwrap()));
            let response = Response::builder().header("content-type", "application/grpc");
            async { Ok::<_, Infallible>(response.body(answer).unwrap()) }
        });
        let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let _ = http
            .serve_connection(hyper_util::rt::TokioIo::new(stream), calls)
            .await;
    });
    let pair = super::super::dev(&[("TOKEN", "v-1")]).await;
    pair.injector.add(skill(&url, ProtobufMessages::First)).await;
    let call = open(&pair, &[GRPC]).await;
    breaks.send(Err(io::ErrorKind::BrokenPipe.into())).await.unwrap();
    assert!(call.rest().await.is_err(), "it ended as if it were whole");
    pair.stop().await;
}
