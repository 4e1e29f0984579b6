//! Connections to upstreams. Each is checked against the resolved address at the moment of dialling, so that a name
//! which resolves to another address later is checked again.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use chassis::{
    dial::Dialer,
    telemetry::{chain, field},
};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use proto::{CallId, Reason, Refusal};
use rustix::io::Errno;
#[cfg(not(test))]
use tokio::net::lookup_host;
use tokio::time::timeout;
use tower::Service;
use url::Host;

#[cfg(test)]
use self::tests::lookup_host;
use super::{
    ClientCertificateSource, DialContext, Transport, TrustedRoots,
    fault::TlsFault,
    ping::PingInterval,
    socket::{ClientCertificateAlert, Socket, checked},
    tls::Tls,
};
use crate::{
    address::{self, Forbidden},
    placeholder::{HttpVersion, PlaceholderTable, SubstitutingStream},
    registry::server::Spec,
};

/// The reason why a connection was not made.
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
    #[error("all connections to the upstream have as many calls as the upstream allows")]
    Full,
}

impl DialError {
    pub(super) fn tls(fault: TlsFault) -> Self {
        Self::Tls(Box::new(fault))
    }

    /// Logs the error for the call `call_id`, and returns the refusal for the downstream.
    pub(super) fn refusal(&self, call_id: &CallId) -> Refusal {
        if !matches!(self, Self::Tls(_)) {
            tracing::info!(
                { field::CALL_ID } = call_id.as_str(),
                error = chain(self),
                "upstream not dialled"
            );
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
            Self::Tls(fault) => fault.refusal(call_id),
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

/// Connects to one server. Clones share the addresses that worked.
#[derive(Clone)]
pub(super) struct Connector {
    endpoint: Arc<Endpoint>,
}

struct Endpoint {
    host: Host<String>,
    port: u16,
    loopback: bool,
    transport: Transport,
    tls: Option<Tls>,
    client_certificate: Option<ClientCertificateSource>,
    shared: Arc<DialContext>,
    placeholders: PlaceholderTable,
    dialer: Dialer,
    ping: PingInterval,
}

impl Connector {
    pub(super) fn new(
        spec: &Spec,
        transport: Transport,
        shared: &Arc<DialContext>,
        trusted: Option<&TrustedRoots>,
        placeholders: &PlaceholderTable,
        ping: &PingInterval,
        client_certificate: Option<&ClientCertificateSource>,
    ) -> Result<Self, Refusal> {
        let tls = match spec.url.is_tls() {
            true => Some(Tls::new(&spec.tls, spec.url.host(), transport.alpn(), trusted)?),
            false => None,
        };
        Ok(Self {
            endpoint: Arc::new(Endpoint {
                host: spec.url.host().clone(),
                port: spec.url.port(),
                loopback: spec.url.is_loopback(),
                transport,
                tls,
                client_certificate: client_certificate.cloned(),
                shared: shared.clone(),
                placeholders: placeholders.clone(),
                dialer: Dialer::new(shared.keepalive.tcp_timeout),
                ping: ping.clone(),
            }),
        })
    }

    pub(super) fn is_http2_only(&self) -> bool {
        self.endpoint.transport == Transport::Http2
    }

    /// Returns the number of addresses of the host that worked when it was last connected to.
    pub(super) fn addresses(&self) -> usize {
        self.endpoint.dialer.addresses()
    }

    /// Returns the interval of PING frames on a new connection.
    pub(super) fn ping_interval(&self) -> Duration {
        self.endpoint.ping.get()
    }

    /// Connects, without a time limit.
    pub(super) async fn connect(&self) -> Result<SubstitutingStream<Socket>, DialError> {
        self.endpoint.connect().await
    }
}

impl Endpoint {
    /// Returns a connection that replaces placeholders by values.
    async fn connect(&self) -> Result<SubstitutingStream<Socket>, DialError> {
        let socket = self.socket().await?;
        let version = match &socket {
            Socket::Plain { .. } if self.transport == Transport::Http2 => HttpVersion::Http2,
            Socket::Tls { is_http2: true, .. } => HttpVersion::Http2,
            Socket::Plain { .. } | Socket::Tls { .. } => HttpVersion::Http1,
        };
        Ok(SubstitutingStream::new(
            socket,
            self.placeholders.clone(),
            version,
        ))
    }

    async fn socket(&self) -> Result<Socket, DialError> {
        let dialled = self.dialer.connect(&self.resolve().await?).await;
        let stream = dialled.map_err(DialError::Connect)?;
        let ping = |is_http2: bool| is_http2.then(|| self.ping.of_connection());
        // Fails only when the connection is closed already.
        let _ = stream.set_nodelay(true);
        let requires_http2 = self.transport == Transport::Http2;
        let Some(tls) = &self.tls else {
            return Ok(Socket::Plain {
                stream: checked(stream, ping(requires_http2)),
            });
        };
        let certificate = match &self.client_certificate {
            Some(source) => Some(source().await.map_err(DialError::ClientCertificate)?),
            None => None,
        };
        let stream = tls.connect(stream, certificate).await.map_err(DialError::tls)?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if requires_http2 && !is_http2 {
            return Err(DialError::NoHttp2);
        }
        Ok(Socket::Tls {
            is_http2,
            alert: ClientCertificateAlert::default(),
            failed_write: None,
            stream: checked(stream, ping(is_http2)),
        })
    }

    /// Returns the addresses that the host has at this moment, unless one of them may not be dialled.
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

    /// Refuses all addresses when one may not be dialled, because a name that leads to a forbidden address is an attack or
    /// a mistake.
    fn allowed(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DialError> {
        for address in &addresses {
            address::check(*address, self.loopback, &self.shared.own).map_err(DialError::Address)?;
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

    /// Ignores the request's URI: a connector leads to its own server only.
    fn call(&mut self, _: Uri) -> Self::Future {
        let endpoint = self.endpoint.clone();
        Box::pin(async move {
            timeout(endpoint.shared.limits.connect_timeout, endpoint.connect())
                .await
                .unwrap_or(Err(DialError::Timeout))
        })
    }
}

/// Required by hyper-util's pool, which has only HTTP/1.1 connections here.
impl Connection for SubstitutingStream<Socket> {
    fn connected(&self) -> Connected {
        // hyper-util adds a clone to each answer.
        Connected::new().extra(self.connection_use().clone())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests;
