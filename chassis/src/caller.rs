//! The caller of an RPC, as its client certificate identifies it.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use proto::Principal;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{ASN1Time, FromDer, X509Certificate},
};

/// The client of a connection. Every request has it among its extensions.
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

/// The identity in the client certificate of a connection, read once after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// The client sent no certificate, or one that names no principal.
    Anonymous,
    /// The client sent a verified certificate that names a principal.
    Known {
        /// The principal.
        principal: Principal,
        /// Time at which the certificate expires.
        not_after: SystemTime,
    },
}

impl Peer {
    /// Reads the end-entity certificate of `chain`, which TLS must have verified.
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

    /// Returns the principal unless its certificate has expired at `now`: a connection may outlive the certificate.
    pub fn principal_at(&self, now: SystemTime) -> Option<&Principal> {
        match self {
            Self::Known { principal, not_after } if now <= *not_after => Some(principal),
            Self::Known { .. } | Self::Anonymous => None,
        }
    }
}

pub(crate) fn not_before(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    time_of(certificate.validity().not_before)
}

pub(crate) fn not_after(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    time_of(certificate.validity().not_after)
}

/// Returns `None` for a time before 1970.
fn time_of(time: ASN1Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Returns the principal that a certificate names: its only URI, which must be a SPIFFE ID, or without a URI its only
/// DNS name.
pub(crate) fn principal_of(certificate: &X509Certificate<'_>) -> Option<Principal> {
    let (uris, names) = alternative_names(certificate);
    match (uris.as_slice(), names.as_slice()) {
        ([uri], _) => Principal::spiffe(uri),
        ([], [name]) => Principal::dns(name),
        _ => None,
    }
}

/// Returns all URIs and DNS names in a certificate, in the form of principals, for a message to an operator.
pub(crate) fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let (uris, names) = alternative_names(certificate);
    let uris = uris.into_iter().map(ToOwned::to_owned);
    uris.chain(names.into_iter().map(|name| format!("dns:{name}")))
        .collect()
}

/// Returns the hosts that a certificate names, as browsers write them in URLs: its DNS names and its IP addresses. A name with a
/// wildcard is no host.
pub(crate) fn hosts_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut hosts = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
            continue;
        };
        for name in &san.general_names {
            match name {
                GeneralName::DNSName(dns) if !dns.contains('*') => hosts.push(dns.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => hosts.extend(host_of_address(bytes)),
                _ => {}
            }
        }
    }
    hosts
}

fn host_of_address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(format!("[{}]", Ipv6Addr::from(v6)))
}

/// Returns the URIs and the DNS names in a certificate.
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
