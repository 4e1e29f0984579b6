//! Settings and state of the connections to all upstreams.

use std::{pin::Pin, sync::Arc};

use chassis::tls::Reloading;
use proto::Refusal;
use rustls::sign::CertifiedKey;

use super::{ping::PingIntervals, trusted_roots::TrustedRoots};
use crate::{address::OwnListeners, keepalive::Keepalive, limits::UpstreamLimits};

/// Fetches the client certificate for one handshake with an upstream.
pub(crate) type ClientCertificateSource =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Arc<CertifiedKey>, Refusal>> + Send>> + Send + Sync>;

/// Settings and state that the connections to all upstreams share.
pub(crate) struct DialContext {
    /// The CAs of the system and of `--upstream-ca`.
    pub roots: Reloading<TrustedRoots>,
    pub own: OwnListeners,
    pub limits: UpstreamLimits,
    pub keepalive: Keepalive,
    pub ping_intervals: Arc<PingIntervals>,
}
