//! Requests and answers as raw bytes, for messages that no HTTP library would send.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::PATIENCE;

/// Sends `bytes` on a new connection and reads until the peer closes it, so `bytes` should have `Connection: close`.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The peer may refuse the request and close the connection before it has read everything.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut answer = Vec::new();
    // A reset after the answer counts as the end of the connection.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection was never closed");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Returns the status code of an HTTP/1.1 answer, or 0 when it has none.
pub fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

/// An upstream that answers every connection with the same bytes and records the bytes that it received.
pub struct RawUpstream {
    pub address: SocketAddr,
    received: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl RawUpstream {
    /// Sends `answer` on each connection once a request's head has ended.
    pub async fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let mut buffer = [0; 16 * 1024];
                    let mut answered = false;
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        bytes.extend_from_slice(&buffer[..count]);
                        if !answered && bytes.windows(4).any(|end| end == b"\r\n\r\n") {
                            answered = true;
                            let _ = stream.write_all(answer).await;
                        }
                    }
                    let _ = sender.send(bytes);
                });
            }
        });
        Self { address, received }
    }

    /// Returns the bytes that were received on the next connection that the peer closes.
    pub async fn received(&mut self) -> Vec<u8> {
        timeout(PATIENCE, self.received.recv())
            .await
            .expect("no connection was closed")
            .unwrap()
    }
}
