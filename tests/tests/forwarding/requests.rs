//! The body of a request reaches the upstream with any method, and with a framing that announces it.

use e2e::{
    Upstream,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, frame},
    raw,
};
use tokio::io::AsyncWriteExt as _;

use super::{VALUE, dev, head, playing};

const METHODS: [&str; 7] = ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PUT", "QUERY"];

fn chunked(method: &str, path: &str, lines: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n{lines}\r\n\
         {:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    )
}

#[tokio::test]
async fn a_chunked_body_arrives_with_every_method() {
    let upstream = Upstream::start().await;
    let pair = dev(upstream.address).await;
    for path in ["/dev/s/", "/dev/h2/"] {
        for method in METHODS {
            let answer = raw::exchange(pair.injector.data_plane, chunked(method, path, "", "the body")).await;
            assert_eq!(raw::status(&answer), 200, "{method} {path}: {answer}");
            let seen = upstream.last();
            assert_eq!(
                (seen.method.as_str(), &seen.body[..]),
                (method, &b"the body"[..]),
                "{path}"
            );
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_http2_body_arrives_with_every_method() {
    let upstream = Upstream::start().await;
    let pair = dev(upstream.address).await;
    for path in ["/dev/s/", "/dev/h2/"] {
        for method in METHODS {
            let mut connection = frames::connect(pair.injector.data_plane).await;
            let request = [
                frame(HEADERS, END_HEADERS, 1, &frames::request(method, path)),
                frame(DATA, 0, 1, b"the "),
                frame(DATA, END_STREAM, 1, b"body"),
            ];
            connection.write_all(&request.concat()).await.unwrap();
            let answer = frames::next(&mut connection, HEADERS)
                .await
                .expect("no answer came");
            assert_eq!(
                answer.payload.first(),
                Some(&frames::STATUS_200),
                "{method} {path}"
            );
            let seen = upstream.last();
            assert_eq!(
                (seen.method.as_str(), &seen.body[..]),
                (method, &b"the body"[..]),
                "{path}"
            );
        }
    }
    pair.stop().await;
}

/// The body is larger than `--max-buffered-body`, so that the secret is sent at its end.
#[tokio::test]
async fn the_secret_in_a_large_body_of_a_get_request_arrives() {
    let upstream = Upstream::start().await;
    let pair = dev(upstream.address).await;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(3 << 20));
    for method in ["GET", "HEAD"] {
        let request = chunked(
            method,
            "/dev/skill/",
            "Content-Type: application/json\r\n",
            &large,
        );
        let answer = raw::exchange(pair.injector.data_plane, request).await;
        assert_eq!(raw::status(&answer), 200, "{method}: {answer}");
        let expected = format!(
            "{},\"secrets\":{{\"TOKEN\":\"{VALUE}\"}}}}",
            large.strip_suffix('}').unwrap()
        );
        assert!(upstream.last().body == expected, "{method}");
    }
    pair.stop().await;
}

/// The head of a request announces whether a body follows. An upstream need not guess by the method.
#[tokio::test]
async fn every_request_announces_its_framing() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = dev(listener.local_addr().unwrap()).await;
    for (method, lines, body, told) in [
        ("GET", "", "", &[][..]),
        ("HEAD", "", "", &[]),
        ("GET", "Content-Length: 2\r\n", "{}", &["content-length: 2"]),
        (
            "GET",
            "Transfer-Encoding: chunked\r\n",
            "2\r\n{}\r\n0\r\n\r\n",
            &["transfer-encoding: chunked"],
        ),
        ("POST", "", "", &["content-length: 0"]),
        ("POST", "Content-Length: 0\r\n", "", &["content-length: 0"]),
        ("PUT", "", "", &["content-length: 0"]),
        ("PATCH", "", "", &["content-length: 0"]),
        ("DELETE", "", "", &[]),
        ("GET", "TE: trailers\r\n", "", &["connection: te", "te: trailers"]),
    ] {
        let request =
            format!("{method} /dev/s/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n{body}");
        let called = tokio::spawn(raw::exchange(pair.injector.data_plane, request));
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = head(&mut stream).await.unwrap();
        stream.write_all(answer).await.unwrap();
        drop(stream);
        assert_eq!(raw::status(&called.await.unwrap()), 200, "{method} {lines}");
        let names = ["content-length:", "transfer-encoding:", "connection:", "te:"];
        let is_framing = |line: &&str| names.iter().any(|name| line.starts_with(name));
        let mut found: Vec<_> = head.lines().filter(is_framing).collect();
        found.sort_unstable();
        assert_eq!(found, told, "{method} {lines}");
    }
    pair.stop().await;
}

/// A server that reads `_` as `-` must not get a second field of a name by which the injector decides.
#[tokio::test]
async fn fields_that_the_injector_interprets_are_forwarded_once() {
    let upstream = Upstream::start().await;
    let pair = dev(upstream.address).await;
    let lines = "Content-Type: application/json\r\nContent_Type: text/html\r\nContent.Encoding: gzip\r\n\
                 X_Request_Id: 1\r\n";
    let request = chunked("POST", "/dev/skill/", lines, "{}");
    let answer = raw::exchange(pair.injector.data_plane, request).await;
    assert_eq!(raw::status(&answer), 200, "{answer}");
    let seen = upstream.last();
    assert_eq!(seen.headers["content-type"], "application/json");
    for gone in ["content_type", "content.encoding", "x_request_id"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_secret_that_was_not_sent_is_not_logged_as_injected() {
    let upstream =
        playing(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec())
            .await;
    let pair = dev(upstream).await;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(8 << 20));
    let request = chunked(
        "POST",
        "/dev/skill/",
        "Content-Type: application/json\r\n",
        &large,
    );
    // The upstream responds as soon as it has the head.
    let answer = raw::exchange(pair.injector.data_plane, request).await;
    assert_eq!(raw::status(&answer), 413, "{answer}");
    let metrics = e2e::pair::get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let metrics = String::from_utf8(metrics.into_body().to_vec()).unwrap();
    assert!(
        !metrics.contains("aerostack_injector_injected_secrets_total{"),
        "{metrics}"
    );
    pair.stop().await;
}
