use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::Watchdog;

/// Longest time for which a connection is read after its last response, when the rest of a request may still arrive.
const LINGER: Duration = Duration::from_secs(5);
/// Number of reads before a lingering connection lets other tasks run.
const READS_PER_POLL: usize = 16;

/// A connection that reports its reads and writes to the [`Watchdog`].
pub(in crate::proxy) struct WatchedStream<S> {
    stream: S,
    watchdog: Arc<Watchdog>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> WatchedStream<S> {
    pub(in crate::proxy) fn new(stream: S, watchdog: Arc<Watchdog>) -> Self {
        Self {
            stream,
            watchdog,
            linger: None,
        }
    }
}

impl<S: AsyncRead + Unpin> WatchedStream<S> {
    /// Reads and discards until the peer closes its side, or [`LINGER`] has passed. A connection that is closed with
    /// unread bytes is reset, and the peer could lose the response.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut scratch = [MaybeUninit::uninit(); 8 * 1024];
        for _ in 0..READS_PER_POLL {
            let mut buffer = ReadBuf::uninit(&mut scratch);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(bytes @ [_, ..]) = buffer.filled().get(before..) {
            self.watchdog.record_read(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watchdog.record_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watchdog.record_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = ready!(Pin::new(&mut self.stream).poll_shutdown(context));
        if closed.is_ok() && self.watchdog.has_unread.load(Relaxed) {
            ready!(self.poll_linger(context));
        }
        Poll::Ready(closed)
    }
}
