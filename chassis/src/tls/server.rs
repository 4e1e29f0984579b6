//! The server's side of TLS.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    authorities::Authorities,
    client_verifier::{CertificateNeed, ClientVerifier},
    error::TlsError,
    identity::Identity,
    peer_trust::PeerRole,
    provider,
    reloading::Reloading,
    sources::{Handshake, TlsParts, TlsSources},
};

/// TLS of a listener. Each handshake uses the certificate and the CAs that are in use at its beginning. Clones share the
/// configuration.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerSetup>);

struct ServerSetup {
    sources: TlsSources<ServerConfig>,
    need: CertificateNeed,
    protocols: &'static [&'static [u8]],
}

impl ServerTls {
    /// Returns the TLS of a gRPC listener. Clients may come without a certificate, because health checks accept anyone, but a
    /// certificate that a client presents must verify. Without `clients` no client is asked for a certificate.
    pub fn grpc(identity: Reloading<Identity>, clients: Option<Reloading<Authorities>>) -> Self {
        Self(Arc::new(ServerSetup {
            sources: TlsSources::new(Some(identity), clients),
            need: CertificateNeed::Optional,
            protocols: &[b"h2"],
        }))
    }

    /// Returns the TLS of a listener for browsers: HTTP/1.1, and every client must present a certificate that verifies.
    pub fn browser(identity: Reloading<Identity>, clients: Reloading<Authorities>) -> Self {
        Self(Arc::new(ServerSetup {
            sources: TlsSources::new(Some(identity), Some(clients)),
            need: CertificateNeed::Required,
            protocols: &[b"http/1.1"],
        }))
    }

    /// Returns the TLS of the data plane: HTTP/2 and HTTP/1.1. Clients are asked for a certificate when `clients` is given, and
    /// may come without one.
    pub fn http(identity: Reloading<Identity>, clients: Option<Reloading<Authorities>>) -> Self {
        Self(Arc::new(ServerSetup {
            sources: TlsSources::new(Some(identity), clients),
            need: CertificateNeed::Optional,
            protocols: &[b"h2", b"http/1.1"],
        }))
    }

    /// Returns the configuration of a handshake that begins now.
    pub fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        Ok(self.handshake()?.config)
    }

    pub(crate) fn handshake(&self) -> Result<Handshake<ServerConfig>, TlsError> {
        let ServerSetup {
            sources,
            need,
            protocols,
        } = &*self.0;
        sources.handshake(PeerRole::Client, |parts| {
            let TlsParts {
                identity,
                authorities,
            } = parts;
            let identity = identity.as_ref().ok_or(TlsError::NotReceived)?;
            let verifier = match authorities {
                None => WebPkiClientVerifier::no_client_auth(),
                Some(clients) => Arc::new(ClientVerifier::new(clients.clone(), *need)?),
            };
            server(identity, verifier, protocols)
        })
    }
}

fn server(
    identity: &Identity,
    verifier: Arc<dyn ClientCertVerifier>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| identity.error(error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.resolver());
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
