//! The connections that a console keeps when it has as many as it takes.

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{browser::Console, event_stream::EventStream};

/// More connections than a console for one person has.
const MANY: usize = 70;

/// Opens a connection that has carried a request, as browsers keep them.
async fn used_connection(host: &str) -> TcpStream {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("HEAD /assets/icon.svg HTTP/1.1\r\nhost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, *b"HTTP/1.1 200 OK");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_answer_is_still_sent_makes_no_room_for_others() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    browser.change("/workspaces", &[("name", "w")]).await;
    let mut live = EventStream::open(&browser, "/w/w/activity/live").await;
    live.until("event: sample").await;
    let mut kept = Vec::new();
    for _ in 0..MANY {
        kept.push(used_connection(browser.host()).await);
    }
    live.until("event: sample").await;
    assert_eq!(browser.get("/").await.status, StatusCode::OK);
}
