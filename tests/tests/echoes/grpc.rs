//! gRPC, whose messages have lengths of their own and whose answers end with trailers.

use std::io::Write as _;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use bytes::Bytes;
use e2e::{PATIENCE, Pair};
use flate2::{Compression, write::GzEncoder, write::ZlibEncoder};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::timeout;

use super::{
    ALL, BROKEN_OFF, MASK, SECRET, Setting, assert_counted, assert_next, begin, dev, fed_upstream, field,
    frames, text, upstream, whole,
};

/// Returns a gRPC message with its prefix.
fn message(flag: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[flag][..], &length, payload].concat()
}

async fn grpc(pair: &Pair) -> Response<Incoming> {
    let request = Request::post(pair.injector.url("/e2e.Echo/Any"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("grpc-accept-encoding", "gzip")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "api");
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    let request = request.body(Full::from(message(0, b""))).unwrap();
    timeout(PATIENCE, client.request(request)).await.unwrap().unwrap()
}

#[tokio::test]
async fn messages_and_the_status_of_grpc_are_masked() {
    let details = format!("\u{8}\u{3}a status with {SECRET} in it");
    let trailers = {
        let details = STANDARD_NO_PAD.encode(&details);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("3"));
        let text = format!("rejected %25 {SECRET}");
        trailers.insert("grpc-message", HeaderValue::from_str(&text).unwrap());
        trailers.insert(
            "grpc-status-details-bin",
            HeaderValue::from_str(&details).unwrap(),
        );
        trailers
    };
    let messages = [
        message(0, b"\x0a\x03abc"),
        message(0, format!("\x0a\x1b{SECRET}").as_bytes()),
        message(0, b""),
    ]
    .concat();
    let expected = String::from_utf8(messages.clone()).unwrap().replace(SECRET, MASK);
    for step in [1, 7, 1000] {
        let data = messages
            .chunks(step)
            .map(|chunk| Frame::data(Bytes::copy_from_slice(chunk)));
        let sent: Vec<Bytes> = data.map(|frame| frame.into_data().unwrap()).collect();
        let trailers = trailers.clone();
        let address = upstream(move |request| {
            assert_eq!(field(request.headers(), "grpc-accept-encoding"), "identity");
            let data = sent.iter().cloned().map(Frame::data);
            let all = data.chain([Frame::trailers(trailers.clone())]).collect();
            let response = Response::builder().header("content-type", "application/grpc");
            response.body(frames(all)).unwrap()
        })
        .await;
        let pair = dev(address, ALL).await;
        let answer = timeout(PATIENCE, grpc(&pair).await.into_body().collect()).await;
        let answer = answer.unwrap().unwrap();
        let trailers = answer.trailers().unwrap().clone();
        assert_eq!(String::from_utf8(answer.to_bytes().to_vec()).unwrap(), expected);
        assert_eq!(field(&trailers, "grpc-message"), format!("rejected %25 {MASK}"));
        let shown = STANDARD_NO_PAD.decode(field(&trailers, "grpc-status-details-bin"));
        let shown = String::from_utf8(shown.unwrap()).unwrap();
        assert_eq!(shown, details.replace(SECRET, MASK));
    }
}

#[tokio::test]
async fn a_message_arrives_before_the_next_one_is_sent() {
    let (address, sender) = fed_upstream("application/grpc").await;
    let pair = dev(address, ALL).await;
    let mut body = grpc(&pair).await.into_body();
    for payload in ["first message", "second message"] {
        let sent = message(0, payload.as_bytes());
        sender.send(Frame::data(sent.clone().into())).unwrap();
        assert_next(&mut body, str::from_utf8(&sent).unwrap()).await;
    }
}

/// Starts an upstream whose answer has these messages, and trailers with the status OK.
async fn answering(encoding: &'static str, messages: Vec<u8>) -> std::net::SocketAddr {
    upstream(move |_| {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-encoding", encoding);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let data = messages
            .chunks(11)
            .map(|chunk| Frame::data(Bytes::copy_from_slice(chunk)));
        let all = data.chain([Frame::trailers(trailers)]).collect();
        response.body(frames(all)).unwrap()
    })
    .await
}

/// Returns the data of an answer, and its trailers.
async fn collected(answer: Response<Incoming>) -> (Bytes, HeaderMap) {
    let answer = timeout(PATIENCE, answer.into_body().collect()).await;
    let answer = answer.unwrap().unwrap();
    let trailers = answer.trailers().unwrap().clone();
    (answer.to_bytes(), trailers)
}

#[tokio::test]
async fn a_compressed_message_is_passed_on_uncompressed_and_masked() {
    let plain = format!("\x0a\x1b{SECRET}");
    let masked = message(0, plain.replace(SECRET, MASK).as_bytes());
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(plain.as_bytes()).unwrap();
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(plain.as_bytes()).unwrap();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let zstd = ruzstd::encoding::compress_to_vec(plain.as_bytes(), level);
    for (encoding, compressed) in [
        ("gzip", gzip.finish().unwrap()),
        ("deflate", deflate.finish().unwrap()),
        ("zstd", zstd),
    ] {
        let messages = [
            message(1, &compressed),
            message(1, b""),
            message(0, plain.as_bytes()),
            message(1, &compressed),
        ];
        let pair = dev(answering(encoding, messages.concat()).await, ALL).await;
        let (data, trailers) = collected(grpc(&pair).await).await;
        let expected = [&*masked, &message(0, b""), &masked, &masked].concat();
        assert_eq!(
            String::from_utf8_lossy(&data),
            String::from_utf8_lossy(&expected),
            "{encoding}"
        );
        assert_eq!(field(&trailers, "grpc-status"), "0", "{encoding}");
    }
}

#[tokio::test]
async fn a_compressed_message_that_cannot_be_decoded_ends_the_call_with_a_status() {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![0; 5 * 1024 * 1024]).unwrap();
    for (encoding, compressed, reason) in [
        ("gzip", b"something".to_vec(), "UPSTREAM_PROTOCOL"),
        ("identity", b"something".to_vec(), "UPSTREAM_PROTOCOL"),
        ("snappy", b"something".to_vec(), "UPSTREAM_ENCODING_UNSUPPORTED"),
        ("gzip", bomb.finish().unwrap(), "UPSTREAM_ENCODING_UNSUPPORTED"),
    ] {
        let first = message(0, b"first");
        let messages = [&*first, &message(1, &compressed)].concat();
        let pair = dev(answering(encoding, messages).await, ALL).await;
        let (data, trailers) = collected(grpc(&pair).await).await;
        assert_eq!(data, first, "{encoding}");
        assert_eq!(field(&trailers, "x-aerostack-reason"), reason, "{encoding}");
        assert_ne!(field(&trailers, "grpc-status"), "0", "{encoding}");
    }
}

#[tokio::test]
async fn a_blocked_answer_ends_with_a_status() {
    let with_value = message(0, SECRET.as_bytes());
    let first = message(0, b"first");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("3"));
    let text = format!("rejected {SECRET}");
    trailers.insert("grpc-message", HeaderValue::from_str(&text).unwrap());
    for (scrub, last) in [
        ("scrub: all", Frame::data(with_value.into())),
        ("scrub: all", Frame::trailers(trailers.clone())),
        ("scrub: headers", Frame::trailers(trailers)),
    ] {
        let (address, sender) = fed_upstream("application/grpc").await;
        let setting = Setting {
            scrub,
            on_echo: "block",
            ..ALL
        };
        let pair = dev(address, setting).await;
        sender.send(Frame::data(first.clone().into())).unwrap();
        sender.send(last).unwrap();
        let (data, trailers) = collected(grpc(&pair).await).await;
        assert_eq!(data, first, "{scrub}");
        assert_eq!(field(&trailers, "grpc-status"), "9", "FAILED_PRECONDITION");
        assert_eq!(field(&trailers, "x-aerostack-reason"), "UPSTREAM_ECHOED_SECRET");
        assert!(!format!("{trailers:?}").contains("canary"), "{trailers:?}");
        assert_counted(&pair, &format!("{BROKEN_OFF} 1\n")).await;
        // The upstream's answer has not ended.
        drop(sender);
    }
}

/// The frames of gRPC-Web have lengths, which a mask keeps. The last frame has the trailers.
#[tokio::test]
async fn grpc_web_keeps_its_frames() {
    let trailers = format!("grpc-status:3\r\ngrpc-message:{SECRET}\r\n");
    let frames = [
        message(0, format!("\x0a\x1b{SECRET}").as_bytes()),
        message(0x80, trailers.as_bytes()),
    ];
    let binary = frames.concat();
    let masked = String::from_utf8_lossy(&binary).replace(SECRET, MASK);
    // The value is found in base64 as well. The program cannot decode the mask, so that its call fails.
    let in_text = STANDARD.encode(&binary);
    for (content_type, body) in [
        ("application/grpc-web+proto", Bytes::from(binary)),
        ("application/grpc-web-text", Bytes::from(in_text.clone())),
    ] {
        let address = upstream(move |_| {
            let response = Response::builder().header("content-type", content_type);
            response.body(whole(body.clone())).unwrap()
        })
        .await;
        let pair = dev(address, ALL).await;
        let answer = begin(&pair).await;
        if content_type == "application/grpc-web-text" {
            let text = text(answer).await;
            assert_eq!(text.len(), in_text.len());
            assert_eq!(
                text.bytes().filter(|byte| *byte == b'*').count(),
                2 * 35,
                "{text}"
            );
        } else {
            let data = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(String::from_utf8_lossy(&data), masked);
        }
    }
}

/// The messages of gRPC-Web and of Connect are not decoded.
#[tokio::test]
async fn compressed_messages_of_grpc_web_and_connect_are_refused() {
    for (content_type, encoding) in [
        ("application/grpc-web+proto", "grpc-encoding"),
        ("application/connect+proto", "connect-content-encoding"),
    ] {
        let address = upstream(move |request| {
            assert!(
                !format!("{:?}", request.headers()).contains("gzip"),
                "{request:?}"
            );
            let response = Response::builder().header("content-type", content_type);
            response
                .header(encoding, "gzip")
                .body(whole("compressed"))
                .unwrap()
        })
        .await;
        let pair = dev(address, ALL).await;
        let url = pair.injector.url("/dev/api/S/M");
        let request = Request::post(url)
            .header("content-type", content_type)
            .header("grpc-accept-encoding", "gzip")
            .header("connect-accept-encoding", "gzip")
            .body(Full::<Bytes>::from("asked"))
            .unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.unwrap();
        assert_eq!(answer.status(), 502, "{content_type}");
        assert_eq!(
            field(answer.headers(), "x-aerostack-reason"),
            "UPSTREAM_ENCODING_UNSUPPORTED"
        );
    }
}

#[tokio::test]
async fn an_answer_that_ends_inside_a_compressed_message_has_an_error_status() {
    let mut cut = message(1, &[0x1f; 100]);
    cut.truncate(60);
    let pair = dev(answering("gzip", cut).await, ALL).await;
    let (data, trailers) = collected(grpc(&pair).await).await;
    assert_eq!(data, "");
    assert_eq!(field(&trailers, "x-aerostack-reason"), "UPSTREAM_PROTOCOL");
    assert_ne!(field(&trailers, "grpc-status"), "0");
}

#[tokio::test]
async fn a_blocked_answer_with_a_length_ends_with_a_status() {
    let body = message(0, SECRET.as_bytes());
    let address = upstream(move |_| {
        let response = Response::builder().header("content-type", "application/grpc");
        let response = response.header("content-length", body.len());
        response.body(whole(body.clone())).unwrap()
    })
    .await;
    let setting = Setting {
        on_echo: "block",
        ..ALL
    };
    let pair = dev(address, setting).await;
    let (data, trailers) = collected(grpc(&pair).await).await;
    assert_eq!(data, "");
    assert_eq!(field(&trailers, "x-aerostack-reason"), "UPSTREAM_ECHOED_SECRET");
}
