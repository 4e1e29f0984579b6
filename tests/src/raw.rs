//! Bytes as they are, for what no HTTP library would send.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::PATIENCE;

/// Sends `bytes` on a connection of its own and reads until it is closed. Ask for `Connection: close`.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may refuse, and close, before it has read everything.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection was never closed");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status code of an HTTP/1.1 answer.
pub fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

/// An upstream that answers every connection with the same bytes, and hands out what it received on it, byte for byte.
pub struct RawUpstream {
    /// Where it listens.
    pub address: SocketAddr,
    received: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl RawUpstream {
    /// Answers with `answer` once a request's head has ended, and hands out what was received once the connection is
    /// closed by the other side.
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

    /// What was received on the next connection that was closed.
    pub async fn received(&mut self) -> Vec<u8> {
        timeout(PATIENCE, self.received.recv())
            .await
            .expect("no connection was closed")
            .unwrap()
    }
}
