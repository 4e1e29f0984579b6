//! Tests that write live stand-ins to every part of an upstream connection, where only one in its own field is
//! replaced.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{collections::HashSet, convert::Infallible};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use super::{
    tests::{written, written_in},
    *,
};

const VALUE: &[u8] = b"ghp_0123456789abcdefghijABCDEFGHIJ";
/// The field that gets the value; hyper sends this field as a trailer, too.
const NAME: HeaderName = HeaderName::from_static("x-mcp-secret-a");
const WIDTHS: [usize; 4] = [1, 7, 64, 100_000];

fn cover(
    placeholders: &PlaceholderTable,
    name: &HeaderName,
    over: PossibleVersions,
) -> (HeaderValue, PlaceholderGuard) {
    placeholders.cover(name, VALUE, over).unwrap()
}

/// Returns messages with a live stand-in everywhere but in its own field, and then twice the head with that field. The
/// second result is the same text with the value in the first of these heads.
fn http1(stand_in: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    let body = format!("{stand_in}\r\n\r\nGET / HTTP/1.1\r\nauthorization: {stand_in}\r\n\r\n");
    let field = format!("authorization: {stand_in}\r\n");
    let before = [
        format!(
            "POST /{stand_in} HTTP/1.1\r\nx-other: {stand_in}\r\nauthorizations: {stand_in}\r\ncookie: {stand_in}\r\n\
             x: a {field}x-long: authorization: {stand_in} \r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\
             {:x};{stand_in}=\"{stand_in}\"\r\n{body}\r\n0;{field}{field}x: {stand_in}\r\n\r\n",
            body.len()
        ),
        format!("GET / HTTP/1.1\r\nauthorization: Bearer {stand_in}\r\nx-{stand_in}: authorization\r\n\r\n"),
    ]
    .concat();
    let head = |value: &str| {
        format!(
            "POST / HTTP/1.1\r\nauthorization: {value}\r\nx: {stand_in}\r\ncontent-length: 3\r\n\r\n{{}}\n"
        )
    };
    let all = |value: &str| {
        [before.as_str(), &head(value), &head(stand_in)]
            .concat()
            .into_bytes()
    };
    (all(stand_in), all(value))
}

#[tokio::test]
async fn over_http1_a_stand_in_is_replaced_once_in_its_own_field_and_nowhere_else() {
    for over in [PossibleVersions::Http1Only, PossibleVersions::Any] {
        for width in WIDTHS {
            let placeholders = PlaceholderTable::default();
            let (stand_in, cover) = cover(&placeholders, &header::AUTHORIZATION, over);
            let (sent, expected) = http1(stand_in.to_str().unwrap(), str::from_utf8(VALUE).unwrap());
            let arrived = written(&placeholders, HttpVersion::Http1, width, &sent).await;
            assert_eq!(
                String::from_utf8_lossy(&arrived),
                String::from_utf8_lossy(&expected),
                "{over:?} {width}"
            );
            assert!(cover.was_placed());
            let (stand_in, _cover) = self::cover(&placeholders, &header::AUTHORIZATION, over);
            let (sent, expected) = http1(stand_in.to_str().unwrap(), str::from_utf8(VALUE).unwrap());
            let arrived = written_in(&placeholders, HttpVersion::Http1, 100, width, &sent).await;
            assert!(arrived == expected, "{over:?}, pieces of {width}");
        }
    }
}

// ---- HTTP/2, as frames ----

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Encodes a string of fewer than 127 bytes with HPACK's Huffman code (RFC 7541, section 5.2).
fn text(text: &[u8]) -> Vec<u8> {
    let code = huffman::encode(text).unwrap();
    let length = u8::try_from(code.len()).unwrap();
    assert!(length < 127);
    [&[0x80 | length][..], &code].concat()
}

/// Encodes the never-indexed field `authorization` (RFC 7541, section 6.2.3), with the name from the static table.
fn authorization(value: &[u8]) -> Vec<u8> {
    [&[0x1f, 0x08][..], &text(value)].concat()
}

fn sensitive(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0x10][..], &text(name.as_bytes()), &text(value)].concat()
}

/// Encodes `:method: GET`, `:scheme: http` and a path.
fn pseudo(path: &[u8]) -> Vec<u8> {
    [&[0x82, 0x86, 0x04][..], &text(path)].concat()
}

fn http2(stand_in: &[u8], value: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>) {
    let field = authorization(stand_in);
    let path = [b"/", stand_in].concat();
    let other = [
        pseudo(&path),
        sensitive("x-other", stand_in),
        sensitive("authorizations", stand_in),
        // An indexed field, and a field that is not indexed but not sensitive either.
        [&[0x40][..], &text(b"cookie"), &text(stand_in)].concat(),
        [&[0x0f, 0x08][..], &text(stand_in)].concat(),
        // The stand-in without Huffman coding, and the stand-in within a longer value.
        [
            &[0x1f, 0x08][..],
            &[u8::try_from(stand_in.len()).unwrap()],
            stand_in,
        ]
        .concat(),
        authorization(&[b"Bearer ", stand_in].concat()),
        // A value whose bytes read like the field.
        [
            &[0x10][..],
            &text(b"x-raw"),
            &[u8::try_from(field.len()).unwrap()],
            &field,
        ]
        .concat(),
    ]
    .concat();
    let before = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &other),
        frame(DATA, 0, 1, &field),
        frame(DATA, 0, 1, &frame(HEADERS, END_HEADERS, 3, &field)),
        frame(
            PUSH_PROMISE,
            END_HEADERS,
            1,
            &[&[0, 0, 0, 2][..], &field].concat(),
        ),
        frame(250, END_HEADERS, 3, &field),
        // Trailers, which have the field as well.
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &field),
        frame(HEADERS, END_STREAM, 1, &field[..1]),
        frame(CONTINUATION, END_HEADERS, 1, &field[1..]),
    ]
    .concat();
    let head = |stream: u32, value: &[u8]| {
        let block = [
            // A change of the dynamic table's size.
            &[0x3f, 0x09][..],
            &pseudo(b"/x"),
            &sensitive("x-other", stand_in),
            &authorization(value),
            &[0xbe],
        ]
        .concat();
        let cut = cut.min(block.len());
        [
            frame(HEADERS, END_STREAM, stream, &block[..cut]),
            frame(CONTINUATION, 0, stream, &[]),
            frame(CONTINUATION, END_HEADERS, stream, &block[cut..]),
        ]
        .concat()
    };
    let all = |value: &[u8]| [before.as_slice(), &head(3, value), &head(5, stand_in)].concat();
    (all(stand_in), all(value))
}

#[tokio::test]
async fn over_http2_a_stand_in_is_replaced_once_in_its_own_field_and_nowhere_else() {
    for (width, cuts) in [(100_000, 0..140), (7, 60..64), (1, 60..64)] {
        for cut in cuts {
            let placeholders = PlaceholderTable::default();
            let (stand_in, cover) = cover(&placeholders, &header::AUTHORIZATION, PossibleVersions::Any);
            let (sent, expected) = http2(stand_in.as_bytes(), VALUE, cut);
            let arrived = written(&placeholders, HttpVersion::Http2, width, &sent).await;
            assert!(arrived == expected, "{cut} {width}");
            assert!(cover.was_placed());
            let (stand_in, _cover) =
                self::cover(&placeholders, &header::AUTHORIZATION, PossibleVersions::Any);
            let (sent, expected) = http2(stand_in.as_bytes(), VALUE, cut);
            let arrived = written_in(&placeholders, HttpVersion::Http2, 100, width, &sent).await;
            assert!(arrived == expected, "{cut}, pieces of {width}");
        }
    }
}

// ---- what hyper writes ----

type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// A request as the server received it.
struct Seen {
    head: http::request::Parts,
    body: Bytes,
    trailers: HeaderMap,
}

/// A connection to a server that reports every request that it receives.
struct Exchange {
    sender: Sender,
    seen: mpsc::UnboundedReceiver<Seen>,
}

enum Sender {
    Http1(http1::SendRequest<Sent>),
    Http2(http2::SendRequest<Sent>),
}

impl Exchange {
    async fn start(wire: HttpVersion, placeholders: &PlaceholderTable) -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (sees, seen) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Incoming>| {
            let sees = sees.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap();
                let trailers = body.trailers().cloned().unwrap_or_default();
                let body = body.to_bytes();
                assert!(sees.send(Seen { head, body, trailers }).is_ok());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        tokio::spawn(async move {
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            drop(builder.serve_connection(TokioIo::new(far), service).await);
        });
        let near = SubstitutingStream::new(TokioIo::new(near), placeholders.clone(), wire);
        let sender = match wire {
            HttpVersion::Http1 => {
                let (sender, connection) = http1::handshake(near).await.unwrap();
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            HttpVersion::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), near).await.unwrap();
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Self { sender, seen }
    }

    async fn send(&mut self, request: Request<Sent>) -> Seen {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap();
            }
            Sender::Http2(sender) => {
                sender.send_request(request).await.unwrap();
            }
        }
        self.seen.recv().await.unwrap()
    }
}

fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://upstream.example{path}"))
}

fn body(pieces: &[&[u8]], trailers: Option<HeaderMap>) -> Sent {
    let pieces: Vec<_> = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    let frames = pieces
        .into_iter()
        .map(Frame::data)
        .chain(trailers.map(Frame::trailers))
        .map(Ok);
    StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>())).boxed_unsync()
}

/// Neither an upstream that echoed a stand-in nor a program that guessed one gains anything from it.
#[tokio::test]
async fn another_call_that_sends_a_live_stand_in_sends_it_as_it_is() {
    for wire in [HttpVersion::Http1, HttpVersion::Http2] {
        let placeholders = PlaceholderTable::default();
        let (stand_in, cover) = cover(&placeholders, &NAME, PossibleVersions::Any);
        let text = stand_in.to_str().unwrap();
        let mut exchange = Exchange::start(wire, &placeholders).await;
        let mut trailers = HeaderMap::new();
        trailers.insert(NAME, stand_in.clone());
        let line = format!("\r\n{NAME}: {text}\r\n\r\n");
        let pieces: [&[u8]; 3] = [
            text.as_bytes(),
            line.as_bytes(),
            &frame(HEADERS, 4, 99, text.as_bytes()),
        ];
        let other = request(&format!("/{text}?{text}"))
            .header("x-other", stand_in.clone())
            .header("cookie", format!("a={text}"))
            .header("trailer", NAME.as_str());
        let seen = exchange
            .send(other.body(body(&pieces, Some(trailers))).unwrap())
            .await;
        assert_eq!(seen.head.uri.path(), format!("/{text}"), "{wire:?}");
        assert_eq!(seen.head.headers["x-other"], text);
        assert_eq!(seen.head.headers["cookie"], format!("a={text}"));
        assert_eq!(seen.body, pieces.concat());
        assert_eq!(seen.trailers[NAME], text);
        assert!(!cover.was_placed());
        for expected in [VALUE, text.as_bytes()] {
            let own = request("/").header(NAME, stand_in.clone());
            let seen = exchange.send(own.body(body(&[b"{}"], None)).unwrap()).await;
            assert_eq!(seen.head.headers[NAME].as_bytes(), expected, "{wire:?}");
            assert!(cover.was_placed());
        }
    }
}

/// h2 cuts a large head into frames of 16 KiB.
#[tokio::test]
async fn a_value_is_placed_wherever_it_stands_in_a_large_head() {
    for wire in [HttpVersion::Http1, HttpVersion::Http2] {
        let placeholders = PlaceholderTable::default();
        let mut exchange = Exchange::start(wire, &placeholders).await;
        // The Huffman codes have 19 bits, so the encoded head is larger than its text.
        for before in (6860..6900).chain([0, 10_000]) {
            let (stand_in, cover) = cover(&placeholders, &header::AUTHORIZATION, PossibleVersions::Any);
            let own = request("/")
                .header("x-before", "\\".repeat(before))
                .header("authorization", stand_in)
                .header("x-after", "y".repeat(500));
            let seen = exchange.send(own.body(body(&[], None)).unwrap()).await;
            assert_eq!(
                seen.head.headers[header::AUTHORIZATION].as_bytes(),
                VALUE,
                "{wire:?} {before}"
            );
            assert_eq!(seen.head.headers["x-before"].len(), before);
            assert!(cover.was_placed());
        }
    }
}

#[tokio::test]
async fn calls_that_share_a_connection_get_their_own_values() {
    let placeholders = PlaceholderTable::default();
    let Exchange { sender, mut seen } = Exchange::start(HttpVersion::Http2, &placeholders).await;
    let Sender::Http2(mut sender) = sender else {
        unreachable!()
    };
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let value = format!("the value of call {number:03}, which is long enough");
            let (stand_in, cover) = placeholders
                .cover(&NAME, value.as_bytes(), PossibleVersions::Any)
                .unwrap();
            let own = request(&format!("/{number:03}")).header(NAME, stand_in);
            (
                sender.send_request(own.body(body(&[b"{}"], None)).unwrap()),
                cover,
            )
        })
        .collect();
    for (call, cover) in calls {
        call.await.unwrap();
        assert!(cover.was_placed());
        let seen = seen.recv().await.unwrap();
        assert_eq!(seen.head.version, Version::HTTP_2);
        let number = &seen.head.uri.path()[1..];
        let expected = format!("the value of call {number}, which is long enough");
        assert_eq!(seen.head.headers[NAME], expected);
    }
}

#[test]
fn a_stand_in_has_at_least_128_secret_bits() {
    for over in [PossibleVersions::Http1Only, PossibleVersions::Any] {
        let placeholders = PlaceholderTable::default();
        let mut symbols = vec![HashSet::new(); 200];
        for _ in 0..2000 {
            let (stand_in, _cover) = cover(&placeholders, &header::AUTHORIZATION, over);
            for (seen, symbol) in symbols.iter_mut().zip(stand_in.as_bytes()) {
                seen.insert(*symbol);
            }
        }
        let choices = symbols.iter().map(|seen| seen.len().max(1));
        let bits: f64 = choices.map(|choices| (choices as f64).log2()).sum();
        assert!(bits >= 128.0, "{over:?}: {bits}");
    }
}
