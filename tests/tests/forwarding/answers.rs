//! Responses reach the program in its own version of HTTP, as far as the upstream sent them, and without fields that
//! the program must not get.

use std::net::SocketAddr;

use e2e::{
    PATIENCE, Pair,
    frames::{self, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, STATUS_200, field, frame},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Answer, dev, get, limited, playing};

/// `python -m http.server` responds over HTTP/1.0. A program must not lose its connection because of that.
#[tokio::test]
async fn an_http_1_0_response_does_not_close_the_programs_connection() {
    let upstream = playing(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()).await;
    let pair = dev(upstream).await;
    let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    for _ in 0..2 {
        stream
            .write_all(b"GET /dev/s/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            let byte = timeout(PATIENCE, stream.read_u8()).await.expect("no answer came");
            answer.push(byte.expect("the connection was closed"));
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(!answer.contains("connection"), "{answer}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn the_data_before_a_malformed_chunk_arrives() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Mine: 1\r\n\r\n";
    for (chunks, body) in [
        ("zz\r\n", ""),
        ("4\r\ngood\r\nzz\r\n", "good"),
        ("4\r\nbadx\r\r", "badx"),
    ] {
        let upstream = playing([head, chunks].concat().into_bytes()).await;
        let pair = dev(upstream).await;
        for http2 in [false, true] {
            for _ in 0..10 {
                let answer = get(&pair, "/dev/s/", http2).await;
                let answer = answer.unwrap_or_else(|| panic!("{chunks:?} {http2}: no head came"));
                assert_eq!(answer.head.headers()["x-mine"], "1");
                assert_eq!(answer.body, body.as_bytes(), "{chunks:?} {http2}");
                assert!(!answer.whole, "{chunks:?} {http2}: it ended cleanly");
            }
        }
        pair.stop().await;
    }
}

#[tokio::test]
async fn fields_that_belong_into_the_head_are_removed_from_trailers() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
                  Trailer: x-sum, content-length, set-cookie, content-type\r\n\r\n2\r\nok\r\n0\r\n\
                  X-Sum: 1\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\nSet_Cookie: a=b\r\nContent-Type: text/html\r\n\
                  Content_Encoding: gzip\r\nTrailer: x\r\nHost: x\r\nWWW-Authenticate: Basic\r\n\r\n";
    let pair = dev(playing(answer.as_bytes().to_vec()).await).await;
    for http2 in [false, true] {
        let answer = get(&pair, "/dev/s/", http2).await.expect("no head came");
        assert!(answer.whole, "{http2}");
        assert_eq!(answer.body, b"ok");
        let names: Vec<_> = answer.trailers.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["x-sum"], "{http2}");
    }
    pair.stop().await;
}

// ---- the size of a response's head ----

fn fields(count: usize, size: usize) -> Vec<(String, String)> {
    (0..count)
        .map(|number| (format!("x-{number}"), "y".repeat(size)))
        .collect()
}

async fn over_http1(fields: &[(String, String)]) -> SocketAddr {
    let lines: String = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    playing(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{lines}\r\nok").into_bytes()).await
}

async fn over_http2(fields: &[(String, String)]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fields = fields.iter().flat_map(|(name, value)| field(name, value));
    let block: Vec<u8> = std::iter::once(STATUS_200).chain(fields).collect();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let block = block.clone();
            tokio::spawn(async move {
                stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                while let Some(head) = frames::next(&mut stream, HEADERS).await {
                    let mut parts = block.chunks(16 << 10).peekable();
                    let mut answer = Vec::new();
                    let (mut kind, mut flags) = (HEADERS, END_STREAM);
                    while let Some(part) = parts.next() {
                        if parts.peek().is_none() {
                            flags |= END_HEADERS;
                        }
                        answer.extend(frame(kind, flags, head.stream, part));
                        (kind, flags) = (frames::CONTINUATION, 0);
                    }
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn assert_too_large(pair: &Pair, path: &str, setting: &str) {
    let Answer { head, body, .. } = get(pair, path, false).await.expect("no head came");
    let text = String::from_utf8(body).unwrap();
    assert_eq!(head.status(), 502, "{path}: {text}");
    assert_eq!(
        head.headers()["x-aerostack-reason"],
        "UPSTREAM_HEAD_TOO_LARGE",
        "{text}"
    );
    assert!(text.contains(setting), "{text}");
}

#[tokio::test]
async fn a_response_head_may_be_as_large_as_the_settings_allow() {
    let (many, large) = ("--upstream-max-headers", "--upstream-max-headers-size");
    for (count, size, setting) in [
        (101, 10, None),
        (250, 10, None),
        (300, 10, Some(many)),
        (20_000, 1, Some(many)),
        (100, 2000, None),
        (100, 4000, Some(large)),
        (1, 600 << 10, Some(large)),
    ] {
        let fields = fields(count, size);
        for (upstream, path) in [
            (over_http1(&fields).await, "/dev/s/"),
            (over_http2(&fields).await, "/dev/h2/"),
        ] {
            let pair = dev(upstream).await;
            match setting {
                None => {
                    let answer = get(&pair, path, false).await.expect("no head came");
                    assert_eq!(answer.head.status(), 200, "{count} {size} {path}");
                    let all = fields.iter().all(|(name, value)| {
                        answer
                            .head
                            .headers()
                            .get(name)
                            .is_some_and(|found| found == value)
                    });
                    assert!(all, "{count} {size} {path}");
                }
                Some(setting) => assert_too_large(&pair, path, setting).await,
            }
            pair.stop().await;
        }
    }
}

#[tokio::test]
async fn the_limits_of_a_response_head_are_settings() {
    let fields = fields(400, 10);
    let pair = limited(over_http1(&fields).await, |limits| {
        limits.upstream_max_headers = "500".to_owned();
    })
    .await;
    let answer = get(&pair, "/dev/s/", false).await.expect("no head came");
    assert_eq!(answer.head.status(), 200);
    pair.stop().await;
}
