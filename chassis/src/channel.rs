//! gRPC client connections to a service: TLS 1.3, with a certificate on both sides.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::{
    dial::{Dialer, without_brackets},
    keepalive::TcpTimeout,
    tls::{ClientTls, PeerTrust},
};

/// The host and port of a service's gRPC listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAddress {
    authority: http::uri::Authority,
    port: u16,
}

/// The text is not the address of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address of a service is HOST:PORT")]
pub struct ServiceAddressError;

impl ServiceAddress {
    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl std::str::FromStr for ServiceAddress {
    type Err = ServiceAddressError;

    fn from_str(text: &str) -> Result<Self, ServiceAddressError> {
        let authority: http::uri::Authority = text.parse().map_err(|_| ServiceAddressError)?;
        let port = authority.port_u16().ok_or(ServiceAddressError)?;
        if authority.as_str().contains('@') {
            Err(ServiceAddressError)
        } else {
            Ok(Self { authority, port })
        }
    }
}

impl std::fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.authority)
    }
}

/// Receives the errors of connecting to a service and of reading from the connection. tonic reports such an error
/// without its cause.
pub type ErrorObserver = Arc<dyn Fn(&io::Error) + Send + Sync>;

/// Returns a channel that connects at its first call and reconnects after its connection is lost.
pub fn channel(address: &ServiceAddress, tls: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTls::fixed(tls);
    let channels = Channels::new(address, tls, TcpTimeout::default(), Arc::new(|_| {}))?;
    Ok(channels.open())
}

/// Makes channels to one service.
#[derive(Clone)]
pub struct Channels {
    endpoint: Endpoint,
    connector: Connector,
}

#[derive(Clone)]
struct Connector {
    host: String,
    port: u16,
    tls: ClientTls,
    dialer: Arc<Dialer>,
    observer: ErrorObserver,
}

impl Channels {
    /// Makes channels whose connection errors go to `observer`.
    ///
    /// A channel sends a PING every 10 seconds, and closes a connection on which no answer arrives within 5 seconds, so that
    /// the next call opens another connection.
    pub fn new(
        address: &ServiceAddress,
        tls: ClientTls,
        tcp_timeout: TcpTimeout,
        observer: ErrorObserver,
    ) -> Result<Self, tonic::transport::Error> {
        // The endpoint's scheme is `http` so that tonic adds no TLS of its own to that of `Connector`. `origin` sets the real
        // scheme of the requests.
        let origin = Uri::builder()
            .scheme("https")
            .authority(address.authority.clone())
            .path_and_query("/")
            .build();
        let endpoint = Endpoint::from_shared(format!("http://{}", address.authority))?
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        let endpoint = match origin {
            Ok(origin) => endpoint.origin(origin),
            Err(_) => endpoint,
        };
        let connector = Connector {
            host: without_brackets(address.authority.host()).to_owned(),
            port: address.port,
            tls,
            dialer: Arc::new(Dialer::new(tcp_timeout)),
            observer,
        };
        Ok(Self { endpoint, connector })
    }

    /// Returns a channel with a connection of its own, which the first call makes.
    pub fn open(&self) -> Channel {
        let connector = self.connector.clone();
        let connect = service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move {
                let connected = connector.connect().await;
                connected
                    .map(TokioIo::new)
                    .inspect_err(|error| (connector.observer)(error))
            }
        });
        self.endpoint.connect_with_connector_lazy(connect)
    }
}

impl Connector {
    async fn connect(&self) -> io::Result<ObservedStream<TlsStream<TcpStream>>> {
        let addresses: Vec<_> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        let stream = self.dialer.connect(&addresses).await?;
        stream.set_nodelay(true)?;
        // The host goes into SNI only. The TLS configuration verifies the principal in the service's certificate instead.
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let handshake = self.tls.handshake().map_err(io::Error::other)?;
        let stream = TlsConnector::from(handshake.config.clone())
            .connect(name, stream)
            .await?;
        let trust = handshake.trust(stream.get_ref().1.peer_certificates());
        Ok(ObservedStream::new(stream, trust, self.observer.clone()))
    }
}

/// A connection whose read errors go to an observer. In TLS 1.3 a client learns that its certificate is refused only from
/// a read after the handshake (RFC 8446, section 4.4.2.4), so errors of connecting alone are not enough.
struct ObservedStream<S> {
    stream: S,
    distrust: Pin<Box<dyn Future<Output = ()> + Send>>,
    observer: ErrorObserver,
}

/// The CA of a server was removed while a connection to the server was open.
#[derive(Debug, thiserror::Error)]
#[error("the CA of the service's certificate was removed")]
struct CaRemoved;

impl<S> ObservedStream<S> {
    fn new(stream: S, trust: PeerTrust, observer: ErrorObserver) -> Self {
        Self {
            stream,
            distrust: Box::pin(trust.lost()),
            observer,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() && self.distrust.as_mut().poll(context).is_ready() {
            read = Poll::Ready(Err(io::Error::other(CaRemoved)));
        }
        if let Poll::Ready(Err(error)) = &read {
            (self.observer)(error);
        }
        read
    }
}

crate::delegate_async_write!(ObservedStream<S: [AsyncWrite + Unpin]>, |this| Pin::new(&mut this.get_mut().stream));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_service_has_a_host_and_a_port() {
        for text in ["127.0.0.1:7150", "[::1]:7150", "vault.internal:443"] {
            assert!(text.parse::<ServiceAddress>().is_ok(), "{text}");
        }
        for text in [
            "",
            "vault",
            "https://vault:443",
            "u@vault:443",
            "vault:443/x",
            "vault:99999",
        ] {
            assert!(text.parse::<ServiceAddress>().is_err(), "{text}");
        }
    }
}
