//! Request smuggling: the injector refuses requests whose length can be read in two ways. For all bytes that a client
//! writes, the upstream reads as many requests as the injector, and nothing between them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use e2e::{
    PATIENCE, Pair,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, field, frame},
    pair::server,
    raw::{self, RawUpstream},
};
use http::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// An upstream with a strict parser: one request on each connection, one statement of its length, and no bytes after
/// it.
#[derive(Clone)]
struct StrictUpstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Result<CompleteRequest, String>>>>,
}

/// A complete request.
#[derive(Debug, Clone, PartialEq)]
struct CompleteRequest {
    target: String,
    body: Vec<u8>,
}

impl StrictUpstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let strict = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let seen = strict.seen.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let mut buffer = [0; 4096];
                    let whole = loop {
                        match read(&bytes) {
                            Ok(None) => {}
                            Ok(Some(whole)) => break Ok(whole),
                            Err(wrong) => break Err(wrong),
                        }
                        match stream.read(&mut buffer).await {
                            Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
                            // The connection ended within the request.
                            Ok(_) | Err(_) => return,
                        }
                    };
                    seen.lock().unwrap().push(whole);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                    drop(stream.write_all(answer).await);
                });
            }
        });
        strict
    }

    fn take(&self) -> Vec<Result<CompleteRequest, String>> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Returns the only request in these bytes, or `None` when the request is incomplete.
fn read(bytes: &[u8]) -> Result<Option<CompleteRequest>, String> {
    let wrong = |what: &str| Err(format!("{what}: {:?}", String::from_utf8_lossy(bytes)));
    let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let rest = &bytes[end + 4..];
    if head.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return wrong("a line that others may read as two");
    }
    let mut lines = head.split("\r\n");
    let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let (mut lengths, mut encodings) = (Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = line
            .split_once(": ")
            .ok_or_else(|| format!("no field: {line:?}"))?;
        match name {
            "content-length" => lengths.push(value.to_owned()),
            "transfer-encoding" => encodings.push(value.to_owned()),
            _ if name.trim() != name => return wrong("a name with spaces"),
            _ => {}
        }
    }
    let body = match (&lengths[..], &encodings[..]) {
        ([], []) => Some((Vec::new(), rest)),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse().unwrap();
            rest.get(..length).map(|body| (body.to_vec(), &rest[length..]))
        }
        ([], [encoding]) if encoding == "chunked" => chunks(rest)?,
        _ => return wrong("a length told in two ways"),
    };
    match body {
        None => Ok(None),
        Some((body, [])) => Ok(Some(CompleteRequest { target, body })),
        Some(_) => wrong("more than one request"),
    }
}

/// A body, and the bytes after it.
type Split<'b> = (Vec<u8>, &'b [u8]);

/// Returns the body in these chunks, or `None` when the body is incomplete.
fn chunks(mut rest: &[u8]) -> Result<Option<Split<'_>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|end| end == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        // The line contains only the size: no extension, sign or space.
        let size = usize::from_str_radix(size, 16).map_err(|_| format!("a chunk's size is {size:?}"))?;
        let Some(chunk) = rest.get(end + 2..end + 4 + size) else {
            return Ok(None);
        };
        let (chunk, line) = chunk.split_at(size);
        if line != b"\r\n" {
            return Err(
                "a chunk is longer than it said, or trailers follow that nobody announced".to_owned(),
            );
        }
        rest = &rest[end + 4 + size..];
        if size == 0 {
            return Ok(Some((body, rest)));
        }
        body.extend_from_slice(chunk);
    }
}

async fn dev() -> (Pair, StrictUpstream) {
    let (pair, upstream) = (Pair::start().await, StrictUpstream::start().await);
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", "canary-f4a3").await;
    let url = format!("http://{}", upstream.address);
    pair.injector.add(server("dev", "s", &url, &["TOKEN"])).await;
    (pair, upstream)
}

/// Sends these bytes, and returns the statuses of all responses.
async fn statuses(pair: &Pair, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    // The injector may refuse the request and close the connection before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // The injector may wait for the rest of an incomplete request.
    let waiting = std::time::Duration::from_millis(400);
    while let Ok(Ok(count @ 1..)) = timeout(waiting, stream.read(&mut buffer)).await {
        answer.extend_from_slice(&buffer[..count]);
        if answer.ends_with(b"}") || answer.ends_with(b"ok") {
            // A further response would arrive at once.
            let more = timeout(waiting / 8, stream.readable()).await;
            if more.is_err() {
                break;
            }
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let answers = answer.split("HTTP/1.1 ").skip(1);
    answers.map(|answer| answer[..3].parse().unwrap()).collect()
}

/// Returns a POST with these framing fields, and with `rest` after its head.
fn post(lines: &str, rest: &str) -> Vec<u8> {
    format!("POST /dev/s/one HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n{rest}").into_bytes()
}

/// A request that must not be read as one, because it is within a body.
const SMUGGLED: &str = "GET /dev/s/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn an_invalid_length_is_refused() {
    let (pair, upstream) = dev().await;
    for lines in [
        "Content-Length: -2",
        "Content-Length: +2",
        "Content-Length: 0x2",
        "Content-Length: 2x",
        "Content-Length: 2 2",
        "Content-Length: 2;",
        "Content-Length: ",
        "Content-Length: 2.0",
        "Content-Length: 18446744073709551618",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2, 3",
        "Content-Length: 2\r\nContent-Length: x",
        "Content-Length : 2",
        "Content-Length: 2\r\n\tx: y",
        "Content-Length: 2\0",
        "Content-Length: 2\rx: y",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding: chu\r\n nked",
        "Transfer-Encoding:\r\n chunked",
        "X: a\r\n b",
        "X: a\0b",
        "X: a\rb",
        "X y: z",
        ": x",
        "x",
        "X\0: y",
        "X(): y",
    ] {
        for rest in ["{}", "2\r\n{}\r\n0\r\n\r\n"] {
            let request = [&post(lines, rest)[..], SMUGGLED.as_bytes()].concat();
            let statuses = statuses(&pair, &request).await;
            assert_eq!(statuses, [400], "{lines:?} {rest:?}");
            assert_eq!(upstream.take(), [], "{lines:?} {rest:?}");
        }
    }
}

#[tokio::test]
async fn a_malformed_chunk_ends_the_request() {
    let (pair, upstream) = dev().await;
    for chunks in [
        "2\r\n{}x\r\n0\r\n\r\n",
        "1\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "2 2\r\n{}\r\n0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
        "\r\n2\r\n{}\r\n0\r\n\r\n",
        "g\r\n{}\r\n0\r\n\r\n",
        "\r\n\r\n",
        "2\n{}\r\n0\r\n\r\n",
        "2\r\n{}\n0\r\n\r\n",
        "10000000000000002\r\n{}\r\n0\r\n\r\n",
        "2;a\n{}\r\n0\r\n\r\n",
        "2\r\n{}\r\n0\r\nx\r\n\r\n",
    ] {
        let request = [
            &post("Transfer-Encoding: chunked", chunks)[..],
            SMUGGLED.as_bytes(),
        ]
        .concat();
        let statuses = statuses(&pair, &request).await;
        assert!(
            statuses.iter().all(|status| *status == 400),
            "{chunks:?}: {statuses:?}"
        );
        assert_eq!(upstream.take(), [], "{chunks:?}");
    }
}

#[tokio::test]
async fn an_unambiguous_request_is_forwarded_unambiguously() {
    let (pair, upstream) = dev().await;
    let one = |body: &[u8]| CompleteRequest {
        target: "/one".to_owned(),
        body: body.to_vec(),
    };
    let chunked = "Transfer-Encoding: chunked";
    for (lines, rest, body) in [
        ("Content-Length: 2", "{}", &b"{}"[..]),
        ("Content-Length: 02", "{}", b"{}"),
        ("content-length:2", "{}", b"{}"),
        ("Content-Length: 2\r\nContent-Length: 2", "{}", b"{}"),
        ("Content-Length: 0", "", b""),
        ("X: y", "", b""),
        (chunked, "2\r\n{}\r\n0\r\n\r\n", b"{}"),
        ("Transfer-Encoding: Chunked", "2\r\n{}\r\n0\r\n\r\n", b"{}"),
        (chunked, "1\r\n{\r\n00001\r\n}\r\n000\r\n\r\n", b"{}"),
        (chunked, "2;a=b;c=\"d\"\r\n{}\r\n0;e\r\n\r\n", b"{}"),
        (
            chunked,
            "2\r\n{}\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: y\r\n\r\n",
            b"{}",
        ),
        // The bytes within a body are never a request.
        (chunked, "7\r\n0\r\n\r\nGE\r\n0\r\n\r\n", b"0\r\n\r\nGE"),
    ] {
        let statuses = statuses(&pair, &post(lines, rest)).await;
        assert_eq!(statuses, [200], "{lines:?} {rest:?}");
        assert_eq!(upstream.take(), [Ok(one(body))], "{lines:?} {rest:?}");
    }
    // Two pipelined requests arrive as two, each with its own fields and body.
    let two = [&post("Content-Length: 2", "{}")[..], SMUGGLED.as_bytes()].concat();
    assert_eq!(statuses(&pair, &two).await, [200, 200]);
    let second = CompleteRequest {
        target: "/smuggled".to_owned(),
        body: Vec::new(),
    };
    assert_eq!(upstream.take(), [Ok(one(b"{}")), Ok(second)]);
}

/// Recipients differ in the length that they use (RFC 9112, section 6.3).
#[tokio::test]
async fn two_statements_of_a_length_are_refused() {
    let (pair, upstream) = dev().await;
    let old = "POST /dev/s/one HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    assert_eq!(statuses(&pair, old.as_bytes()).await, [400]);
    assert_eq!(upstream.take(), []);
    for lines in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Transfer-Encoding: chunked\r\nContent-Length: 1000",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 2, 2",
    ] {
        let request = [&post(lines, "2\r\n{}\r\n0\r\n\r\n")[..], SMUGGLED.as_bytes()].concat();
        assert_eq!(statuses(&pair, &request).await, [400], "{lines:?}");
        assert_eq!(upstream.take(), [], "{lines:?}");
    }
}

/// The injector forwards the body as chunks, so another coding in `Transfer-Encoding` would be lost.
#[tokio::test]
async fn a_body_with_another_transfer_coding_is_refused() {
    let (pair, upstream) = dev().await;
    for lines in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ] {
        let answer = raw::exchange(
            pair.injector.data_plane,
            post(&format!("{lines}\r\nConnection: close"), "2\r\n{}\r\n0\r\n\r\n"),
        )
        .await;
        assert_eq!(raw::status(&answer), 501, "{lines:?}: {answer}");
        assert!(answer.contains("TRANSFER_CODING_UNSUPPORTED"), "{answer}");
        assert_eq!(upstream.take(), [], "{lines:?}");
    }
}

#[tokio::test]
async fn bare_line_feeds_hide_no_field() {
    let (pair, upstream) = dev().await;
    for head in [
        "POST /dev/s/one HTTP/1.1\nHost: localhost\nContent-Length: 2\n\n{}",
        "POST /dev/s/one HTTP/1.1\r\nHost: localhost\nContent-Length: 2\r\n\r\n{}",
        "POST /dev/s/one HTTP/1.1\r\nHost: localhost\r\nX: y\nContent-Length: 2\n\r\n{}",
    ] {
        assert_eq!(statuses(&pair, head.as_bytes()).await, [400], "{head:?}");
        assert_eq!(upstream.take(), [], "{head:?}");
    }
}

/// A framing field without a meaning in HTTP/2 could have one for an HTTP/1.1 upstream.
#[tokio::test]
async fn http1_framing_in_an_http2_request_is_refused() {
    let (pair, upstream) = dev().await;
    let with = |fields: &[(&str, &str)]| -> Vec<u8> {
        let fields = fields.iter().flat_map(|(name, value)| field(name, value));
        frames::request("POST", "/dev/s/one")
            .into_iter()
            .chain(fields)
            .collect()
    };
    let at = |path: &str| frames::request("POST", path);
    for (what, head) in [
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("connection", with(&[("connection", "close")])),
        ("a length of less", with(&[("content-length", "1")])),
        ("a length of more", with(&[("content-length", "3")])),
        (
            "two lengths",
            with(&[("content-length", "2"), ("content-length", "3")]),
        ),
        ("no length", with(&[("content-length", "-2")])),
        ("a line in a value", with(&[("x", "y\r\ncontent-length: 0")])),
        ("a line feed in a value", with(&[("x", "y\nz")])),
        ("nothing in a value", with(&[("x", "y\0z")])),
        ("a line in a name", with(&[("x\r\ny", "z")])),
        ("a colon in a name", with(&[("x:y", "z")])),
        ("a capital in a name", with(&[("X", "y")])),
        ("no name", with(&[("", "y")])),
        (
            "a pseudo-field after others",
            with(&[("x", "y"), (":path", "/dev/s/two")]),
        ),
        ("an unknown pseudo-field", with(&[(":x", "y")])),
        ("a line in a path", at("/dev/s/ HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("a space in a path", at("/dev/s/one two")),
        (
            "a line in a method",
            frames::request("POST / HTTP/1.1\r\nX:", "/dev/s/one"),
        ),
        ("a space in a method", frames::request("POST /", "/dev/s/one")),
    ] {
        let mut connection = frames::connect(pair.injector.data_plane).await;
        let request = [
            frame(HEADERS, END_HEADERS, 1, &head),
            frame(DATA, END_STREAM, 1, b"{}"),
        ];
        connection.write_all(&request.concat()).await.unwrap();
        let answer = async {
            loop {
                match frames::read(&mut connection).await {
                    Ok(frame) if frame.kind == HEADERS => {
                        return frame.payload.first() == Some(&frames::STATUS_200);
                    }
                    Ok(frame) if frame.kind == RST_STREAM || frame.kind == frames::GOAWAY => return false,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        let forwarded = timeout(PATIENCE, answer).await.expect("no answer came");
        assert!(!forwarded, "{what}");
        assert_eq!(upstream.take(), [], "{what}");
    }
    let answer = pair.injector.send(Request::post("/dev/s/one"), "{}").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(upstream.take().len(), 1);
}

#[tokio::test]
async fn cookie_fields_split_by_http2_are_joined() {
    let (pair, mut upstream) = (
        Pair::start().await,
        RawUpstream::start(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await,
    );
    pair.vault.workspace("dev").await;
    let url = format!("http://{}", upstream.address);
    pair.injector.add(server("dev", "s", &url, &[])).await;
    let mut connection = frames::connect(pair.injector.data_plane).await;
    let head = [
        frames::request("GET", "/dev/s/"),
        field("cookie", "a=1"),
        field("x", "y"),
        field("cookie", "b=2; c=3"),
    ];
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head.concat());
    connection.write_all(&request).await.unwrap();
    frames::next(&mut connection, HEADERS).await.unwrap();
    let received = String::from_utf8(upstream.received().await).unwrap();
    let cookies: Vec<_> = received
        .lines()
        .filter(|line| line.starts_with("cookie"))
        .collect();
    assert_eq!(cookies, ["cookie: a=1; b=2; c=3"], "{received}");
}

/// After a refusal within a request, the injector reads nothing more on the connection.
#[tokio::test]
async fn the_rest_of_a_refused_request_is_not_read_as_a_request() {
    let (pair, upstream) = dev().await;
    for path in ["/dev/unknown/", "/dev/s/../x"] {
        let body = format!("{SMUGGLED}{SMUGGLED}");
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len() + 10
        );
        let statuses = statuses(&pair, request.as_bytes()).await;
        assert_eq!(statuses.len(), 1, "{path}: {statuses:?}");
        assert_eq!(upstream.take(), [], "{path}");
    }
    let closed = raw::exchange(
        pair.injector.data_plane,
        format!("POST /dev/s/one HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n{SMUGGLED}"),
    )
    .await;
    assert_eq!(raw::status(&closed), 400);
    assert_eq!(upstream.take(), []);
}
