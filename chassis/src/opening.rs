//! The first bytes of a connection, which have to come in time.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// What a client of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that fails unless its peer says in time which HTTP it speaks: by the whole preface of HTTP/2, or by
/// anything else.
///
/// The timeouts of hyper begin only then, so that without this one a connection that says nothing is kept for ever.
pub struct Opening<S> {
    stream: S,
    /// How much of the preface came, and when it is too late; none when it is known what is spoken.
    awaited: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Opening<S> {
    /// A connection that was just made.
    pub fn new(stream: S, within: Duration) -> Self {
        Self {
            stream,
            awaited: Some((0, Box::pin(sleep(within)))),
        }
    }

    fn take(&mut self, read: &[u8]) {
        let Some((came, _)) = &mut self.awaited else {
            return;
        };
        let rest = PREFACE.get(*came..).unwrap_or_default();
        *came += read.len();
        if read.is_empty() || !rest.starts_with(read) || *came == PREFACE.len() {
            self.awaited = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.take(buffer.filled().get(before..).unwrap_or_default());
            return Poll::Ready(read);
        }
        match &mut self.awaited {
            Some((_, late)) => {
                ready!(late.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::{Instant, advance, timeout},
    };

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn who_does_not_say_what_it_speaks_is_not_waited_for() {
        for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (mut client, server) = duplex(64);
            let mut server = Opening::new(server, WITHIN);
            let began = Instant::now();
            client.write_all(said).await.unwrap();
            let mut read = Vec::new();
            let ended = server.read_to_end(&mut read).await.unwrap_err();
            assert_eq!(
                (ended.kind(), read.as_slice(), began.elapsed()),
                (io::ErrorKind::TimedOut, said, WITHIN)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_it_byte_by_byte_has_no_more_time() {
        let (mut client, server) = duplex(64);
        let mut server = Opening::new(server, WITHIN);
        for byte in &PREFACE[..2] {
            client.write_all(&[*byte]).await.unwrap();
            server.read_u8().await.unwrap();
            advance(WITHIN / 3).await;
        }
        let began = Instant::now();
        assert!(server.read_u8().await.is_err());
        assert!(began.elapsed() <= WITHIN / 3 + Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_said_it_may_take_its_time() {
        for said in [PREFACE, b"G", b"POST", b"PRI * HTTP/1.1"] {
            let (mut client, server) = duplex(64);
            let mut server = Opening::new(server, WITHIN);
            client.write_all(said).await.unwrap();
            server.read_exact(&mut vec![0; said.len()]).await.unwrap();
            let waited = timeout(100 * WITHIN, server.read_u8()).await;
            assert!(waited.is_err(), "{said:?}");
            drop(client);
            assert_eq!(
                server.read_u8().await.unwrap_err().kind(),
                io::ErrorKind::UnexpectedEof
            );
        }
    }
}
