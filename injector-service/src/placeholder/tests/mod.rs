mod exchange;
mod frames;
mod heads;
mod targets;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::Write;
use proptest::prelude::*;

use super::{huffman, *};

/// A stream that accepts at most `width` bytes per write, and no bytes in every second write.
struct SlowStream {
    accepted: Vec<u8>,
    width: usize,
    is_blocked: bool,
}

impl SlowStream {
    fn new(width: usize) -> Self {
        Self {
            accepted: Vec::new(),
            width,
            is_blocked: false,
        }
    }
}

impl Write for SlowStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_blocked = !self.is_blocked;
        if self.is_blocked {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = bytes.len().min(self.width);
        self.accepted.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Writes `bytes` to a stream that accepts `width` bytes at a time. Returns the bytes that the stream received.
pub(super) async fn written(
    table: &PlaceholderTable,
    version: HttpVersion,
    width: usize,
    bytes: &[u8],
) -> Vec<u8> {
    written_in(table, version, width, bytes.len(), bytes).await
}

/// Writes `bytes` in pieces of `piece` bytes. Returns the bytes that the stream received.
pub(super) async fn written_in(
    table: &PlaceholderTable,
    version: HttpVersion,
    width: usize,
    piece: usize,
    bytes: &[u8],
) -> Vec<u8> {
    let mut stream = SubstitutingStream::new(SlowStream::new(width), table.clone(), version);
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
    stream.get_ref().accepted.clone()
}

const NAME: HeaderName = HeaderName::from_static("x-mcp-secret-a");
const VALUE: &[u8] = b"ghp_0123456789abcdefghijABCDEFGHIJ";

fn head(value: &[u8]) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nx-mcp-secret-a: ", value, b"\r\nb: 2\r\n\r\n"].concat()
}

#[tokio::test]
async fn a_placeholder_is_written_as_its_value() {
    let table = PlaceholderTable::default();
    for value in ["v", "ghp_0123456789abcdefghijABCDEFGHIJ", &"x".repeat(8192)] {
        for width in [1, 7, 100_000] {
            let (placeholder, guard) = table
                .insert(&NAME, value.as_bytes(), PossibleVersions::Http1Only)
                .unwrap();
            // A table does not know the placeholders of another table.
            let sent = head(placeholder.as_bytes());
            assert_eq!(
                written(&PlaceholderTable::default(), HttpVersion::Http1, 50, &sent).await,
                sent
            );
            assert!(!guard.is_substituted());
            let arrived = written(&table, HttpVersion::Http1, width, &sent).await;
            assert_eq!(arrived, head(value.as_bytes()));
            assert!(guard.is_substituted());
            // A placeholder that was replaced once is not replaced again.
            assert_eq!(written(&table, HttpVersion::Http1, 50, &sent).await, sent);
        }
    }
    assert!(table.lock().is_empty());
}

#[tokio::test]
async fn a_placeholder_and_its_value_have_hpack_codes_of_one_length() {
    let table = PlaceholderTable::default();
    for length in 24..200 {
        let value = "~tok3n-ABCxyz_".repeat(20)[..length].to_owned();
        let (placeholder, _guard) = table
            .insert(&NAME, value.as_bytes(), PossibleVersions::Any)
            .unwrap();
        let code = |text: &[u8]| huffman::encode(text).unwrap().len();
        assert_eq!(code(placeholder.as_bytes()), code(value.as_bytes()), "{length}");
    }
    for length in 1..23 {
        assert!(
            table
                .insert(&NAME, &[b'a'; 31][..length], PossibleVersions::Any)
                .is_none()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_written_soon_after_its_call_was_cancelled_has_its_value() {
    let table = PlaceholderTable::default();
    let (placeholder, guard) = table.insert(&NAME, VALUE, PossibleVersions::Http1Only).unwrap();
    drop(guard);
    sleep(Duration::from_millis(499)).await;
    let arrived = written(&table, HttpVersion::Http1, 50, &head(placeholder.as_bytes())).await;
    assert_eq!(arrived, head(VALUE));
    let (_, guard) = table.insert(&NAME, VALUE, PossibleVersions::Any).unwrap();
    drop(guard);
    assert!(!table.lock().is_empty());
    // After half a second the table has dropped the value.
    sleep(Duration::from_millis(501)).await;
    assert!(table.lock().is_empty());
}

#[test]
fn a_value_shorter_than_the_random_part_has_no_placeholder_in_http2() {
    let table = PlaceholderTable::default();
    assert!(
        table
            .insert(&NAME, b"shorter than 20 bytes", PossibleVersions::Any)
            .is_none()
    );
    assert!(
        table
            .insert(&NAME, b"short", PossibleVersions::Http1Only)
            .is_some()
    );
    let not_ascii = b"caf\xc3\xa9 with enough characters";
    assert!(table.insert(&NAME, not_ascii, PossibleVersions::Any).is_some());
    let with_control = b"bell\x07 with enough characters";
    assert!(table.insert(&NAME, with_control, PossibleVersions::Any).is_none());
}

#[test]
fn a_placeholder_reveals_only_the_length_of_its_value() {
    let table = PlaceholderTable::default();
    let value = b"the same value every time, long enough";
    let (one, _guard) = table.insert(&NAME, value, PossibleVersions::Any).unwrap();
    let (other, _other_guard) = table.insert(&NAME, value, PossibleVersions::Any).unwrap();
    assert_ne!(one, other);
    assert!(one.is_sensitive());
    assert!(one.as_bytes().iter().all(|byte| SYMBOLS.contains(byte)));
}

fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &[kind, 4, 0, 0, 0, stream], payload].concat()
}

proptest! {
    /// Bodies arrive unchanged in pieces of any size, and so do bytes of HTTP/2 that are no frames.
    #[test]
    fn bytes_without_a_placeholder_arrive_unchanged(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6),
        other in proptest::collection::vec(any::<u8>(), 0..9),
        width in 1..60_usize,
        piece in 1..60_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let table = PlaceholderTable::default();
        let _guard = table.insert(&NAME, b"a value that is long enough for a secret", PossibleVersions::Any).unwrap();
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
        // `other` is shorter than the header of a frame.
        frames.extend(&other);
        for (version, bytes) in [(HttpVersion::Http1, text), (HttpVersion::Http2, frames)] {
            let arrived = runtime.block_on(written_in(&table, version, width, piece, &bytes));
            prop_assert_eq!(&arrived, &bytes);
        }
    }
}
