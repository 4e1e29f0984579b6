//! Trust in the peer of an open connection, which ends when its CA is removed.

use rustls_pki_types::CertificateDer;

use super::{files::Authorities, reloading::Reloading};

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
            let vouched = authorities.current().is_some_and(|current| match role {
                PeerRole::Client => current.vouch_for_client(&chain),
                PeerRole::Server => current.vouch_for_server(&chain),
            });
            if !vouched {
                return;
            }
        }
    }
}
