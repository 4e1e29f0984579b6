//! Trust in the peer of an open connection, which ends when its CA is removed.

use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier as _;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    authorities::Authorities,
    client_verifier::{CertificateNeed, ClientVerifier},
    reloading::Reloading,
};

/// Follows whether the CAs in use still vouch for the peer of one connection.
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
    /// Returns the trust in a peer that no CA vouched for, because it presented no certificate or none was asked for. Such a
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

    /// Completes when the CAs were replaced by others that do not vouch for the peer.
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
            if !current.is_some_and(|current| vouch(&current, &chain, role)) {
                return;
            }
        }
    }
}

/// Returns true when one of the CAs vouches for the chain of a peer. The name of a server is not compared.
fn vouch(authorities: &Arc<Authorities>, chain: &[CertificateDer<'_>], role: PeerRole) -> bool {
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
