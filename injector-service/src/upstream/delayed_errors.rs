//! Write errors that wait for the answer.
//!
//! An upstream may answer before it has read the request, and close the connection. Writing the rest of the request fails
//! then, while the answer can still be read. hyper gives a connection up at the first error, so [`DelayedErrors`] reports
//! a failed write only after nothing more was read for [`MAX_SILENCE`].

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// Time without received bytes after which a failed write is reported.
const MAX_SILENCE: Duration = Duration::from_secs(10);

pin_project_lite::pin_project! {
    /// A connection that delays the errors of writes over HTTP/1.1. Over HTTP/2 it reports them at once, because every stream
    /// of the connection has failed.
    pub(super) struct DelayedErrors<S> {
        #[pin]
        stream: S,
        is_http2: bool,
        failed: Option<FailedWrite>,
    }
}

struct FailedWrite {
    kind: io::ErrorKind,
    report: Pin<Box<Sleep>>,
}

impl<S> DelayedErrors<S> {
    pub(super) fn new(stream: S, is_http2: bool) -> Self {
        Self {
            stream,
            is_http2,
            failed: None,
        }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncWrite> DelayedErrors<S> {
    /// Calls `write`. After a failed write, waits until the error is due.
    fn poll_write_with<T>(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let this = self.project();
        if this.failed.is_none() {
            match ready!(write(this.stream, context)) {
                Err(error) if !*this.is_http2 && is_closed_by_peer(error.kind()) => {
                    *this.failed = Some(FailedWrite {
                        kind: error.kind(),
                        report: Box::pin(sleep(MAX_SILENCE)),
                    });
                }
                written => return Poll::Ready(written),
            }
        }
        let Some(failed) = this.failed else {
            return Poll::Pending;
        };
        ready!(failed.report.as_mut().poll(context));
        Poll::Ready(Err(failed.kind.into()))
    }
}

pub(super) fn is_closed_by_peer(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<S: AsyncRead> AsyncRead for DelayedErrors<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        ready!(this.stream.poll_read(context, buffer))?;
        if let Some(failed) = this.failed {
            failed.report.as_mut().reset(Instant::now() + MAX_SILENCE);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite> AsyncWrite for DelayedErrors<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_with(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A connection whose peer sent these bytes and closed it.
    struct Closed(&'static [u8]);

    impl AsyncRead for Closed {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Closed {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_reported_when_nothing_was_read_for_a_while() {
        let mut stream = DelayedErrors::new(Closed(b"answer"), false);
        let began = Instant::now();
        let writing = tokio::time::timeout(MAX_SILENCE / 2, stream.write_all(b"body"));
        assert!(writing.await.is_err(), "it was reported at once");
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        let error = stream.write_all(b"body").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(began.elapsed(), MAX_SILENCE / 2 + MAX_SILENCE);
    }

    #[tokio::test]
    async fn over_http2_a_failed_write_is_reported_at_once() {
        let mut stream = DelayedErrors::new(Closed(b""), true);
        assert!(stream.write_all(b"frames").await.is_err());
    }
}
