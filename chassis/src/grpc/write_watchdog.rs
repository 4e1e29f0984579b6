//! Detection of clients that do not read an answer.
//!
//! The bytes of an answer wait in three places, and a client can stop them in each: in the answer's body and in h2, while
//! the client opens no HTTP/2 flow-control window, and before the socket, while the client reads nothing. Neither hyper
//! nor h2 limits the time in any of these places. This module therefore counts the pieces of answers that exist: a piece
//! is dropped when it was written or its stream was reset, so a piece that exists for too long shows a stalled client,
//! wherever the piece waits.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{sync::Notify, time};
use tower::Service;

use crate::unwritten_bytes::UnwrittenBytes;

/// Largest piece of a body, in bytes. The age of a piece shows how slow its client is only when the piece is small: a
/// piece of this size takes 30 seconds at 0.5 KiB a second.
const PIECE: usize = 16 * 1024;

/// Number of the unwritten pieces that were made within one period.
type Generation = Arc<AtomicUsize>;

/// Counts the pieces of answers that one connection has not written yet. Clones share the state.
#[derive(Clone, Default)]
pub(super) struct WriteWatchdog {
    generation: Arc<Mutex<Generation>>,
    unwritten: Arc<UnwrittenPieces>,
}

/// Number of the unwritten pieces of all periods.
#[derive(Default)]
struct UnwrittenPieces {
    count: AtomicUsize,
    /// Wakes [`WriteWatchdog::all_written`] when `count` becomes 0.
    none: Notify,
}

impl WriteWatchdog {
    fn current(&self) -> Generation {
        self.generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Starts a new generation and returns the previous one.
    fn next_generation(&self) -> Generation {
        let mut current = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *current)
    }

    /// Completes when no piece is unwritten.
    pub(super) async fn all_written(&self) {
        loop {
            // Made before the count is read, so that a last piece that is written in between is noticed.
            let none = self.unwritten.none.notified();
            if self.unwritten.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }

    /// Completes when a piece has stayed unwritten for between `limit` and one and a half times `limit`.
    pub(super) async fn stalled(&self, limit: Duration) {
        let mut generations = VecDeque::from([Generation::default(), Generation::default()]);
        loop {
            time::sleep(limit / 2).await;
            generations.push_back(self.next_generation());
            let oldest = generations.pop_front();
            if oldest.is_some_and(|pieces| pieces.load(Ordering::Relaxed) > 0) {
                return;
            }
        }
    }
}

/// A piece of an answer. Its drop is the sign that the piece was written or given up.
struct Piece {
    bytes: Bytes,
    generation: Generation,
    unwritten_pieces: Arc<UnwrittenPieces>,
    unwritten_bytes: Option<Arc<UnwrittenBytes>>,
}

impl Piece {
    fn new(bytes: Bytes, watchdog: &WriteWatchdog, unwritten_bytes: Option<Arc<UnwrittenBytes>>) -> Self {
        let generation = watchdog.current();
        generation.fetch_add(1, Ordering::Relaxed);
        let unwritten_pieces = watchdog.unwritten.clone();
        unwritten_pieces.count.fetch_add(1, Ordering::Relaxed);
        Self {
            bytes,
            generation,
            unwritten_pieces,
            unwritten_bytes,
        }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.generation.fetch_sub(1, Ordering::Relaxed);
        if self.unwritten_pieces.count.fetch_sub(1, Ordering::Release) == 1 {
            self.unwritten_pieces.none.notify_waiters();
        }
        if let Some(unwritten) = &self.unwritten_bytes {
            unwritten.written(self.bytes.len());
        }
    }
}

/// A service whose answers are counted by a [`WriteWatchdog`].
#[derive(Clone)]
pub(super) struct WatchedService<S> {
    inner: S,
    watchdog: WriteWatchdog,
}

impl<S> WatchedService<S> {
    pub(super) fn new(inner: S, watchdog: WriteWatchdog) -> Self {
        Self { inner, watchdog }
    }
}

impl<S, R, B> Service<http::Request<R>> for WatchedService<S>
where
    S: Service<http::Request<R>, Response = http::Response<B>>,
{
    type Response = http::Response<WatchedBody<B>>;
    type Error = S::Error;
    type Future = WatchedResponse<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<R>) -> Self::Future {
        WatchedResponse {
            inner: self.inner.call(request),
            watchdog: self.watchdog.clone(),
        }
    }
}

pin_project! {
    /// The future of an answer.
    pub(super) struct WatchedResponse<F> {
        #[pin]
        inner: F,
        watchdog: WriteWatchdog,
    }
}

impl<F, B, E> Future for WatchedResponse<F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
{
    type Output = Result<http::Response<WatchedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(context))?;
        let unwritten = answer.extensions_mut().remove::<Arc<UnwrittenBytes>>();
        let watchdog = this.watchdog.clone();
        Poll::Ready(Ok(answer.map(|inner| WatchedBody {
            inner,
            watchdog,
            unwritten,
            rest: Bytes::new(),
        })))
    }
}

pin_project! {
    /// The body of an answer.
    pub(super) struct WatchedBody<B> {
        #[pin]
        inner: B,
        watchdog: WriteWatchdog,
        unwritten: Option<Arc<UnwrittenBytes>>,
        // Bytes of the last frame of `inner` that this body has not returned yet.
        rest: Bytes,
    }
}

impl<B: Body<Data = Bytes>> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if this.rest.is_empty() {
            match ready!(this.inner.poll_frame(context))
                .transpose()?
                .map(Frame::into_data)
            {
                Some(Ok(data)) => *this.rest = data,
                Some(Err(other)) => return Poll::Ready(Some(Ok(other))),
                None => return Poll::Ready(None),
            }
        }
        let length = this.rest.len().min(PIECE);
        let piece = Piece::new(this.rest.split_to(length), this.watchdog, this.unwritten.clone());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn piece(watchdog: &WriteWatchdog) -> Piece {
        Piece::new(Bytes::from_static(b"x"), watchdog, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_that_is_not_written_shows_a_stalled_client() {
        let watchdog = WriteWatchdog::default();
        for late in [Duration::ZERO, LIMIT / 3, LIMIT] {
            let stall = async {
                sleep(late).await;
                let _piece = piece(&watchdog);
                sleep(100 * LIMIT).await;
            };
            let began = Instant::now();
            tokio::select! {
                () = stall => panic!("not noticed"),
                () = watchdog.stalled(LIMIT) => {}
            }
            let age = began.elapsed() - late;
            assert!(age >= LIMIT && age <= LIMIT * 3 / 2, "{age:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_not_stalled() {
        let watchdog = WriteWatchdog::default();
        let writing = async {
            let mut last = piece(&watchdog);
            for _ in 0..100 {
                sleep(LIMIT * 9 / 10).await;
                last = piece(&watchdog);
            }
            drop(last);
        };
        tokio::select! {
            () = writing => {}
            () = watchdog.stalled(LIMIT) => panic!("a slow client was taken for a stalled one"),
        }
        assert!(timeout(100 * LIMIT, watchdog.stalled(LIMIT)).await.is_err());
    }

    #[tokio::test]
    async fn a_body_is_split_into_small_pieces_without_loss() {
        let bytes: Bytes = (0..=u8::MAX).cycle().take(3 * PIECE + 1).collect();
        let watchdog = WriteWatchdog::default();
        let mut body = WatchedBody {
            inner: Full::new(bytes.clone()),
            watchdog: watchdog.clone(),
            unwritten: None,
            rest: Bytes::new(),
        };
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            assert_eq!(body.is_end_stream(), pieces.len() == 3);
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(
            pieces.iter().map(Bytes::len).collect::<Vec<_>>(),
            [PIECE, PIECE, PIECE, 1]
        );
        assert_eq!(pieces.concat(), bytes);
        assert_eq!(watchdog.current().load(Ordering::Relaxed), 4);
        drop(pieces);
        assert_eq!(watchdog.current().load(Ordering::Relaxed), 0);
    }
}
