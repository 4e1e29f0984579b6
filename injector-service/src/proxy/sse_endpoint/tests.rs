use futures_util::stream;
use http::HeaderValue;
use http_body_util::{BodyExt as _, StreamBody};

use super::*;

fn rewrite(url: &str) -> Option<String> {
    url.strip_prefix('/').map(|rest| format!("/w/s/{rest}"))
}

#[test]
fn endpoints_are_rewritten_in_pieces_of_any_size() {
    let long = format!("event: endpoint\ndata: /{}\n\n", "x".repeat(MAX_LINE));
    for (stream, expected) in [
        (
            "event: endpoint\ndata: /m?s=1\n\n",
            "event: endpoint\ndata: /w/s/m?s=1\n\n",
        ),
        (
            "event:endpoint\r\ndata:/m\r\n\r\n",
            "event:endpoint\r\ndata: /w/s/m\r\n\r\n",
        ),
        (
            "event: endpoint\rdata: /m\r\r",
            "event: endpoint\rdata: /w/s/m\r\r",
        ),
        (
            "id: 1\nevent: endpoint\n:\ndata: /m\n\n",
            "id: 1\nevent: endpoint\n:\ndata: /w/s/m\n\n",
        ),
        (
            "event: endpoint\ndata: /m\n\ndata: /m\n\nevent: message\ndata: /m\n\n",
            "event: endpoint\ndata: /w/s/m\n\ndata: /m\n\nevent: message\ndata: /m\n\n",
        ),
        ("event: endpoints\ndata: /m\n\n", "event: endpoints\ndata: /m\n\n"),
        (
            "event: endpoint\nevent: x\ndata: /m\n\n",
            "event: endpoint\nevent: x\ndata: /m\n\n",
        ),
        ("event: endpoint\ndata: m\n\n", "event: endpoint\ndata: m\n\n"),
        ("event: endpoint\nda", "event: endpoint\nda"),
        (
            "data: {\"a\": \"\u{e9}\"}\n\n: ping\n\neven",
            "data: {\"a\": \"\u{e9}\"}\n\n: ping\n\neven",
        ),
        (&long, &long),
    ] {
        for size in [1, 2, 3, 5, 7, stream.len()] {
            let mut rewriter = EndpointRewriter::new(rewrite);
            let mut out = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                out.extend(rewriter.push(piece));
            }
            out.extend(rewriter.take_rest());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{size}");
        }
    }
}

#[test]
fn a_url_beyond_the_most_endpoints_of_a_stream_becomes_a_comment() {
    let event = |data: &str| format!("event: endpoint\n{data}\n\n");
    let of_two_lines = |data: &str| event(&format!("{data}\n{data}"));
    for size in [1, 7, 100_000] {
        let mut rewriter = EndpointRewriter::new(rewrite);
        let mut passed = |stream: String| {
            let pieces = stream.as_bytes().chunks(size);
            let out: Vec<u8> = pieces.flat_map(|piece| rewriter.push(piece)).collect();
            String::from_utf8(out).unwrap()
        };
        let (sent, expected) = (of_two_lines("data: /m"), of_two_lines("data: /w/s/m"));
        assert_eq!(
            passed(sent.repeat(MAX_ENDPOINTS / 2)),
            expected.repeat(MAX_ENDPOINTS / 2)
        );
        assert_eq!(passed(event("data: /m")), event(":"));
        assert_eq!(passed("data: /m\n\n".to_owned()), "data: /m\n\n");
    }
}

#[test]
fn lines_that_cannot_name_an_endpoint_pass_at_once() {
    let mut rewriter = EndpointRewriter::new(rewrite);
    for piece in ["d", "ata: 1", "\n", ": ping", "\nretry", "\n\n", "ex", "event"] {
        assert_eq!(rewriter.push(piece.as_bytes()), piece.as_bytes());
    }
}

#[tokio::test]
async fn an_unterminated_line_and_the_trailers_are_passed_on() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x", HeaderValue::from_static("1"));
    let end = || Frame::trailers(trailers.clone());
    let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
    for (frames, expected) in [
        (vec![data("eve"), data("nt"), end()], ("event", true)),
        (vec![data("even"), data("")], ("even", false)),
        (vec![data("data: 1\n\n"), end()], ("data: 1\n\n", true)),
        (vec![], ("", false)),
    ] {
        let frames = stream::iter(frames.into_iter().map(Ok::<_, BodyError>));
        let collected = SseEndpointBody::new(StreamBody::new(frames), rewrite)
            .collect()
            .await
            .unwrap();
        let has_trailers = collected.trailers().is_some();
        assert_eq!(
            (collected.to_bytes().as_ref(), has_trailers),
            (expected.0.as_bytes(), expected.1)
        );
    }
}

#[test]
fn only_uncompressed_event_streams_are_searched() {
    let headers = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers
    };
    let events = ("content-type", "Text/Event-Stream; charset=utf-8");
    assert!(may_have_endpoint(&Method::GET, &headers(&[events])));
    assert!(!may_have_endpoint(&Method::POST, &headers(&[events])));
    for pairs in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "text/event-streams")],
        &[events, ("content-encoding", "gzip")],
    ] {
        assert!(!may_have_endpoint(&Method::GET, &headers(pairs)));
    }
}
