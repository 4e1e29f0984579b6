//! The client's side of TLS.

use std::sync::Arc;

use rustls::{
    ClientConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
};

use super::{
    authorities::Authorities,
    error::TlsError,
    exact_peer::ExactPeer,
    identity::Identity,
    peer_trust::PeerRole,
    provider,
    reloading::Reloading,
    sources::{Handshake, TlsParts, TlsSources},
};
use proto::Principal;

/// TLS of a client. Each handshake uses the certificate and the CAs that are in use at its beginning. Clones share the
/// configuration.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientSetup>);

enum ClientSetup {
    Fixed(Arc<ClientConfig>),
    Reloading {
        sources: TlsSources<ClientConfig>,
        peer: Principal,
    },
}

impl ClientTls {
    /// Returns the TLS of a client that presents `identity`, or no certificate, and accepts only a server whose certificate
    /// names `peer`.
    pub fn grpc(
        identity: Option<Reloading<Identity>>,
        servers: Reloading<Authorities>,
        peer: Principal,
    ) -> Self {
        Self(Arc::new(ClientSetup::Reloading {
            sources: TlsSources::new(identity, Some(servers)),
            peer,
        }))
    }

    /// Returns the TLS of a client whose configuration does not change.
    pub fn fixed(config: Arc<ClientConfig>) -> Self {
        Self(Arc::new(ClientSetup::Fixed(config)))
    }

    /// Returns the configuration of a handshake that begins now.
    pub fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        Ok(self.handshake()?.config)
    }

    pub(crate) fn handshake(&self) -> Result<Handshake<ClientConfig>, TlsError> {
        match &*self.0 {
            ClientSetup::Fixed(config) => Ok(Handshake::fixed(config.clone(), PeerRole::Server)),
            ClientSetup::Reloading { sources, peer } => sources.handshake(PeerRole::Server, |parts| {
                let TlsParts {
                    identity,
                    authorities,
                } = parts;
                let servers = authorities.as_ref().ok_or(TlsError::NotReceived)?;
                client(
                    identity.as_deref(),
                    servers,
                    exact_peer(servers.clone(), peer.clone()),
                )
            }),
        }
    }

    /// Returns a subscription to the certificate and the CAs, which has seen those in use.
    pub fn changes(&self) -> ClientTlsChanges {
        let (identity, servers) = match &*self.0 {
            ClientSetup::Fixed(_) => (None, None),
            ClientSetup::Reloading { sources, peer: _ } => sources.subscribe(),
        };
        ClientTlsChanges { identity, servers }
    }
}

/// Tells when the certificate of a client or the CAs of its servers were replaced, so that an open connection is no longer
/// what a new one would be.
#[derive(Debug)]
pub struct ClientTlsChanges {
    identity: Option<Reloading<Identity>>,
    servers: Option<Reloading<Authorities>>,
}

impl ClientTlsChanges {
    /// Completes at the next change.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = change_of(&mut self.identity) => {}
            () = change_of(&mut self.servers) => {}
        }
    }
}

async fn change_of<T>(source: &mut Option<Reloading<T>>) {
    match source {
        Some(source) => source.changed().await,
        None => std::future::pending().await,
    }
}

/// Returns the configuration of [`ClientTls::grpc`] for files that do not change.
pub fn grpc_client(
    identity: Option<Identity>,
    servers: &Authorities,
    peer: Principal,
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = exact_peer(Arc::new(servers.clone()), peer);
    client(identity.as_ref(), servers, verifier).map(Arc::new)
}

/// Returns the configuration of a client that presents `identity`, if it has one, and accepts every server whose certificate
/// names the host that is dialled.
pub fn grpc_client_by_host(
    identity: Option<Identity>,
    servers: &Authorities,
) -> Result<Arc<ClientConfig>, TlsError> {
    client(identity.as_ref(), servers, host_verifier(servers)?).map(Arc::new)
}

fn exact_peer(authorities: Arc<Authorities>, peer: Principal) -> Arc<ExactPeer> {
    Arc::new(ExactPeer {
        authorities,
        algorithms: provider().signature_verification_algorithms,
        peer,
    })
}

fn host_verifier(servers: &Authorities) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    WebPkiServerVerifier::builder_with_provider(servers.all_roots(), provider())
        .build()
        .map_err(|error| servers.error(error))
}

fn client(
    identity: Option<&Identity>,
    servers: &Authorities,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| servers.error(error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
