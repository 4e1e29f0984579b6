//! Upstreams that send interim (1xx) responses before the final one.

use std::net::SocketAddr;

use e2e::{
    frames::{self, END_HEADERS, END_STREAM, HEADERS, SETTINGS, STATUS_200, field, frame},
    pair::server,
};
use http::Version;
use proto::injector::v1::{Protocol, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{call, dev, refusal};

/// The number of interim responses before the final one, or None for an upstream that never sends a final one.
type Interim = Option<usize>;

/// Starts an upstream for one call over HTTP/1.1 or HTTP/2.
async fn upstream(protocol: Protocol, interim: Interim) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (hint, answer) = match protocol {
            Protocol::Http2 => begin_http2(&mut stream).await,
            Protocol::Http1 | Protocol::Auto | Protocol::Unspecified => {
                assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
                (
                    b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".to_vec(),
                    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
                )
            }
        };
        let mut left = interim.unwrap_or(usize::MAX);
        // The loop ends when the injector closes the connection.
        while left > 0 && stream.write_all(&hint).await.is_ok() {
            left -= 1;
        }
        let _ = stream.write_all(&answer).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    address
}

/// Reads up to the head of a request. Returns an interim response and a final response to that request.
async fn begin_http2(stream: &mut TcpStream) -> (Vec<u8>, Vec<u8>) {
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let mut preface = vec![0; frames::PREFACE.len()];
    stream.read_exact(&mut preface).await.unwrap();
    let id = frames::next(stream, HEADERS).await.unwrap().stream;
    (
        frame(HEADERS, END_HEADERS, id, &field(":status", "103")),
        frame(HEADERS, END_HEADERS | END_STREAM, id, &[STATUS_200]),
    )
}

#[tokio::test]
async fn interim_responses_are_skipped_up_to_a_limit() {
    let pair = dev().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (interim, expected) in [(Some(3), 200), (None, 502)] {
            let address = upstream(protocol, interim).await;
            let api = Server {
                protocol: protocol.into(),
                ..server("dev", "api", &format!("http://{address}"), &["TOKEN"])
            };
            pair.injector.add(api).await;
            let response = call(&pair, Version::HTTP_11).await;
            assert_eq!(refusal(&response).0, expected, "{protocol:?} {response:?}");
            pair.injector.remove("dev", "api").await;
        }
    }
    pair.stop().await;
}
