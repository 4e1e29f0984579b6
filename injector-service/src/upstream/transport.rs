//! The versions of HTTP between the injector and an upstream.

use crate::placeholder::PossibleVersions;

/// The version of HTTP that a request cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequiredVersion {
    Any,
    /// For upgrades. A server whose protocol is HTTP/2 gets no such request.
    Http1,
    /// For gRPC.
    Http2,
}

/// The versions of HTTP that one request may be sent over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Http1,
    Http2,
    /// The version that the server chooses by ALPN, or HTTP/2 where such a connection is open already.
    Negotiated,
}

impl Transport {
    pub(crate) fn over(self) -> PossibleVersions {
        match self {
            Self::Http1 => PossibleVersions::Http1Only,
            Self::Http2 | Self::Negotiated => PossibleVersions::Any,
        }
    }

    pub(super) fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Negotiated => &[b"h2", b"http/1.1"],
        }
    }
}
