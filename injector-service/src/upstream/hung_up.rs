//! An upstream that answers before it has read the request, and closes the connection.
//!
//! Writing the rest of the request fails then, while the answer waits to be read. hyper gives a connection up at the
//! first error, so [`HungUp`] keeps back that writing failed until reading has come to an end.

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

/// How long nothing may be read before the error is told after all.
const PATIENCE: Duration = Duration::from_secs(10);

pin_project_lite::pin_project! {
    /// A connection whose failed writes wait for what is still to be read. Over HTTP/2 they do not: there every stream
    /// of the connection has failed.
    pub(super) struct HungUp<S> {
        #[pin]
        stream: S,
        is_http2: bool,
        failed: Option<Failed>,
    }
}

struct Failed {
    kind: io::ErrorKind,
    told: Pin<Box<Sleep>>,
}

impl<S> HungUp<S> {
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

impl<S: AsyncWrite> HungUp<S> {
    /// Does `write`, or waits where an earlier write has failed.
    fn poll<T>(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let this = self.project();
        if this.failed.is_none() {
            match ready!(write(this.stream, context)) {
                Err(error) if !*this.is_http2 && is_closed(error.kind()) => {
                    *this.failed = Some(Failed {
                        kind: error.kind(),
                        told: Box::pin(sleep(PATIENCE)),
                    });
                }
                written => return Poll::Ready(written),
            }
        }
        let Some(failed) = this.failed else {
            return Poll::Pending;
        };
        ready!(failed.told.as_mut().poll(context));
        Poll::Ready(Err(failed.kind.into()))
    }
}

/// Returns true when the peer closed the connection.
fn is_closed(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<S: AsyncRead> AsyncRead for HungUp<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        ready!(this.stream.poll_read(context, buffer))?;
        if let Some(failed) = this.failed {
            failed.told.as_mut().reset(Instant::now() + PATIENCE);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite> AsyncWrite for HungUp<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(context, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(context, |stream, context| stream.poll_flush(context))
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

    /// A connection that its peer has closed after it sent this.
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
    async fn that_writing_failed_is_told_when_nothing_was_read_for_a_while() {
        let mut stream = HungUp::new(Closed(b"answer"), false);
        let began = Instant::now();
        let writing = tokio::time::timeout(PATIENCE / 2, stream.write_all(b"body"));
        assert!(writing.await.is_err(), "it was told at once");
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        let error = stream.write_all(b"body").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(began.elapsed(), PATIENCE / 2 + PATIENCE);
    }

    #[tokio::test]
    async fn over_http2_it_is_told_at_once() {
        let mut stream = HungUp::new(Closed(b""), true);
        assert!(stream.write_all(b"frames").await.is_err());
    }
}
