//! A malformed request is refused with a reason, like every other request that is refused.

use std::time::Duration;

use e2e::raw;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{dev, playing};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_malformed_request_is_refused_with_a_reason() {
    let pair = dev(playing(OK.to_vec()).await).await;
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "x".repeat(300 << 10)
    );
    let large = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(300 << 10)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "x: y\r\n".repeat(300)
    );
    let endless = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nx: {}",
        "x".repeat(900 << 10)
    );
    for (request, status, reason) in [
        ("nonsense\r\n\r\n", 400, "REQUEST_MALFORMED"),
        (
            "GET / HTTP/3.0\r\nHost: localhost\r\n\r\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (
            "GET /dev/s/ HTTP/1.1\r\nHost: localhost\r\nx y: z\r\n\r\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (
            "GET /dev/s/ HTTP/1.1\r\nHost: localhost\r\nx: a\r\n b\r\n\r\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (
            "POST /dev/s/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (
            "POST /dev/s/ HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (
            "POST /dev/s/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
            "TRANSFER_CODING_UNSUPPORTED",
        ),
        // hyper's parser accepts these heads, and other servers read them differently.
        (
            "GET /dev/s/ HTTP/1.1\nHost: localhost\n\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (
            "GET /dev/s/ HTTP/1.1\r\nHost: localhost\nx: y\r\n\r\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (
            "GET /dev/s/ HTTP/1.1\r\nHost: localhost\r\nx: y\r\n\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (
            "POST /dev/s/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (
            "POST /dev/s/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            400,
            "REQUEST_MALFORMED",
        ),
        (&long, 414, "URI_TOO_LONG"),
        (&large, 431, "HEADERS_TOO_LARGE"),
        (&many, 431, "HEADERS_TOO_LARGE"),
        (&endless, 431, "HEADERS_TOO_LARGE"),
    ] {
        let shown: String = request.chars().take(120).collect();
        // The malformed request comes alone, and after a request whose response comes first.
        for before in [
            "",
            "POST /dev/s/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        ] {
            let answer = raw::exchange(pair.injector.data_plane, [before, request].concat()).await;
            let last = answer.rsplit("HTTP/1.1 ").next().unwrap();
            assert_eq!(&last[..3], status.to_string(), "{shown:?}: {answer}");
            assert!(
                last.contains(&format!("x-aerostack-reason: {reason}")),
                "{shown:?}: {answer}"
            );
            assert!(last.contains("x-aerostack-call-id: "), "{shown:?}: {answer}");
            assert!(last.contains("application/problem+json"), "{shown:?}: {answer}");
            assert_eq!(
                answer.matches("HTTP/1.1 ").count(),
                1 + usize::from(!before.is_empty()),
                "{answer}"
            );
        }
    }
    let metrics = e2e::pair::get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let metrics = String::from_utf8(metrics.into_body().to_vec()).unwrap();
    assert!(metrics.contains("REQUEST_MALFORMED"), "{metrics}");
    pair.stop().await;
}

/// A program that sends everything before it reads gets the refusal, too.
#[tokio::test]
async fn a_refusal_reaches_a_program_that_reads_late() {
    let pair = dev(playing(OK.to_vec()).await).await;
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nx: {}", "x".repeat(8 << 20));
    for _ in 0..4 {
        let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let sent = stream.write_all(head.as_bytes()).await;
        sent.expect("the connection was closed before the head was sent");
        let mut answer = vec![0; 4096];
        let count = timeout(e2e::PATIENCE, stream.read(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 431"));
    }
    pair.stop().await;
}

/// The pieces in which a request arrives make no difference.
#[tokio::test]
async fn a_request_may_arrive_byte_by_byte() {
    let pair = dev(playing(OK.to_vec()).await).await;
    let requests = "\r\nPOST /dev/s/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                    2;a=\"\r\n{}\r\n0\r\nx: y\r\n\r\nGET /dev/s/ HTTP/1.1\r\nHost: localhost\r\n\r\n\
                    POST /dev/s/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\n{}\
                    GET /dev/s/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for piece in [1, 3, 7, 60, 1000] {
        let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut reads, mut writes) = stream.split();
        let writing = async {
            for piece in requests.as_bytes().chunks(piece) {
                writes.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let reading = async {
            let (mut answers, mut buffer) = (String::new(), [0; 4096]);
            while answers.matches("\r\n\r\nok").count() < 4 {
                let read = timeout(Duration::from_secs(20), reads.read(&mut buffer)).await;
                let count = read.unwrap_or_else(|_| panic!("{piece}: {answers}")).unwrap();
                assert!(count > 0, "{piece}: {answers}");
                answers.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
            answers
        };
        let (answers, ()) = tokio::join!(reading, writing);
        assert_eq!(
            answers.matches("HTTP/1.1 200 OK").count(),
            4,
            "{piece}: {answers}"
        );
    }
    pair.stop().await;
}
