//! Decides which connections are served, and with which limits.

use std::{net::SocketAddr, time::Duration};

use proto::Principal;

use super::{connection::ConnectionLimits, connection_slot::ConnectionSlot};
use crate::{
    authz::AuthzLayer,
    caller::Peer,
    connection_slots::{Eviction, Holder, Slots},
    jwt::Issuers,
};

/// Maximum number of concurrent connections of principals with a role.
const MAX_CONNECTIONS: usize = 10_000;
/// Limits of one connection of a principal with a role.
pub(super) const WITH_ROLE: ConnectionLimits = ConnectionLimits {
    streams: 1_000,
    header_list: 32 * 1024,
    windows: None,
    age: None,
};

/// Maximum number of concurrent connections of clients that have no certificate, or no role. Such clients may only
/// check the service's health, so a few short connections are enough. All these connections together take 33 MiB when
/// every stream is open and has 4 KiB of headers.
const MAX_WITHOUT_ROLE: usize = 256;
/// Limits of one connection of a client without a role.
pub(super) const WITHOUT_ROLE: ConnectionLimits = ConnectionLimits {
    streams: 8,
    header_list: 8 * 1024,
    windows: Some((16 * 1024, 64 * 1024)),
    age: Some(Duration::from_secs(30)),
};

/// Limits of one connection of a client without a role while the service accepts tokens, which have up to 16 KiB. Once a token
/// gives the client a role, only `age` no longer applies, because HTTP/2 announces the other limits when the connection begins.
/// All these connections together take 100 MiB when every stream is open and has the largest headers.
pub(super) const WITHOUT_ROLE_YET: ConnectionLimits = ConnectionLimits {
    streams: 16,
    header_list: 24 * 1024,
    windows: Some((64 * 1024, 128 * 1024)),
    age: WITHOUT_ROLE.age,
};

/// Decides which connections are served once their clients are known.
#[derive(Clone)]
pub(super) struct Admission {
    pub(super) authz: AuthzLayer,
    pub(super) issuers: Issuers,
    with_role: Slots,
    without_role: Slots,
}

impl Admission {
    pub(super) fn new(authz: AuthzLayer, issuers: Issuers) -> Self {
        Self {
            authz,
            issuers,
            with_role: Slots::new("client with a role", MAX_CONNECTIONS, Eviction::FromLargerHolder),
            without_role: Slots::new("client without a role", MAX_WITHOUT_ROLE, Eviction::OldestIdle),
        }
    }

    /// Returns a slot for a connection of `peer` and the connection's limits; `None` when the connection is refused.
    pub(super) fn admit(
        &self,
        peer: &Peer,
        address: SocketAddr,
    ) -> Option<(ConnectionSlot, &'static ConnectionLimits)> {
        if let Some(principal) = self.authz.with_role(peer) {
            let slot = self.with_role.try_take(&Holder::Principal(principal.clone()));
            if slot.is_none() {
                log_share(principal);
            }
            return Some((ConnectionSlot::new(slot?, true), &WITH_ROLE));
        }
        let slot = self.without_role.try_take(&Holder::network(address))?;
        // A newcomer can evict this connection even while a call is running.
        slot.started();
        let limits = match self.issuers.is_empty() {
            true => &WITHOUT_ROLE,
            false => &WITHOUT_ROLE_YET,
        };
        Some((ConnectionSlot::new(slot, false), limits))
    }

    /// Counts the connection as one of `peer`, the client that a token on the connection identified, if `peer` has a role.
    /// Returns false when the principal has its share of all connections.
    pub(super) fn identify(&self, slot: &ConnectionSlot, peer: &Peer) -> bool {
        let Some(principal) = self.authz.with_role(peer) else {
            return true;
        };
        let is_counted = slot.move_to(&self.with_role, principal);
        if !is_counted {
            log_share(principal);
        }
        is_counted
    }
}

fn log_share(principal: &Principal) {
    tracing::warn!(%principal, "connection refused: the principal has its share of all connections");
}
