//! An upstream whose answers the tests choose.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// Serves on a free port. `answer` gets the request's head, in lower case, and returns the bytes of the answer. The connection
/// is closed after the answer, unless it ends with `KEEP_OPEN`.
pub(crate) async fn serve(answer: fn(&str) -> Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut part = [0; 4096];
                    match stream.read(&mut part).await {
                        Ok(length @ 1..) => head.extend_from_slice(&part[..length]),
                        _ => return,
                    }
                }
                let answer = answer(&String::from_utf8_lossy(&head).to_lowercase());
                let (answer, stays_open) = match answer.strip_suffix(KEEP_OPEN) {
                    Some(answer) => (answer.to_vec(), true),
                    None => (answer, false),
                };
                let _ = stream.write_all(&answer).await;
                if stays_open {
                    // Until the other side goes away.
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            });
        }
    });
    address
}

pub(crate) const KEEP_OPEN: &[u8] = b"\0keep open";

/// Returns an answer with a body of this type.
pub(crate) fn with_body(media_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
