//! TLS configurations. Only TLS 1.3 (RFC 8446) is used, without session resumption: a resumed session would take over a
//! certificate chain that is not verified again. Servers of others, such as upstreams and issuers of tokens, are not reached
//! with these configurations, and may speak TLS 1.2.
//!
//! [`Identity`] and [`Authorities`] are read from files. A service reads its files again when they change ([`Reloader`]),
//! and a [`ServerTls`] or [`ClientTls`] makes each handshake with the contents at that time.

mod authorities;
mod client;
mod client_verifier;
mod error;
mod exact_peer;
mod identity;
mod peer_trust;
mod reloader;
mod reloading;
mod server;
mod sources;
mod spiffe;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

pub use authorities::Authorities;
pub use client::{ClientTls, ClientTlsChanges, grpc_client, grpc_client_by_host};
pub use error::TlsError;
pub use exact_peer::WrongPeer;
pub use identity::Identity;
pub use peer_trust::PeerTrust;
pub use reloader::Reloader;
pub(crate) use reloader::{ContentRules, WatchedFiles};
pub use reloading::{Reloading, ReloadingSender};
pub use server::ServerTls;

/// Organization in the subject of every development CA. Services refuse such a CA on an address that other machines
/// reach.
pub const DEVELOPMENT_ORGANIZATION: &str = "Aerostack development, not for production";

/// Returns the crypto provider of all TLS configurations of this project.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests;
