//! The certificate and the CAs behind the configuration of a handshake.

use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::CertificateDer;

use super::{
    authorities::Authorities,
    error::TlsError,
    identity::Identity,
    peer_trust::{PeerRole, PeerTrust},
    reloading::Reloading,
};

/// The certificate that one side presents and the CAs that it trusts, and the configuration `C` that is made of them.
#[derive(Debug)]
pub(super) struct TlsSources<C> {
    /// `None` for a client that presents no certificate.
    identity: Option<Reloading<Identity>>,
    /// `None` for a server that asks for no certificate.
    authorities: Option<Reloading<Authorities>>,
    /// The configuration of the latest handshake, which serves until its parts are replaced.
    latest: Mutex<Option<(TlsParts, Arc<C>)>>,
}

/// The contents of the sources at the beginning of a handshake.
#[derive(Debug, Clone)]
pub(super) struct TlsParts {
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) authorities: Option<Arc<Authorities>>,
}

/// The configuration of one handshake, and the CAs that verify the peer.
pub(crate) struct Handshake<C> {
    pub(crate) config: Arc<C>,
    authorities: Option<Reloading<Authorities>>,
    peer: PeerRole,
}

impl<C> Handshake<C> {
    /// Returns a handshake whose configuration no source replaces.
    pub(super) fn fixed(config: Arc<C>, peer: PeerRole) -> Self {
        Self {
            config,
            authorities: None,
            peer,
        }
    }

    /// Returns the trust in the peer, given the chain that it presented in this handshake.
    pub(crate) fn trust(self, chain: Option<&[CertificateDer<'static>]>) -> PeerTrust {
        match self.authorities {
            Some(authorities) => PeerTrust::new(authorities, chain, self.peer),
            None => PeerTrust::without_authorities(),
        }
    }
}

impl<C> TlsSources<C> {
    pub(super) fn new(
        identity: Option<Reloading<Identity>>,
        authorities: Option<Reloading<Authorities>>,
    ) -> Self {
        Self {
            identity,
            authorities,
            latest: Mutex::default(),
        }
    }

    /// Returns the handshake with a `peer` that begins now. `make` makes its configuration when a part was replaced since the
    /// latest handshake.
    pub(super) fn handshake(
        &self,
        peer: PeerRole,
        make: impl FnOnce(&TlsParts) -> Result<C, TlsError>,
    ) -> Result<Handshake<C>, TlsError> {
        let mut authorities = self.authorities.clone();
        let parts = TlsParts {
            identity: seen(self.identity.clone().as_mut())?,
            authorities: seen(authorities.as_mut())?,
        };
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let config = match &*latest {
            Some((of_latest, config)) if of_latest.is_same(&parts) => config.clone(),
            Some(_) | None => {
                let config = Arc::new(make(&parts)?);
                *latest = Some((parts, config.clone()));
                config
            }
        };
        Ok(Handshake {
            config,
            authorities,
            peer,
        })
    }

    /// Returns both sources, each of which has seen the contents in use.
    pub(super) fn subscribe(&self) -> (Option<Reloading<Identity>>, Option<Reloading<Authorities>>) {
        let (mut identity, mut authorities) = (self.identity.clone(), self.authorities.clone());
        if let Some(identity) = &mut identity {
            identity.see();
        }
        if let Some(authorities) = &mut authorities {
            authorities.see();
        }
        (identity, authorities)
    }
}

fn seen<T>(source: Option<&mut Reloading<T>>) -> Result<Option<Arc<T>>, TlsError> {
    match source {
        Some(source) => source.see().map(Some).ok_or(TlsError::NotReceived),
        None => Ok(None),
    }
}

impl TlsParts {
    fn is_same(&self, other: &Self) -> bool {
        is_same(&self.identity, &other.identity) && is_same(&self.authorities, &other.authorities)
    }
}

fn is_same<T>(one: &Option<Arc<T>>, other: &Option<Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
