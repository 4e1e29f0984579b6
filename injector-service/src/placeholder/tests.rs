#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{Empty, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::Write,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;

use super::{huffman, *};

/// A stream that takes only so many bytes at a time, and every other time none.
struct Narrow {
    taken: Vec<u8>,
    width: usize,
    full: bool,
}

impl Narrow {
    fn new(width: usize) -> Self {
        Self {
            taken: Vec::new(),
            width,
            full: false,
        }
    }
}

impl Write for Narrow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.full = !self.full;
        if self.full {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = bytes.len().min(self.width);
        self.taken.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns the bytes that arrive when a stream takes only `width` of `bytes` at a time.
pub(super) async fn written(
    placeholders: &PlaceholderTable,
    wire: HttpVersion,
    width: usize,
    bytes: &[u8],
) -> Vec<u8> {
    written_in(placeholders, wire, width, bytes.len(), bytes).await
}

/// Returns the bytes that arrive when `bytes` are written in pieces of `piece` bytes.
pub(super) async fn written_in(
    placeholders: &PlaceholderTable,
    wire: HttpVersion,
    width: usize,
    piece: usize,
    bytes: &[u8],
) -> Vec<u8> {
    let mut stream = SubstitutingStream::new(Narrow::new(width), placeholders.clone(), wire);
    let mut rest = bytes;
    while !rest.is_empty() {
        let next = &rest[..piece.min(rest.len())];
        let count = std::future::poll_fn(|context| Pin::new(&mut stream).poll_write(context, next))
            .await
            .unwrap();
        rest = &rest[count..];
    }
    std::future::poll_fn(|context| Pin::new(&mut stream).poll_flush(context))
        .await
        .unwrap();
    stream.get_ref().taken.clone()
}

const NAME: HeaderName = HeaderName::from_static("x-mcp-secret-a");
const VALUE: &[u8] = b"ghp_0123456789abcdefghijABCDEFGHIJ";

fn head(value: &[u8]) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nx-mcp-secret-a: ", value, b"\r\nb: 2\r\n\r\n"].concat()
}

#[tokio::test]
async fn a_stand_in_is_written_as_its_value() {
    let placeholders = PlaceholderTable::default();
    for value in ["v", "ghp_0123456789abcdefghijABCDEFGHIJ", &"x".repeat(8192)] {
        for width in [1, 7, 100_000] {
            let (stand_in, cover) = placeholders
                .cover(&NAME, value.as_bytes(), PossibleVersions::Http1Only)
                .unwrap();
            // A placeholders does not replace the stand-ins of another placeholders.
            let sent = head(stand_in.as_bytes());
            assert_eq!(
                written(&PlaceholderTable::default(), HttpVersion::Http1, 50, &sent).await,
                sent
            );
            assert!(!cover.was_placed());
            let arrived = written(&placeholders, HttpVersion::Http1, width, &sent).await;
            assert_eq!(arrived, head(value.as_bytes()));
            assert!(cover.was_placed());
            // A stand-in that was replaced once is not replaced again.
            assert_eq!(written(&placeholders, HttpVersion::Http1, 50, &sent).await, sent);
        }
    }
    assert!(placeholders.lock().is_empty());
}

#[tokio::test]
async fn in_http2_a_code_is_replaced_by_one_of_its_length() {
    let placeholders = PlaceholderTable::default();
    for length in 24..200 {
        let value = "~tok3n-ABCxyz_".repeat(20)[..length].to_owned();
        let (stand_in, _cover) = placeholders
            .cover(&NAME, value.as_bytes(), PossibleVersions::Any)
            .unwrap();
        let code = |text: &[u8]| huffman::encode(text).unwrap().len();
        assert_eq!(code(stand_in.as_bytes()), code(value.as_bytes()), "{length}");
    }
    for length in 1..23 {
        assert!(
            placeholders
                .cover(&NAME, &[b'a'; 31][..length], PossibleVersions::Any)
                .is_none()
        );
    }
}

/// A head that is written while, and after, its call is given up.
#[tokio::test(start_paused = true)]
async fn a_head_that_is_still_queued_when_its_call_is_given_up_has_its_value() {
    let placeholders = PlaceholderTable::default();
    let (stand_in, cover) = placeholders
        .cover(&NAME, VALUE, PossibleVersions::Http1Only)
        .unwrap();
    drop(cover);
    sleep(Duration::from_millis(499)).await;
    let arrived = written(&placeholders, HttpVersion::Http1, 50, &head(stand_in.as_bytes())).await;
    assert_eq!(arrived, head(VALUE));
    let (_, cover) = placeholders.cover(&NAME, VALUE, PossibleVersions::Any).unwrap();
    drop(cover);
    assert!(!placeholders.lock().is_empty());
    // Half a second later, no value waits any more.
    sleep(Duration::from_millis(501)).await;
    assert!(placeholders.lock().is_empty());
}

#[test]
fn a_value_too_short_for_a_secret_has_no_stand_in_where_its_length_counts() {
    let placeholders = PlaceholderTable::default();
    assert!(
        placeholders
            .cover(&NAME, b"shorter than 20 bytes", PossibleVersions::Any)
            .is_none()
    );
    assert!(
        placeholders
            .cover(&NAME, b"short", PossibleVersions::Http1Only)
            .is_some()
    );
    let not_ascii = b"caf\xc3\xa9 with enough characters";
    assert!(
        placeholders
            .cover(&NAME, not_ascii, PossibleVersions::Any)
            .is_none()
    );
}

#[test]
fn a_stand_in_says_nothing_of_its_value_but_its_length() {
    let placeholders = PlaceholderTable::default();
    let value = b"the same value every time, long enough";
    let (one, _cover) = placeholders.cover(&NAME, value, PossibleVersions::Any).unwrap();
    let (other, _other_cover) = placeholders.cover(&NAME, value, PossibleVersions::Any).unwrap();
    assert_ne!(one, other);
    assert!(one.is_sensitive());
    assert!(one.as_bytes().iter().all(|byte| SYMBOLS.contains(byte)));
}

fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &[kind, 4, 0, 0, 0, stream], payload].concat()
}

proptest! {
    /// Bodies arrive unchanged in pieces of any size, and so do bytes of HTTP/2 that are no message at all.
    #[test]
    fn other_bytes_arrive_as_they_are(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6),
        other in proptest::collection::vec(any::<u8>(), 0..9),
        width in 1..60_usize,
        piece in 1..60_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let placeholders = PlaceholderTable::default();
        let _cover = placeholders.cover(&NAME, b"a value that is long enough for a secret", PossibleVersions::Any).unwrap();
        let (mut text, mut frames) = (Vec::new(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec());
        for (number, body) in (1..).zip(&bodies) {
            text.extend_from_slice(format!("PUT / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes());
            text.extend_from_slice(body);
            text.extend_from_slice(b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
            if !body.is_empty() {
                text.extend_from_slice(format!("{:X}\r\n", body.len()).as_bytes());
                text.extend_from_slice(body);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\na: b\r\n\r\n");
            frames.extend(frame(1, number, body));
            frames.extend(frame(0, number, body));
        }
        // These bytes are shorter than the header of a frame.
        frames.extend(&other);
        for (wire, bytes) in [(HttpVersion::Http1, text), (HttpVersion::Http2, frames)] {
            let arrived = runtime.block_on(written_in(&placeholders, wire, width, piece, &bytes));
            prop_assert_eq!(&arrived, &bytes);
        }
    }
}

/// A request as the server on the other end saw it, and all that crossed the wire.
async fn exchanged(
    wire: HttpVersion,
    values: &[(&'static str, HeaderValue)],
    placeholders: &PlaceholderTable,
) -> Request<()> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let seen: Arc<Mutex<Option<Request<()>>>> = Arc::default();
    let seeing = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        *seeing.lock().unwrap() = Some(request.map(drop));
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    tokio::spawn(async move {
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        drop(builder.serve_connection(TokioIo::new(far), service).await);
    });
    let near = SubstitutingStream::new(TokioIo::new(near), placeholders.clone(), wire);
    let mut request = Request::get("http://upstream.example/x")
        .body(Empty::<Bytes>::new())
        .unwrap();
    for (name, value) in values {
        request.headers_mut().insert(*name, value.clone());
    }
    match wire {
        HttpVersion::Http1 => {
            let (mut sender, connection) = http1::handshake(near).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap();
        }
        HttpVersion::Http2 => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), near).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap();
        }
    }
    seen.lock().unwrap().take().unwrap()
}

#[tokio::test]
async fn real_peers_see_values_and_no_stand_ins() {
    let placeholders = PlaceholderTable::default();
    let token = "ghp_0123456789abcdefghijABCDEFGHIJ";
    let bearer = "Bearer {\"weird\": \"~^<>|`\"} and quite long";
    for wire in [HttpVersion::Http1, HttpVersion::Http2] {
        for _ in 0..50 {
            let (one, one_cover) = placeholders
                .cover(&NAME, token.as_bytes(), PossibleVersions::Any)
                .unwrap();
            let (other, other_cover) = placeholders
                .cover(&header::AUTHORIZATION, bearer.as_bytes(), PossibleVersions::Any)
                .unwrap();
            let headers = [("x-mcp-secret-a", one), ("authorization", other)];
            let seen = exchanged(wire, &headers, &placeholders).await;
            assert_eq!(seen.headers()["x-mcp-secret-a"], token);
            assert_eq!(seen.headers()["authorization"], bearer);
            assert!(one_cover.was_placed() && other_cover.was_placed());
        }
    }
}
