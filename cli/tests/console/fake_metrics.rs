//! A program that serves the metrics that a test wants.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// Serves a page on every path, or closes every connection while there is no page.
pub(crate) struct FakeMetrics {
    pub(crate) address: SocketAddr,
    page: Arc<Mutex<Option<String>>>,
}

impl FakeMetrics {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let page = Arc::<Mutex<Option<String>>>::default();
        let served = page.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let page = served.lock().unwrap().clone();
                let Some(page) = page else { continue };
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    page.len()
                );
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(format!("{head}{page}").as_bytes()).await;
            }
        });
        Self { address, page }
    }

    /// Serves the metrics of an injector that started at `started`.
    pub(crate) fn serve(&self, started: u64, lines: &[String]) {
        let page = format!(
            "aerostack_build_info{{service=\"injector-service\",version=\"0\"}} 1\n\
             process_start_time_seconds {started}\n{}\n# EOF\n",
            lines.join("\n")
        );
        *self.page.lock().unwrap() = Some(page);
    }

    pub(crate) fn stop(&self) {
        *self.page.lock().unwrap() = None;
    }
}

/// Returns the line that counts calls to a server of the workspace `w`.
pub(crate) fn calls(server: &str, number: u64) -> String {
    let labels = format!("workspace=\"w\",server=\"{server}\",outcome=\"FORWARDED\",status_class=\"2xx\"");
    format!("aerostack_injector_calls_total{{{labels}}} {number}")
}
