//! Clients that send or read a byte now and then must not delay other clients.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Upstream, eventually,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, frame},
    pair::server,
    process,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use proto::injector::v1::{Protocol, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Mutex,
    time::{sleep, timeout},
};

/// Number of slow clients.
const CLIENTS: usize = 200;
/// Size of the response that a client requests and does not read.
const LARGE: usize = 8 << 20;

/// Tests measure the memory of the process, so only one test runs at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Starts a pair whose workspace `dev` has the servers `http1` and `http2`, which answer `/large` with a large body.
async fn dev() -> Pair {
    let pair = Pair::start().await;
    let large = Bytes::from(vec![b'x'; LARGE]);
    let upstream = Upstream::answering(move |seen| {
        Response::new(Full::from(match seen.target.as_str() {
            "/large" => large.clone(),
            _ => Bytes::from_static(b"ok"),
        }))
    })
    .await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", "canary-10ad").await;
    for (name, protocol) in [("http1", Protocol::Http1), ("http2", Protocol::Http2)] {
        let described = Server {
            protocol: protocol.into(),
            ..server("dev", name, &upstream.url(), &["TOKEN"])
        };
        pair.injector.add(described).await;
    }
    pair
}

/// Asserts that other clients are served without delay.
async fn others_are_served(pair: &Pair) {
    for server in ["http1", "http2"] {
        for _ in 0..10 {
            let started = Instant::now();
            let path = format!("/dev/{server}/");
            let answer = timeout(PATIENCE, pair.injector.get(&path)).await;
            assert_eq!(answer.expect("nobody is served").status(), StatusCode::OK);
            assert!(
                started.elapsed() < Duration::from_secs(2),
                "{:?}",
                started.elapsed()
            );
        }
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

#[tokio::test]
async fn clients_that_send_a_byte_now_and_then_delay_no_others() {
    const ROUNDS: usize = 15;
    let _alone = ALONE.lock().await;
    let pair = dev().await;
    others_are_served(&pair).await;
    let http1 = b"GET /dev/http1/ HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let head = frames::request("GET", "/dev/http1/");
    let http2 = [
        PREFACE,
        &frame(frames::SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &head),
    ]
    .concat();
    let body = b"POST /dev/http1/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".to_vec();
    // The point at which each client becomes slow.
    let slow = [
        (&http1, 0),
        (&http1, 20),
        (&http2, 0),
        (&http2, PREFACE.len()),
        (&http2, PREFACE.len() + 9 + 5),
        (&http2, PREFACE.len() + 9 + 9 + 20),
        (&body, body.len()),
    ];
    let (before, tasks) = (process::reset_peak(), process::tasks());
    let mut clients = Vec::new();
    for (bytes, from) in slow.iter().cycle().take(CLIENTS) {
        let mut client = connect(pair.injector.data_plane).await;
        client.write_all(&bytes[..*from]).await.unwrap();
        clients.push((client, *bytes, *from));
    }
    for _ in 0..ROUNDS {
        for (client, bytes, sent) in &mut clients {
            let byte = bytes.get(*sent).unwrap_or(&b'x');
            client.write_all(&[*byte]).await.unwrap();
            *sent += 1;
        }
        others_are_served(&pair).await;
        sleep(Duration::from_millis(10)).await;
    }
    let grown = process::peak().saturating_sub(before);
    // The limit is a megabyte for ten clients.
    assert!(grown < CLIENTS * (100 << 10), "memory grew by {grown}");
    drop(clients);
    eventually("nothing is kept of them", async || process::tasks() <= tasks + 4).await;
}

#[tokio::test]
async fn clients_that_do_not_read_delay_no_others_and_use_bounded_memory() {
    const READERS: usize = 60;
    /// Most memory for one client, in the injector and in the upstream, which runs in this process, too.
    const EACH: usize = 2 << 20;
    let _alone = ALONE.lock().await;
    let pair = dev().await;
    others_are_served(&pair).await;
    for server in ["http1", "http2"] {
        for over_http2 in [false, true] {
            let before = process::reset_peak();
            let path = format!("/dev/{server}/large");
            let mut readers = Vec::new();
            for _ in 0..READERS {
                let mut reader = if over_http2 {
                    frames::connect(pair.injector.data_plane).await
                } else {
                    connect(pair.injector.data_plane).await
                };
                let request = if over_http2 {
                    frame(
                        HEADERS,
                        END_HEADERS | END_STREAM,
                        1,
                        &frames::request("GET", &path),
                    )
                } else {
                    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
                };
                reader.write_all(&request).await.unwrap();
                readers.push(reader);
            }
            for _ in 0..3 {
                others_are_served(&pair).await;
                sleep(Duration::from_millis(50)).await;
            }
            let grown = process::peak().saturating_sub(before);
            assert!(
                grown < READERS * EACH,
                "{server}, over_http2={over_http2}: memory grew by {grown}"
            );
            // A client that reads later gets the whole response.
            if let Some(mut reader) = readers.pop() {
                let read = async {
                    if over_http2 {
                        return all_frames(&mut reader).await;
                    }
                    let (mut head, mut read) = (Vec::new(), 0);
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(reader.read_u8().await.unwrap());
                    }
                    let mut buffer = vec![0; 64 << 10];
                    while read < LARGE {
                        let count = reader.read(&mut buffer).await.unwrap();
                        read += buffer[..count].iter().filter(|byte| **byte == b'x').count();
                        assert!(count > 0, "the answer was cut off");
                    }
                    read
                };
                let read = timeout(PATIENCE, read).await.expect("the rest never came");
                assert_eq!(read, LARGE);
            }
        }
    }
}

/// Reads the body on stream 1, and enlarges the windows by the bytes that it reads.
async fn all_frames(reader: &mut TcpStream) -> usize {
    const WINDOW_UPDATE: u8 = 8;
    let mut read = 0;
    loop {
        let data = frames::next(reader, DATA).await.expect("the answer was cut off");
        read += data.payload.len();
        if data.flags & END_STREAM != 0 {
            return read;
        }
        if let Ok(more @ 1..) = u32::try_from(data.payload.len()) {
            for stream in [0, 1] {
                let more = frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
                reader.write_all(&more).await.unwrap();
            }
        }
    }
}
