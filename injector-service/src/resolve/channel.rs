//! The connection to the vault: TLS 1.3, both sides by certificate.

use std::{io, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use proto::serve::keepalive::TcpTimeout;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::condition::{Fault, Noting};
use crate::dial::Dialer;

/// The host and port of the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultAddress {
    authority: http::uri::Authority,
    port: u16,
}

/// The text is not an address of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the vault's address is HOST:PORT")]
pub struct VaultAddressError;

impl std::str::FromStr for VaultAddress {
    type Err = VaultAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let authority: http::uri::Authority = text.parse().map_err(|_| VaultAddressError)?;
        let port = authority.port_u16().ok_or(VaultAddressError)?;
        if authority.as_str().contains('@') {
            Err(VaultAddressError)
        } else {
            Ok(Self { authority, port })
        }
    }
}

impl std::fmt::Display for VaultAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.authority)
    }
}

/// A channel that connects when it is first used, and again whenever it has to.
pub fn channel(vault: &VaultAddress, tls: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    channel_noting(vault, tls, TcpTimeout::default(), Fault::default())
}

/// The same, which notes in `fault` why it does not connect, and why its connection breaks.
///
/// A vault that does not answer a PING within 5 seconds is left after 15 seconds, so that calls go to another one soon. That
/// costs no call: a decrypt that got no answer is asked for again.
pub(crate) fn channel_noting(
    vault: &VaultAddress,
    tls: Arc<ClientConfig>,
    tcp_timeout: TcpTimeout,
    fault: Fault,
) -> Result<Channel, tonic::transport::Error> {
    let host = vault
        .authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = vault.port;
    let dialer = Arc::new(Dialer::new(tcp_timeout));
    let connect = service_fn(move |_: Uri| {
        let (host, tls, dialer, fault) = (host.clone(), tls.clone(), dialer.clone(), fault.clone());
        async move {
            let dialled = dial(&dialer, &host, port, tls).await;
            let stream = dialled.inspect_err(|error| fault.note(error))?;
            Ok::<_, io::Error>(TokioIo::new(Noting { stream, fault }))
        }
    });
    // tonic knows nothing of this TLS, so the scheme that it dials is http; requests name the real one.
    let origin = Uri::builder()
        .scheme("https")
        .authority(vault.authority.clone())
        .path_and_query("/")
        .build();
    let endpoint = Endpoint::from_shared(format!("http://{}", vault.authority))?
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
    Ok(endpoint.connect_with_connector_lazy(connect))
}

async fn dial(
    dialer: &Dialer,
    host: &str,
    port: u16,
    tls: Arc<ClientConfig>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    let stream = dialer.connect(&addresses).await?;
    stream.set_nodelay(true)?;
    // Goes into SNI alone: who the vault is, its certificate's principal says.
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    TlsConnector::from(tls).connect(name, stream).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_has_a_host_and_a_port() {
        for text in ["127.0.0.1:7150", "[::1]:7150", "vault.internal:443"] {
            assert!(text.parse::<VaultAddress>().is_ok(), "{text}");
        }
        for text in [
            "",
            "vault",
            "https://vault:443",
            "u@vault:443",
            "vault:443/x",
            "vault:99999",
        ] {
            assert!(text.parse::<VaultAddress>().is_err(), "{text}");
        }
    }
}
