//! Dialling: where it may go is decided on the resolved address, at the moment of dialling.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use chassis::dial::Dialer;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use proto::{Reason, Refusal};
use rustix::io::Errno;
#[cfg(not(test))]
use tokio::net::lookup_host;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;
use tower::Service;
use url::Host;

#[cfg(test)]
use self::tests::lookup_host;
use super::{
    ClientCertificateSource, DialContext,
    fault::TlsFault,
    hung_up::HungUp,
    interim::InterimLimit,
    ping::{ConnectionPing, PingInterval},
    tls::Tls,
};
use crate::{
    address::{self, Forbidden},
    placeholder::{HttpVersion, PlaceholderTable, SubstitutingStream},
    registry::server::Spec,
};

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the upstream's name was not resolved")]
    Resolve(#[source] io::Error),
    #[error("the upstream's address may not be dialled")]
    Address(Forbidden),
    #[error("the upstream cannot be reached")]
    Connect(#[source] io::Error),
    #[error(transparent)]
    Tls(Box<TlsFault>),
    #[error("the client certificate for the upstream cannot be used")]
    ClientCertificate(#[source] Refusal),
    #[error("the upstream does not speak HTTP/2")]
    NoHttp2,
    #[error("the upstream's HTTP/2 did not begin")]
    Http2(#[source] hyper::Error),
    #[error("the upstream did not answer in time")]
    Timeout,
    #[error("every connection to the upstream carries as many calls as it takes")]
    Full,
}

impl DialError {
    pub(super) fn tls(fault: TlsFault) -> Self {
        Self::Tls(Box::new(fault))
    }

    /// What the downstream is told.
    pub(super) fn refusal(&self) -> Refusal {
        if !matches!(self, Self::Tls(_)) {
            tracing::info!(error = chassis::telemetry::chain(self), "upstream not dialled");
        }
        match self {
            Self::Resolve(error) | Self::Connect(error) if is_out_of_descriptors(error) => Refusal::new(
                Reason::Overloaded,
                "the injector has no descriptor left for a connection; nothing was sent",
            ),
            Self::Resolve(_) | Self::Connect(_) | Self::Http2(_) | Self::Timeout => {
                Refusal::new(Reason::UpstreamUnreachable, format!("{self}; nothing was sent"))
            }
            Self::Address(why) => Refusal::new(Reason::UpstreamAddressRefused, format!("{self}: {why}")),
            Self::Tls(fault) => fault.refusal(),
            Self::ClientCertificate(refusal) => refusal.clone(),
            Self::Full => Refusal::new(Reason::Overloaded, format!("{self}; nothing was sent")),
            Self::NoHttp2 => Refusal::new(Reason::UpstreamProtocol, format!("{self}; nothing was sent")),
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let out = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| out.contains(&Errno::from_raw_os_error(code)))
}

/// Connects to one server.
#[derive(Clone)]
pub(super) struct Connector {
    target: Arc<Target>,
}

struct Target {
    host: Host<String>,
    port: u16,
    loopback: bool,
    tls: Option<Tls>,
    identify: Option<ClientCertificateSource>,
    /// HTTP/2 alone was offered, so nothing else will do.
    http2_only: bool,
    network: Arc<DialContext>,
    placeholders: PlaceholderTable,
    dialer: Dialer,
    ping: PingInterval,
}

impl Connector {
    pub(super) fn new(
        spec: &Spec,
        network: &Arc<DialContext>,
        placeholders: &PlaceholderTable,
        ping: &PingInterval,
        alpn: &[&[u8]],
        identify: Option<&ClientCertificateSource>,
    ) -> Result<Self, Refusal> {
        let tls = match spec.url.is_tls() {
            true => Some(Tls::new(&spec.tls, spec.url.host(), alpn, &network.roots)?),
            false => None,
        };
        Ok(Self {
            target: Arc::new(Target {
                host: spec.url.host().clone(),
                port: spec.url.port(),
                loopback: spec.url.is_loopback(),
                tls,
                identify: identify.cloned(),
                http2_only: alpn == [b"h2"],
                network: network.clone(),
                placeholders: placeholders.clone(),
                dialer: Dialer::new(network.keepalive.tcp_timeout),
                ping: ping.clone(),
            }),
        })
    }

    /// Returns the number of addresses of the host that worked when it was last connected to.
    pub(super) fn addresses(&self) -> usize {
        self.target.dialer.addresses()
    }

    /// Returns the interval of PING frames on a new connection.
    pub(super) fn ping_interval(&self) -> Duration {
        self.target.ping.get()
    }

    /// Connects, however long that takes.
    pub(super) async fn connect(&self) -> Result<SubstitutingStream<Socket>, DialError> {
        self.target.connect().await
    }
}

impl Target {
    /// A connection on which placeholders become values.
    async fn connect(&self) -> Result<SubstitutingStream<Socket>, DialError> {
        let socket = self.socket().await?;
        let wire = match &socket {
            Socket::Plain { .. } if self.http2_only => HttpVersion::Http2,
            Socket::Tls { is_http2: true, .. } => HttpVersion::Http2,
            Socket::Plain { .. } | Socket::Tls { .. } => HttpVersion::Http1,
        };
        Ok(SubstitutingStream::new(socket, self.placeholders.clone(), wire))
    }

    async fn socket(&self) -> Result<Socket, DialError> {
        let dialled = self.dialer.connect(&self.resolve().await?).await;
        let stream = dialled.map_err(DialError::Connect)?;
        let ping = |is_http2: bool| is_http2.then(|| self.ping.of_connection());
        // Fails only for a connection that is already gone.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return Ok(Socket::Plain {
                stream: wrapped(stream, ping(self.http2_only)),
            });
        };
        let identity = match &self.identify {
            Some(identify) => Some(identify().await.map_err(DialError::ClientCertificate)?),
            None => None,
        };
        let stream = tls.connect(stream, identity).await.map_err(DialError::tls)?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.http2_only && !is_http2 {
            return Err(DialError::NoHttp2);
        }
        Ok(Socket::Tls {
            is_http2,
            complaint: Complaint::default(),
            stream: wrapped(stream, ping(is_http2)),
        })
    }

    /// Every address that the host has at this moment, all of which may be dialled.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        let addresses: Vec<SocketAddr> = match &self.host {
            Host::Ipv4(ip) => vec![SocketAddr::new(IpAddr::V4(*ip), self.port)],
            Host::Ipv6(ip) => vec![SocketAddr::new(IpAddr::V6(*ip), self.port)],
            Host::Domain(name) => lookup_host((name.as_str(), self.port))
                .await
                .map_err(DialError::Resolve)?
                .collect(),
        };
        self.allowed(addresses)
    }

    /// If one of them may not be dialled, none is: it is no accident.
    fn allowed(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DialError> {
        for address in &addresses {
            address::check(*address, self.loopback, &self.network.own).map_err(DialError::Address)?;
        }
        Ok(addresses)
    }
}

impl Service<Uri> for Connector {
    type Response = SubstitutingStream<Socket>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<SubstitutingStream<Socket>, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    /// The URI is the request's; where to go is the server's own affair.
    fn call(&mut self, _: Uri) -> Self::Future {
        let target = self.target.clone();
        Box::pin(async move {
            timeout(target.network.limits.connect_timeout, target.connect())
                .await
                .unwrap_or(Err(DialError::Timeout))
        })
    }
}

/// A connection as hyper gets it.
type Wrapped<S> = TokioIo<InterimLimit<HungUp<S>>>;

/// `ping` is that of an HTTP/2 connection, and None over HTTP/1.1.
fn wrapped<S>(stream: S, ping: Option<ConnectionPing>) -> Wrapped<S> {
    TokioIo::new(InterimLimit::new(HungUp::new(stream, ping.is_some()), ping))
}

pin_project_lite::pin_project! {
    /// A connection to an upstream.
    #[project = SocketProjection]
    pub(super) enum Socket {
        Plain { #[pin] stream: Wrapped<TcpStream> },
        Tls {
            is_http2: bool,
            complaint: Complaint,
            #[pin] stream: Wrapped<TlsStream<TcpStream>>,
        },
    }
}

/// Reads, of up to 1,024 bytes each, that look for an alert after a write has failed. The alert is one of the first records
/// that the upstream sends after the handshake.
const MAX_READS_FOR_ALERT: usize = 16;

/// What the upstream said of the client's certificate when the handshake was over: HTTP/2 keeps no more of such an error
/// than its text.
#[derive(Clone, Default)]
pub(super) struct Complaint(Arc<Mutex<Option<TlsFault>>>);

impl Complaint {
    fn note(&self, error: &io::Error, address: Option<SocketAddr>) {
        if let Some(fault) = TlsFault::about_client(error, address) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
    }

    pub(super) fn take(&self) -> Option<TlsFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads from `stream`, and keeps the error if it is a complaint about the client certificate.
    fn poll_read(
        &self,
        mut stream: Pin<&mut Wrapped<TlsStream<TcpStream>>>,
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

    /// Reads what the upstream sent before a write on `stream` failed, up to an alert. In TLS 1.3 the upstream refuses a
    /// client certificate after the handshake, and closes the connection: then writing can fail before the alert is read.
    fn look_for_alert(&self, mut stream: Pin<&mut Wrapped<TlsStream<TcpStream>>>, context: &mut Context<'_>) {
        for _ in 0..MAX_READS_FOR_ALERT {
            let mut bytes = [0; 1024];
            let mut buffer = hyper::rt::ReadBuf::new(&mut bytes);
            match self.poll_read(stream.as_mut(), context, buffer.unfilled()) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                _ => return,
            }
        }
    }
}

impl Socket {
    /// Where a complaint about the client's certificate is found.
    pub(super) fn complaint(&self) -> Complaint {
        match self {
            Self::Plain { .. } => Complaint::default(),
            Self::Tls { complaint, .. } => complaint.clone(),
        }
    }
}

/// For hyper's own pool, which is for HTTP/1.1 alone.
impl Connection for SubstitutingStream<Socket> {
    fn connected(&self) -> Connected {
        Connected::new()
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
            SocketProjection::Tls {
                stream, complaint, ..
            } => complaint.poll_read(stream, context, buffer),
        }
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_write(context, bytes),
            SocketProjection::Tls {
                mut stream,
                complaint,
                ..
            } => {
                let written = ready!(stream.as_mut().poll_write(context, bytes));
                if written.is_err() {
                    complaint.look_for_alert(stream, context);
                }
                Poll::Ready(written)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_flush(context),
            SocketProjection::Tls {
                mut stream,
                complaint,
                ..
            } => {
                let flushed = ready!(stream.as_mut().poll_flush(context));
                if flushed.is_err() {
                    complaint.look_for_alert(stream, context);
                }
                Poll::Ready(flushed)
            }
        }
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
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_write_vectored(context, slices),
            SocketProjection::Tls {
                mut stream,
                complaint,
                ..
            } => {
                let written = ready!(stream.as_mut().poll_write_vectored(context, slices));
                if written.is_err() {
                    complaint.look_for_alert(stream, context);
                }
                Poll::Ready(written)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
#[path = "dial_tests.rs"]
mod tests;
