//! Trust in the peer of an open connection, which ends when its CA is removed.

use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier as _;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    authorities::Authorities,
    client_verifier::{CertificateNeed, ClientVerifier},
    reloading::Reloading,
};

/// The trust in the peer of one connection. The trust is lost when the CAs in use no longer verify the peer's certificate chain.
#[derive(Debug)]
pub struct PeerTrust(Option<VerifiedPeer>);

#[derive(Debug)]
struct VerifiedPeer {
    /// Has seen the CAs by which `chain` was verified.
    authorities: Reloading<Authorities>,
    chain: Vec<CertificateDer<'static>>,
    role: PeerRole,
}

/// The role of the peer in the handshake.
#[derive(Debug, Clone, Copy)]
pub(super) enum PeerRole {
    Client,
    Server,
}

impl PeerTrust {
    /// Returns the trust in a peer that no CA has verified, because the peer presented no certificate or was not asked for one. Such a
    /// trust is never lost.
    pub fn without_authorities() -> Self {
        Self(None)
    }

    pub(super) fn new(
        authorities: Reloading<Authorities>,
        chain: Option<&[CertificateDer<'static>]>,
        role: PeerRole,
    ) -> Self {
        Self(chain.map(|chain| VerifiedPeer {
            authorities,
            chain: chain.to_vec(),
            role,
        }))
    }

    /// Completes when the CAs were replaced by others that do not verify the peer's certificate chain.
    pub async fn lost(self) {
        let Some(VerifiedPeer {
            mut authorities,
            chain,
            role,
        }) = self.0
        else {
            return std::future::pending().await;
        };
        loop {
            authorities.changed().await;
            let current = authorities.current();
            if !current.is_some_and(|current| verifies(&current, &chain, role)) {
                return;
            }
        }
    }
}

/// Returns true when one of the CAs verifies the certificate chain of a peer. The name of a server is not compared.
fn verifies(authorities: &Arc<Authorities>, chain: &[CertificateDer<'_>], role: PeerRole) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return false;
    };
    let now = UnixTime::now();
    match role {
        PeerRole::Client => ClientVerifier::new(authorities.clone(), CertificateNeed::Required)
            .is_ok_and(|verifier| verifier.verify_client_cert(leaf, intermediates, now).is_ok()),
        PeerRole::Server => authorities.verify_server(leaf, intermediates, now).is_ok(),
    }
}
