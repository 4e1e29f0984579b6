//! Responses that arrive before the request's body was sent.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use e2e::{
    PATIENCE,
    frames::{self, DATA, END_HEADERS, HEADERS, frame},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{dev, head};

const SIZE: usize = 4 << 20;
const ANSWER: &[u8] =
    b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large";

/// The ways in which an upstream closes the connection after its response.
#[derive(Debug, Clone, Copy)]
enum Closes {
    /// At once and with unread bytes, which resets the connection.
    Hard,
    /// Its own direction first, like Node.js, and the other direction soon after.
    Gently,
}

async fn refusing(closes: Closes) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                if head(&mut stream).await.is_none() {
                    return;
                }
                drop(stream.write_all(ANSWER).await);
                if let Closes::Gently = closes {
                    drop(stream.shutdown().await);
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    address
}

/// Sends a large body while it reads, like HTTP libraries. Returns everything that it has read.
async fn post(data_plane: SocketAddr, framing: &'static str) -> String {
    let (mut reads, mut writes) = TcpStream::connect(data_plane).await.unwrap().into_split();
    let writing = tokio::spawn(async move {
        let head = format!("POST /dev/s/ HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n");
        writes.write_all(head.as_bytes()).await?;
        let (size, chunk) = (64 << 10, Bytes::from(vec![b'x'; 64 << 10]));
        for _ in 0..SIZE / size {
            if framing.starts_with("Transfer") {
                writes.write_all(format!("{size:x}\r\n").as_bytes()).await?;
            }
            writes.write_all(&chunk).await?;
            if framing.starts_with("Transfer") {
                writes.write_all(b"\r\n").await?;
            }
            tokio::task::yield_now().await;
        }
        std::io::Result::Ok(writes)
    });
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(b"too large") {
        match timeout(PATIENCE, reads.read(&mut buffer))
            .await
            .expect("no answer came")
        {
            Ok(count @ 1..) => answer.extend_from_slice(&buffer[..count]),
            Ok(_) => break,
            Err(error) => return format!("{error} after {:?}", String::from_utf8_lossy(&answer)),
        }
    }
    writing.abort();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn an_early_response_arrives() {
    for closes in [Closes::Gently, Closes::Hard] {
        let upstream = refusing(closes).await;
        let pair = dev(upstream).await;
        for framing in ["Content-Length: 4194304", "Transfer-Encoding: chunked"] {
            for round in 0..32 {
                let answer = timeout(PATIENCE, post(pair.injector.data_plane, framing)).await;
                let answer = answer.expect("it never ended");
                assert!(
                    answer.starts_with("HTTP/1.1 413") && answer.ends_with("too large"),
                    "{closes:?} {framing} {round}: {answer}"
                );
            }
        }
        pair.stop().await;
    }
}

/// A program that sends its whole body before it reads gets the response, too.
#[tokio::test]
async fn an_early_response_reaches_a_program_that_reads_late() {
    let upstream = refusing(Closes::Hard).await;
    let pair = dev(upstream).await;
    for _ in 0..8 {
        let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let head = format!("POST /dev/s/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SIZE}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let sent = stream.write_all(&vec![b'x'; SIZE]).await;
        sent.expect("the connection was closed before the body was sent");
        let mut answer = vec![0; 4096];
        let count = timeout(PATIENCE, stream.read(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 413"));
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_early_response_arrives_over_http2() {
    for closes in [Closes::Gently, Closes::Hard] {
        let upstream = refusing(closes).await;
        let pair = dev(upstream).await;
        for round in 0..32 {
            let mut connection = frames::connect(pair.injector.data_plane).await;
            let request = [
                frame(HEADERS, END_HEADERS, 1, &frames::request("POST", "/dev/s/")),
                frame(DATA, 0, 1, &[b'x'; 16 << 10]),
                frame(DATA, 0, 1, &[b'x'; 16 << 10]),
            ];
            connection.write_all(&request.concat()).await.unwrap();
            let answer = frames::next(&mut connection, HEADERS)
                .await
                .expect("no answer came");
            // The static table of HPACK has no `:status: 413`.
            let status = answer.payload.windows(3).any(|text| text == b"413");
            let coded = answer.payload.first() == Some(&0x48);
            assert!(status || coded, "{closes:?} {round}: {:?}", answer.payload);
            let body = frames::next(&mut connection, DATA).await.expect("no body came");
            assert_eq!(body.payload, b"too large", "{closes:?} {round}");
        }
        pair.stop().await;
    }
}
