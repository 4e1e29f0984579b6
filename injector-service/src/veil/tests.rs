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
use http::{Request, Response};
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

/// What arrives of `bytes` when they are written as hyper writes.
async fn written(veil: &Veil, wire: Wire, width: usize, bytes: &[u8]) -> Vec<u8> {
    let mut stream = Unveiling::new(Narrow::new(width), veil.clone(), wire);
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = std::future::poll_fn(|context| Pin::new(&mut stream).poll_write(context, rest))
            .await
            .unwrap();
        rest = &rest[count..];
    }
    std::future::poll_fn(|context| Pin::new(&mut stream).poll_flush(context))
        .await
        .unwrap();
    stream.get_ref().taken.clone()
}

#[tokio::test]
async fn a_stand_in_is_written_as_its_value() {
    let veil = Veil::default();
    for value in ["v", "ghp_0123456789abcdefghijABCDEFGHIJ", &"x".repeat(8192)] {
        let (stand_in, cover) = veil.cover(value.as_bytes(), Over::Http1).unwrap();
        let head = |value: &[u8]| [b"GET / HTTP/1.1\r\na: ", value, b"\r\nb: 2\r\n\r\n"].concat();
        assert!(!cover.was_placed());
        for width in [1, 7, 100_000] {
            let arrived = written(&veil, Wire::Http1, width, &head(stand_in.as_bytes())).await;
            assert_eq!(arrived, head(value.as_bytes()));
        }
        assert!(cover.was_placed());
        // Nobody else's stand-in, and none that is not covered any more.
        let other = Veil::default();
        let arrived = written(&other, Wire::Http1, 50, &head(stand_in.as_bytes())).await;
        assert_eq!(arrived, head(stand_in.as_bytes()));
        drop(cover);
        let arrived = written(&veil, Wire::Http1, 50, &head(stand_in.as_bytes())).await;
        assert_eq!(arrived, head(stand_in.as_bytes()));
    }
    assert!(veil.lock().is_empty());
}

#[tokio::test]
async fn in_http2_a_code_is_replaced_by_one_of_its_length() {
    let veil = Veil::default();
    for length in 19..200 {
        let value = "~tok3n-ABCxyz_".repeat(20)[..length].to_owned();
        let (stand_in, cover) = veil.cover(value.as_bytes(), Over::Any).unwrap();
        let (from, to) = (
            huffman::encode(stand_in.as_bytes()).unwrap(),
            huffman::encode(value.as_bytes()).unwrap(),
        );
        assert_eq!(from.len(), to.len(), "{length}");
        let frame = |code: &[u8]| [b"\x10\x85", code, b"\x42\x4e\x02\x90\x61\0\0"].concat();
        let arrived = written(&veil, Wire::Http2, 9, &frame(&from)).await;
        assert_eq!(arrived, frame(&to), "{length}");
        assert!(cover.was_placed());
    }
}

/// A head that is written while, and after, its call is given up.
#[tokio::test(start_paused = true)]
async fn a_head_that_is_still_queued_when_its_call_is_given_up_has_its_value() {
    let veil = Veil::default();
    let value = b"ghp_0123456789abcdefghijABCDEFGHIJ";
    let (stand_in, cover) = veil.cover(value, Over::Http1).unwrap();
    drop(cover);
    sleep(Duration::from_millis(499)).await;
    let arrived = written(&veil, Wire::Http1, 50, stand_in.as_bytes()).await;
    assert_eq!(arrived, value);
    // After half a second nothing is queued any more.
    sleep(Duration::from_millis(2)).await;
    assert!(veil.lock().is_empty());
    // Written, it is not kept.
    let (stand_in, cover) = veil.cover(value, Over::Http1).unwrap();
    written(&veil, Wire::Http1, 50, stand_in.as_bytes()).await;
    drop(cover);
    assert!(veil.lock().is_empty());
}

#[test]
fn a_value_too_short_for_a_key_has_no_stand_in_where_its_length_counts() {
    let veil = Veil::default();
    assert!(veil.cover(b"short", Over::Any).is_none());
    assert!(veil.cover(b"short", Over::Http1).is_some());
    assert!(
        veil.cover(b"caf\xc3\xa9 with enough characters", Over::Any)
            .is_none()
    );
}

#[test]
fn a_stand_in_says_nothing_of_its_value_but_its_length() {
    let veil = Veil::default();
    let value = b"the same value every time, long enough";
    let (one, _cover) = veil.cover(value, Over::Any).unwrap();
    let (other, _other_cover) = veil.cover(value, Over::Any).unwrap();
    assert_ne!(one, other);
    assert!(one.is_sensitive());
    assert!(one.as_bytes().iter().all(|byte| SYMBOLS.contains(byte)));
}

proptest! {
    /// Whatever else is written arrives as it is, also when it looks like a stand-in.
    #[test]
    fn other_bytes_arrive_as_they_are(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                Just(MARK.to_vec()),
                Just(vec![0x42, 0x4e, 0x02, 0x90, 0x61]),
                Just(b"0000000000000000".to_vec()),
            ],
            0..8,
        ),
        width in 1..60_usize,
    ) {
        let bytes = pieces.concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let veil = Veil::default();
        let _cover = veil.cover(b"a value that is long enough for a key", Over::Any).unwrap();
        for wire in [Wire::Http1, Wire::Http2] {
            let arrived = runtime.block_on(written(&veil, wire, width, &bytes));
            prop_assert_eq!(&arrived, &bytes);
        }
    }
}

/// A request as the server on the other end saw it, and all that crossed the wire.
async fn exchanged(wire: Wire, values: &[(&'static str, HeaderValue)], veil: &Veil) -> Request<()> {
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
    let near = Unveiling::new(TokioIo::new(near), veil.clone(), wire);
    let mut request = Request::get("http://upstream.example/x")
        .body(Empty::<Bytes>::new())
        .unwrap();
    for (name, value) in values {
        request.headers_mut().insert(*name, value.clone());
    }
    match wire {
        Wire::Http1 => {
            let (mut sender, connection) = http1::handshake(near).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap();
        }
        Wire::Http2 => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), near).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap();
        }
    }
    seen.lock().unwrap().take().unwrap()
}

#[tokio::test]
async fn real_peers_see_values_and_no_stand_ins() {
    let veil = Veil::default();
    let token = "ghp_0123456789abcdefghijABCDEFGHIJ";
    let bearer = "Bearer {\"weird\": \"~^<>|`\"} and quite long";
    for wire in [Wire::Http1, Wire::Http2] {
        for _ in 0..50 {
            let (one, one_cover) = veil.cover(token.as_bytes(), Over::Any).unwrap();
            let (other, other_cover) = veil.cover(bearer.as_bytes(), Over::Any).unwrap();
            let headers = [("x-mcp-secret-a", one), ("authorization", other)];
            let seen = exchanged(wire, &headers, &veil).await;
            assert_eq!(seen.headers()["x-mcp-secret-a"], token);
            assert_eq!(seen.headers()["authorization"], bearer);
            assert!(one_cover.was_placed() && other_cover.was_placed());
        }
    }
}
