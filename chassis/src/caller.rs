//! Who calls: the principal in a verified certificate.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use proto::Principal;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

/// The other end of a connection. Every request has one among its extensions.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Identity of the peer, from its client certificate.
    pub peer: Arc<Peer>,
    /// Network address of the peer.
    pub address: SocketAddr,
}

impl Caller {
    /// Returns the peer's address, with an IPv4-mapped IPv6 address converted to IPv4.
    pub fn canonical_address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip().to_canonical(), self.address.port())
    }
}

/// What a connection's certificate says of its peer; read once, when the connection is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// There was no certificate, or none that names a principal.
    Anonymous,
    /// A verified certificate names a principal.
    Known {
        /// Who it is.
        principal: Principal,
        /// When the certificate expires.
        not_after: SystemTime,
    },
}

impl Peer {
    /// Reads the end-entity certificate of a chain that TLS has already verified.
    pub fn of_verified(chain: Option<&[CertificateDer<'_>]>) -> Self {
        chain
            .and_then(<[_]>::first)
            .and_then(|leaf| Self::read(leaf))
            .unwrap_or(Self::Anonymous)
    }

    fn read(leaf: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        Some(Self::Known {
            principal: principal_of(&certificate)?,
            not_after: not_after(&certificate)?,
        })
    }

    /// The principal, unless its certificate has expired since.
    pub fn principal_at(&self, now: SystemTime) -> Option<&Principal> {
        match self {
            Self::Known { principal, not_after } if now <= *not_after => Some(principal),
            Self::Known { .. } | Self::Anonymous => None,
        }
    }
}

/// Time at which a certificate expires.
pub(crate) fn not_after(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The principal that a certificate names: its only URI, which must be a SPIFFE ID; without a URI its only DNS name.
pub(crate) fn principal_of(certificate: &X509Certificate<'_>) -> Option<Principal> {
    let (uris, names) = alternative_names(certificate);
    match (uris.as_slice(), names.as_slice()) {
        ([uri], _) => Principal::spiffe(uri),
        ([], [name]) => Principal::dns(name),
        _ => None,
    }
}

/// The URIs and DNS names in a certificate, as principals are written, for a message to an operator.
pub(crate) fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let (uris, names) = alternative_names(certificate);
    let uris = uris.into_iter().map(ToOwned::to_owned);
    uris.chain(names.into_iter().map(|name| format!("dns:{name}")))
        .collect()
}

/// The URIs and the DNS names in a certificate.
fn alternative_names<'c>(certificate: &'c X509Certificate<'_>) -> (Vec<&'c str>, Vec<&'c str>) {
    let (mut uris, mut names) = (Vec::new(), Vec::new());
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
            continue;
        };
        for name in &san.general_names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::DNSName(dns) => names.push(*dns),
                _ => {}
            }
        }
    }
    (uris, names)
}
