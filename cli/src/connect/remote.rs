//! A client of one service.

use std::{io, sync::Arc, time::Duration};

use chassis::{caller::Peer, dial::without_brackets, service_channel::ServiceChannel};
use http::uri::Authority;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{io::AsyncReadExt as _, net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Response, Status, Streaming};

use crate::failure::{self, Failure, FailureKind};

/// A client of one service.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The service, with the context that names it.
    pub(super) name: String,
    pub(super) address: String,
    pub(super) tls: Arc<ClientConfig>,
    /// Connects on first use.
    pub channel: ServiceChannel,
    pub(super) timeout: Duration,
}

impl Remote {
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for an answer, at most for the timeout of the connection.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failure_of(&status).await),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Waits for the next message of a stream, at most for the timeout of the connection.
    pub async fn next_message<T>(&self, stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
        match time::timeout(self.timeout, stream.message()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(status)) => Err(self.failure_of(&status).await),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Returns the failure for the status of a call.
    pub async fn failure_of(&self, status: &Status) -> Failure {
        let Self { name, address, .. } = self;
        let Some(cause) = failure::transport_cause(status) else {
            return Failure::of_status(name, status);
        };
        // In TLS 1.3 the client's handshake is complete before the server has checked the client's certificate, so the
        // call fails only with a closed connection. A second handshake finds the alert that explains the refusal.
        let alert = match time::timeout(self.timeout, self.handshake_error()).await {
            Ok(error) => error.map(|error| error.to_string()),
            Err(_) => None,
        };
        Failure::unreachable(name, address, &alert.unwrap_or(cause))
    }

    /// Connects again, and returns the error of the handshake or the alert that follows the handshake.
    async fn handshake_error(&self) -> Option<io::Error> {
        match self.handshake().await? {
            Ok(mut stream) => stream
                .read_u8()
                .await
                .err()
                .filter(|error| error.kind() == io::ErrorKind::InvalidData),
            Err(error) => Some(error),
        }
    }

    /// Connects again, and returns the identity in the service's certificate, with the time at which the certificate expires.
    pub(crate) async fn peer(&self) -> Option<Peer> {
        let connected = time::timeout(self.timeout, self.handshake()).await;
        let stream = connected.ok()??.ok()?;
        let (_, tls) = stream.get_ref();
        Some(Peer::of_verified(tls.peer_certificates()))
    }

    /// Opens a connection of its own. Returns `None` when the address does not answer.
    async fn handshake(&self) -> Option<io::Result<TlsStream<TcpStream>>> {
        let authority: Authority = self.address.parse().ok()?;
        let host = without_brackets(authority.host()).to_owned();
        let tcp = TcpStream::connect((host.as_str(), authority.port_u16()?))
            .await
            .ok()?;
        let name = ServerName::try_from(host).ok()?;
        Some(TlsConnector::from(self.tls.clone()).connect(name, tcp).await)
    }

    fn timed_out(&self) -> Failure {
        let Self {
            name,
            address,
            timeout,
            ..
        } = self;
        let seconds = timeout.as_secs_f64();
        let message = format!("{name} on {address} did not answer within {seconds} s");
        Failure::new(FailureKind::Unavailable, message)
            .hint("`aerostack status` asks each service; --timeout waits longer")
    }
}
