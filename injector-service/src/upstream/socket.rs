//! The socket of a connection to an upstream, with or without TLS.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{
    delayed_errors::{DelayedErrors, is_closed_by_peer},
    fault::TlsFault,
    interim::InterimLimit,
    ping::ConnectionPing,
};

/// A stream with the checks that every connection to an upstream has.
pub(super) type CheckedStream<S> = TokioIo<InterimLimit<DelayedErrors<S>>>;

/// Adds the checks to `stream`. `ping` is `None` over HTTP/1.1.
pub(super) fn checked<S>(stream: S, ping: Option<ConnectionPing>) -> CheckedStream<S> {
    TokioIo::new(InterimLimit::new(
        DelayedErrors::new(stream, ping.is_some()),
        ping,
    ))
}

pin_project_lite::pin_project! {
    #[project = SocketProjection]
    pub(super) enum Socket {
        Plain { #[pin] stream: CheckedStream<TcpStream> },
        Tls {
            is_http2: bool,
            alert: ClientCertificateAlert,
            // The error of a write that is not reported yet.
            failed_write: Option<io::ErrorKind>,
            #[pin] stream: CheckedStream<TlsStream<TcpStream>>,
        },
    }
}

/// Upper bound for the reads, of up to 1,024 bytes each, that look for an alert after a write has failed. The alert is one of
/// the first records that the upstream sends after the handshake.
const MAX_READS_FOR_ALERT: usize = 16;

/// The alert by which the upstream refused the client certificate after the handshake. hyper keeps only the text of such an
/// error over HTTP/2, so the alert is noted here. Clones share it.
#[derive(Clone, Default)]
pub(super) struct ClientCertificateAlert(Arc<Mutex<Option<TlsFault>>>);

impl ClientCertificateAlert {
    fn note(&self, error: &io::Error, address: Option<SocketAddr>) {
        if let Some(fault) = TlsFault::about_client(error, address) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
    }

    pub(super) fn take(&self) -> Option<TlsFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads from `stream`, and notes the error if it is such an alert.
    fn poll_read(
        &self,
        mut stream: Pin<&mut CheckedStream<TlsStream<TcpStream>>>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(stream.as_mut().poll_read(context, buffer));
        if let Err(error) = &read {
            let (tcp, _) = stream.inner().get_ref().get_ref().get_ref();
            self.note(error, tcp.peer_addr().ok());
        }
        Poll::Ready(read)
    }

    /// Writes to `stream` by `write`. When that fails, reads up to an alert before the error is reported: in TLS 1.3 the
    /// upstream refuses a client certificate after the handshake and closes the connection, so a write can fail before
    /// the alert is read. tokio may not know yet that the socket is readable, so the error waits in `failed` until the
    /// upstream's last bytes, or the end of the connection, can be read. `failed` is `None` over HTTP/1.1, where
    /// [`DelayedErrors`] waits already.
    fn poll_write<T>(
        &self,
        failed: Option<&mut Option<io::ErrorKind>>,
        mut stream: Pin<&mut CheckedStream<TlsStream<TcpStream>>>,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut CheckedStream<TlsStream<TcpStream>>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(failed) = failed else {
            return write(stream, context);
        };
        let kind = match *failed {
            Some(kind) => kind,
            None => match ready!(write(stream.as_mut(), context)) {
                Err(error) if is_closed_by_peer(error.kind()) => *failed.insert(error.kind()),
                written => return Poll::Ready(written),
            },
        };
        ready!(self.poll_up_to_alert(stream, context));
        Poll::Ready(Err(kind.into()))
    }

    fn poll_up_to_alert(
        &self,
        mut stream: Pin<&mut CheckedStream<TlsStream<TcpStream>>>,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        for _ in 0..MAX_READS_FOR_ALERT {
            let mut bytes = [0; 1024];
            let mut buffer = hyper::rt::ReadBuf::new(&mut bytes);
            let read = ready!(self.poll_read(stream.as_mut(), context, buffer.unfilled()));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(())
    }
}

impl Socket {
    /// Returns the alert of this connection, which stays empty without TLS.
    pub(super) fn client_certificate_alert(&self) -> ClientCertificateAlert {
        match self {
            Self::Plain { .. } => ClientCertificateAlert::default(),
            Self::Tls { alert, .. } => alert.clone(),
        }
    }

    /// Writes by `write`, and notes over TLS the alert by which the upstream refused the client certificate.
    fn poll_write_by<T>(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut dyn Write>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.project() {
            SocketProjection::Plain { stream } => write(stream, context),
            SocketProjection::Tls {
                stream,
                alert,
                failed_write,
                is_http2,
            } => alert.poll_write(
                is_http2.then_some(failed_write),
                stream,
                context,
                |stream, context| write(stream, context),
            ),
        }
    }
}

impl Read for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_read(context, buffer),
            SocketProjection::Tls { stream, alert, .. } => alert.poll_read(stream, context, buffer),
        }
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_by(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_by(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_shutdown(context),
            SocketProjection::Tls { stream, .. } => stream.poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain { stream } => stream.is_write_vectored(),
            Self::Tls { stream, .. } => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(context, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }
}
