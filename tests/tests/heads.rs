//! Heads of requests and responses. A head that the injector sends states the length of its body once. In every
//! spelling, the injector removes fields about the connection, its own fields, and cookies of other servers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Upstream,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, STATUS_200, field, frame},
    pair::server,
    raw,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{body::Frame, client::conn::http2};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use proto::injector::v1::{Protocol, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

// ---- the length of a response ----

/// Starts an upstream that answers a request for `/N` with `answers[N]` and closes the connection.
async fn scripted_upstream(answers: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answers = answers.clone();
            tokio::spawn(async move {
                let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(count @ 1..) = stream.read(&mut buffer).await else {
                        return;
                    };
                    head.extend_from_slice(&buffer[..count]);
                }
                let head = String::from_utf8(head).unwrap();
                let number: usize = head.split(' ').nth(1).unwrap()[1..].parse().unwrap();
                stream.write_all(&answers[number]).await.unwrap();
            });
        }
    });
    address
}

async fn dev(upstream: &str) -> Pair {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", "canary-51f0").await;
    pair.injector.add(server("dev", "s", upstream, &["TOKEN"])).await;
    pair
}

/// Returns the response, or `None` when the response was incomplete.
async fn complete_response(pair: &Pair, method: Method, path: &str, http2: bool) -> Option<Response<Bytes>> {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http::<Full<Bytes>>();
    let request = Request::builder().method(method).uri(pair.injector.url(path));
    let answer = client.request(request.body(Full::default()).unwrap());
    let answer = timeout(PATIENCE, answer).await.expect("no answer came").ok()?;
    let (parts, body) = answer.into_parts();
    let body = timeout(PATIENCE, body.collect())
        .await
        .expect("it never ended")
        .ok()?;
    Some(Response::from_parts(parts, body.to_bytes()))
}

const CHUNKED: &str = "14\r\n01234567890123456789\r\n0\r\n\r\n";

fn answer(status: &str, lines: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{lines}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_response_with_contradictory_lengths_is_refused() {
    let lines = [
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 20\r\nTransfer-Encoding: chunked",
        "Content-Length: 0\r\nTransfer-Encoding: Chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5x",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: ",
        "Content-Length: 5,",
        "Content-Length: 18446744073709551621",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: ",
    ];
    let mut answers: Vec<_> = lines
        .iter()
        .map(|lines| answer("200 OK", lines, CHUNKED))
        .collect();
    answers.push(
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n01234567890123456789\r\n0\r\n\r\n"
            .into(),
    );
    answers.push(answer("404 Not Found", lines[0], CHUNKED));
    let names = lines.iter().copied().chain(["HTTP/1.0", "404"]);
    let (count, upstream) = (answers.len(), scripted_upstream(answers).await);
    let pair = dev(&format!("http://{upstream}")).await;
    for (number, what) in (0..count).zip(names) {
        for (method, http2) in [(Method::GET, false), (Method::GET, true)] {
            let answer = complete_response(&pair, method, &format!("/dev/s/{number}"), http2).await;
            let status = answer.map(|answer| answer.status());
            assert_eq!(status, Some(StatusCode::BAD_GATEWAY), "{what:?} {http2}");
        }
    }
    // A response to HEAD has no body, but contradictory lengths are refused nevertheless.
    let head = complete_response(&pair, Method::HEAD, "/dev/s/0", false)
        .await
        .unwrap();
    assert_eq!(head.headers()["x-aerostack-reason"], "UPSTREAM_PROTOCOL");
    pair.stop().await;
}

#[tokio::test]
async fn a_truncated_response_never_ends_cleanly() {
    let cuts = [
        ("Content-Length: 20", "01234"),
        ("Content-Length: 20", ""),
        ("Transfer-Encoding: chunked", ""),
        ("Transfer-Encoding: chunked", "14\r\n01234"),
        ("Transfer-Encoding: chunked", "14\r\n01234567890123456789\r\n"),
        (
            "Transfer-Encoding: chunked",
            "14\r\n01234567890123456789\r\n0\r\n",
        ),
        (
            "Transfer-Encoding: chunked",
            "14\r\n01234567890123456789x\r\n0\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked",
            "x\r\n01234567890123456789\r\n0\r\n\r\n",
        ),
    ];
    let answers = cuts.iter().map(|(lines, body)| answer("200 OK", lines, body));
    let pair = dev(&format!("http://{}", scripted_upstream(answers.collect()).await)).await;
    for (number, cut) in cuts.iter().enumerate() {
        for http2 in [false, true] {
            let answer = complete_response(&pair, Method::GET, &format!("/dev/s/{number}"), http2).await;
            let ok = answer.filter(|answer| answer.status() == StatusCode::OK);
            assert!(ok.is_none(), "{cut:?} {http2}: {ok:?}");
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_length_is_sent_once_and_only_where_allowed() {
    let two = Some("2");
    let cases: [(&str, &str, &str, Method, Option<&str>); 10] = [
        ("200 OK", "Content-Length: 2", "{}", Method::GET, two),
        (
            "200 OK",
            "Content-Length: 2\r\nContent-Length: 2",
            "{}",
            Method::GET,
            two,
        ),
        ("200 OK", "Content-Length: 2, 2", "{}", Method::GET, two),
        (
            "200 OK",
            "Content-Length: 2,2\r\nContent-Length: 02",
            "{}",
            Method::GET,
            two,
        ),
        ("200 OK", "Content-Length: 2, 2", "", Method::HEAD, two),
        ("204 No Content", "Content-Length: 2", "", Method::GET, None),
        ("204 No Content", "Content-Length: 2", "{}", Method::GET, None),
        ("204 No Content", "Content-Length: 0, 0", "", Method::HEAD, None),
        (
            "204 No Content",
            "Transfer-Encoding: chunked",
            "",
            Method::GET,
            None,
        ),
        (
            "304 Not Modified",
            "Transfer-Encoding: chunked",
            "",
            Method::GET,
            None,
        ),
    ];
    let answers = cases
        .iter()
        .map(|(status, lines, body, ..)| answer(status, lines, body));
    let pair = dev(&format!("http://{}", scripted_upstream(answers.collect()).await)).await;
    for (number, (status, lines, _, method, length)) in cases.iter().enumerate() {
        let path = format!("/dev/s/{number}");
        for http2 in [false, true] {
            let answer = complete_response(&pair, method.clone(), &path, http2)
                .await
                .expect(lines);
            assert_eq!(answer.status().as_str(), &status[..3], "{lines}");
            let lengths: Vec<_> = answer.headers().get_all("content-length").iter().collect();
            let expected: Vec<_> = length.iter().collect();
            assert_eq!(lengths, expected, "{status} {lines} {http2}");
            assert!(
                !answer.headers().contains_key("transfer-encoding"),
                "{status} {lines}"
            );
            let empty = *method == Method::HEAD || !status.starts_with("200");
            assert_eq!(answer.body(), if empty { "" } else { "{}" }, "{status} {lines}");
        }
        // A raw exchange shows the bytes on the wire. An HTTP library could normalize them.
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let written = raw::exchange(pair.injector.data_plane, head).await.to_lowercase();
        let told = written.matches("content-length:").count();
        assert_eq!(told, usize::from(length.is_some()), "{status} {lines}: {written}");
    }
    pair.stop().await;
}

/// Starts an HTTP/2 upstream that answers with the fields `lengths` and a body of two bytes.
async fn with_lengths(lengths: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        while let Some(head) = frames::next(&mut stream, HEADERS).await {
            let lengths = lengths.iter().flat_map(|length| field("content-length", length));
            let fields: Vec<_> = std::iter::once(STATUS_200).chain(lengths).collect();
            let answer = [
                frame(HEADERS, END_HEADERS, head.stream, &fields),
                frame(DATA, END_STREAM, head.stream, b"{}"),
            ];
            stream.write_all(&answer.concat()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn in_http2_a_length_is_sent_once() {
    let pair = dev("http://127.0.0.1:1").await;
    let answers: [(&[&str], bool); 5] = [
        (&["2"], true),
        (&["2", "2"], true),
        (&["2", "3"], false),
        (&["3", "2"], false),
        (&["2, 3"], false),
    ];
    for (number, (lengths, is_complete)) in answers.into_iter().enumerate() {
        let name = format!("h2-{number}");
        let url = format!("http://{}", with_lengths(lengths).await);
        pair.injector
            .add(Server {
                protocol: Protocol::Http2.into(),
                ..server("dev", &name, &url, &[])
            })
            .await;
        let answer = complete_response(&pair, Method::GET, &format!("/dev/{name}/"), false).await;
        let answer = answer.expect("an answer");
        if is_complete {
            assert_eq!(answer.status(), StatusCode::OK, "{lengths:?}");
            let lengths: Vec<_> = answer.headers().get_all("content-length").iter().collect();
            assert_eq!(lengths, ["2"]);
        } else {
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{lengths:?}");
        }
    }
    pair.stop().await;
}

// ---- names that servers may read as other names ----

/// Fields that frame a message or concern the connection, and the injector's own fields.
const OWN: [&str; 13] = [
    "transfer-encoding",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
    "http2-settings",
    "x-aerostack-server",
    "x-aerostack-workspace",
    "x-aerostack-reason",
    "x-mcp-secret-token",
    "x-mcp-secret",
];

fn folded(name: &str) -> String {
    let letter = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    };
    name.to_ascii_lowercase().chars().map(letter).collect()
}

/// Returns the spellings that servers may read as a name in [`OWN`], without the names themselves.
fn spellings() -> Vec<String> {
    let spelled = |name: &&str| {
        let first = name.replacen('-', "_", 1);
        [
            name.replace('-', "_"),
            name.replace('-', "."),
            name.replace('-', "~"),
            first,
        ]
    };
    OWN.iter().flat_map(spelled).collect()
}

fn assert_clean(fields: &HeaderMap, expected: &[&str]) {
    let named = |name: &&HeaderName| OWN.contains(&folded(name.as_str()).as_str());
    let mut left: Vec<_> = fields.keys().filter(named).map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, expected);
    assert_eq!(fields["x-kept_as.it-is"], "1");
}

#[tokio::test]
async fn fields_in_other_spellings_of_reserved_names_are_removed_from_requests() {
    let upstream = Upstream::start().await;
    let pair = dev(&upstream.url()).await;
    for spelling in spellings() {
        let head = format!(
            "POST /dev/s/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n{}: 5\r\n{spelling}: chunked\r\n\
             X-Kept_As.It-Is: 1\r\n\r\n{{}}",
            spelling.to_ascii_uppercase()
        );
        let answer = raw::exchange(pair.injector.data_plane, head).await;
        assert_eq!(raw::status(&answer), 200, "{spelling}: {answer}");
        let seen = upstream.last();
        assert_clean(&seen.headers, &["content-length", "x-mcp-secret-token"]);
        assert_eq!(
            (seen.header("content-length"), &seen.body[..]),
            (Some("2"), &b"{}"[..]),
            "{spelling}"
        );
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_field_named_by_connection_is_removed_in_every_spelling() {
    let upstream = Upstream::start().await;
    let pair = dev(&upstream.url()).await;
    for (named, sent) in [
        ("x-mine", "x-mine"),
        ("X-Mine", "x_mine"),
        ("x_mine", "X-MINE"),
        ("close, x.mine ,", "x-mine"),
        ("keep-alive\r\nConnection: x-mine", "x_mine"),
    ] {
        let head = format!(
            "GET /dev/s/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nConnection: {named}\r\n{sent}: 1\r\nx-mine-too: 1\r\n\r\n"
        );
        let answer = raw::exchange(pair.injector.data_plane, head).await;
        assert_eq!(raw::status(&answer), 200, "{named} {sent}");
        let mut left = upstream.last().headers;
        assert!(left.remove("x-mine-too").is_some());
        assert!(
            !left.keys().any(|name| folded(name.as_str()) == "x-mine"),
            "{named} {sent}: {left:?}"
        );
    }
    pair.stop().await;
}

#[tokio::test]
async fn reserved_fields_are_removed_from_trailers() {
    let upstream = Upstream::start().await;
    let pair = dev(&upstream.url()).await;
    pair.injector
        .add(Server {
            protocol: Protocol::Http2.into(),
            ..server("dev", "h2", &upstream.url(), &["TOKEN"])
        })
        .await;
    let stream = TokioIo::new(TcpStream::connect(pair.injector.data_plane).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    for spelling in spellings() {
        let name = HeaderName::from_bytes(spelling.as_bytes()).unwrap();
        trailers.append(name, HeaderValue::from_static("5"));
    }
    for name in ["content-length", "x-aerostack-server", "x-kept_as.it-is"] {
        trailers.append(name, HeaderValue::from_static("1"));
    }
    let frames = [
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{}"))),
        Ok(Frame::trailers(trailers)),
    ];
    let request = Request::post("http://localhost/dev/h2/").header("x_aerostack_server", "x");
    let body = StreamBody::new(tokio_stream::iter(frames));
    let sent = sender.send_request(request.body(body).unwrap());
    let answer = timeout(PATIENCE, sent).await.expect("no answer came").unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_clean(&upstream.last().trailers, &[]);
    assert!(!upstream.last().headers.contains_key("x_aerostack_server"));
    pair.stop().await;
}

#[tokio::test]
async fn reserved_fields_are_removed_from_responses() {
    let upstream = Upstream::answering(|_| {
        let named = Response::builder()
            .header("connection", "x-mine")
            .header("x_mine", "1")
            .header("x-kept_as.it-is", "1")
            .header("access_control_allow_origin", "*");
        let spelled = spellings().into_iter().filter(|name| !name.contains("mcp"));
        spelled
            .fold(named, |answer, name| answer.header(name, "5"))
            .body(Full::from("{}"))
            .unwrap()
    })
    .await;
    let pair = dev(&upstream.url()).await;
    for http2 in [false, true] {
        let answer = complete_response(&pair, Method::GET, "/dev/s/", http2)
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_clean(answer.headers(), &["content-length"]);
        for gone in ["x_mine", "access_control_allow_origin"] {
            assert!(!answer.headers().contains_key(gone), "{gone}");
        }
        assert_eq!(answer.body(), "{}");
    }
    pair.stop().await;
}

// ---- cookies ----

/// A cookie jar returns a cookie only to the server that has set it, in every way of naming the server.
#[tokio::test]
async fn a_cookie_returns_only_to_its_server() {
    let upstream = Upstream::answering(|_| {
        Response::builder()
            .header("set-cookie", "a=1; Path=/; Domain=dev.localhost; HttpOnly")
            .header("set-cookie", "b=2; domain = .localhost;Secure")
            .header("set-cookie", "__Host-c=d~e=3")
            .body(Full::default())
            .unwrap()
    })
    .await;
    let listen = vec!["127.0.0.1:0=dev/s".to_owned(), "127.0.0.1:0=dev/t".to_owned()];
    let pair = Pair::start_with(|_| {}, |settings| settings.listen_server = listen).await;
    pair.vault.workspace("dev").await;
    for name in ["s", "t"] {
        pair.injector.add(server("dev", name, &upstream.url(), &[])).await;
    }
    let by_header = |name: &str| {
        Request::get("/")
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", name.to_owned())
    };
    let by_host = |name: &str| Request::get("/").header("host", format!("{name}.dev.localhost"));
    let (data_plane, dedicated) = (pair.injector.data_plane, &pair.injector.dedicated);
    let tagged = [
        "a~s.dev=1; Path=/; HttpOnly",
        "b~s.dev=2;Secure",
        "__Host-c~s.dev=d~e=3",
    ];
    let ways = [
        (
            data_plane,
            Request::get("/dev/s/"),
            [
                "a=1; HttpOnly; Path=/dev/s/",
                "b=2;Secure; Path=/dev/s/",
                "__Host-c=d~e=3; Path=/dev/s/",
            ],
        ),
        (
            data_plane,
            by_host("s"),
            ["a=1; Path=/; HttpOnly", "b=2;Secure", "__Host-c=d~e=3"],
        ),
        (data_plane, by_header("s"), tagged),
        (dedicated[0], Request::get("/"), tagged),
    ];
    for (address, request, expected) in ways {
        let answer = e2e::pair::send(address, request, "").await;
        let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, expected);
    }
    // For servers with the same host and path, only the names of cookies differ in the jar.
    let jar = "own=0; a~s.dev=1; a~t.dev=4; __Host-c~s.dev=d~e=3; a~s.prod=5";
    for (address, request, seen) in [
        (data_plane, by_header("s"), "own=0; a=1; __Host-c=d~e=3"),
        (data_plane, by_header("t"), "own=0; a=4"),
        (dedicated[0], Request::get("/"), "own=0; a=1; __Host-c=d~e=3"),
        (dedicated[1], Request::get("/"), "own=0; a=4"),
        (data_plane, by_host("t"), "own=0; a=4"),
        (data_plane, Request::get("/dev/t/"), "own=0; a=4"),
    ] {
        e2e::pair::send(address, request.header("cookie", jar), "").await;
        assert_eq!(upstream.last().header("cookie"), Some(seen));
    }
    e2e::pair::send(data_plane, by_header("t").header("cookie", "a~s.dev=1"), "").await;
    assert_eq!(upstream.last().header("cookie"), None);
    pair.stop().await;
}
