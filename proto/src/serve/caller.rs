//! Who calls: the principal in a verified certificate.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

/// An authenticated identity, compared as a whole and byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A SPIFFE ID, the only URI among a certificate's subject alternative names.
    Spiffe(Arc<str>),
    /// The only DNS name among them, when there is no URI.
    Dns(Arc<str>),
}

/// Why a text is not a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// Neither of the kinds there are.
    #[error("a principal is spiffe://TRUST-DOMAIN/PATH or dns:NAME")]
    Kind,
    /// Not a SPIFFE ID.
    #[error(
        "a SPIFFE ID is spiffe://, a lower-case trust domain and a path of segments of A-Z, a-z, 0-9, '.', '-' and '_'"
    )]
    Spiffe,
    /// Not a DNS name.
    #[error("a DNS principal is dns: and a lower-case DNS name, without a wildcard or a final dot")]
    Dns,
}

impl Principal {
    /// Reads a principal as settings write it. Nothing is normalized.
    pub fn parse(text: &str) -> Result<Self, PrincipalError> {
        match text.split_once(':') {
            Some(("spiffe", _)) => Self::spiffe(text).ok_or(PrincipalError::Spiffe),
            Some(("dns", name)) => Self::dns(name).ok_or(PrincipalError::Dns),
            _ => Err(PrincipalError::Kind),
        }
    }

    /// SPIFFE ID, sections 2.1 to 2.3.
    fn spiffe(id: &str) -> Option<Self> {
        let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
        let domain_ok = (1..=255).contains(&domain.len())
            && domain
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        let segment_ok = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        (id.len() <= 2048 && domain_ok && path.split('/').all(segment_ok)).then(|| Self::Spiffe(id.into()))
    }

    fn dns(name: &str) -> Option<Self> {
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        (name.len() <= 253 && name.split('.').all(label_ok)).then(|| Self::Dns(name.into()))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => f.write_str(id),
            Self::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_read_and_written_alike() {
        for text in [
            "spiffe://prod.example/ns/tools/sa/injector",
            "spiffe://td/a",
            "dns:injector.internal",
            "dns:a",
        ] {
            assert_eq!(Principal::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn near_misses_are_not_principals() {
        for text in [
            "",
            "injector",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td/a/",
            "spiffe://td//a",
            "spiffe://td/./a",
            "spiffe://td/../a",
            "spiffe://TD/a",
            "SPIFFE://td/a",
            "spiffe://td/a%62",
            "spiffe://td/a?x",
            "spiffe://td/a#x",
            "spiffe://u@td/a",
            "spiffe://td:1/a",
            "spiffe:///a",
            "dns:",
            "dns:A",
            "dns:*.a",
            "dns:a.",
            "dns:-a",
            "token:x",
            "https://td/a",
        ] {
            assert!(Principal::parse(text).is_err(), "{text:?}");
        }
    }
}
