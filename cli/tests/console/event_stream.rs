//! A live page, as far as its event stream goes.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::browser::Browser;

/// Longest time that a test waits for a text of a stream, or for its end. A sample is taken every two seconds.
const SOON: Duration = Duration::from_secs(30);

pub(crate) struct EventStream {
    stream: TcpStream,
    /// Everything that was read.
    text: String,
}

impl EventStream {
    pub(crate) async fn open(browser: &Browser, path: &str) -> Self {
        let host = browser.host();
        let mut stream = TcpStream::connect(host).await.unwrap();
        let cookie = browser.cookie.as_deref().unwrap_or_default();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\naccept: text/event-stream\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        Self {
            stream,
            text: String::new(),
        }
    }

    /// Reads once, and returns false at the end of the stream.
    async fn read(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let read = self.stream.read(&mut buffer).await;
        // A stream that the console breaks off has ended too.
        let read = read.unwrap_or(0);
        self.text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        read > 0
    }

    /// Reads until the stream has the text, and forgets everything up to it.
    pub(crate) async fn until(&mut self, text: &str) {
        let found = async {
            loop {
                if let Some((_, rest)) = self.text.split_once(text) {
                    self.text = rest.to_owned();
                    return;
                }
                assert!(
                    self.read().await,
                    "the stream ended before {text:?}: {}",
                    self.text
                );
            }
        };
        timeout(SOON, found)
            .await
            .unwrap_or_else(|_| panic!("no {text:?}"));
    }

    /// Reads to the end of the stream.
    pub(crate) async fn end(&mut self) {
        let ended = async {
            while self.read().await {
                // A chunked body ends with an empty chunk, and the connection stays open.
                if self.text.ends_with("\r\n0\r\n\r\n") || self.text == "0\r\n\r\n" {
                    return;
                }
            }
        };
        timeout(SOON, ended).await.expect("the stream goes on");
    }
}
