//! The caller of an RPC, which a client certificate or a token identifies.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use proto::Principal;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{ASN1Time, FromDer, X509Certificate},
};

use crate::{expiry, log_limit::LogLimit, telemetry::field};

/// The client that sent a request. Every request has a `Caller` among its extensions: the client of the connection, or for a
/// request with a token the client that the token identifies (`token_service`).
#[derive(Debug, Clone)]
pub struct Caller {
    /// Identity of the peer.
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

/// The identity of a client: the one in the client certificate of its connection, read once after the handshake, or the one
/// in the token of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// The client sent no certificate, and no token that is accepted.
    Anonymous,
    /// The client sent a verified certificate that does not tell which one principal it is.
    Unusable(UnusableCertificate),
    /// The client sent a verified certificate, or a verified token, that names a principal.
    Known {
        /// The principal.
        principal: Principal,
        /// Time at which the certificate or the token expires.
        not_after: SystemTime,
    },
}

/// The reason why a verified certificate does not tell which principal its client is. The texts are for the client, and name
/// nothing of the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableCertificate {
    /// The certificate has neither a URI nor a DNS name.
    #[error("the client certificate has no URI and no DNS name among its subject alternative names")]
    NoName,
    /// The certificate has one name, which is no principal.
    #[error(
        "the name in the client certificate is neither a SPIFFE ID nor a lower-case DNS name without a wildcard"
    )]
    NotAPrincipal,
    /// The certificate has several names, and none of them has a role.
    #[error("the client certificate has several names, and none of them has a role here")]
    NoneWithRole,
    /// The certificate has several names that have a role.
    #[error("the client certificate has several names that have a role here; exactly one may have one")]
    SeveralWithRole,
    /// The certificate is not valid X.509.
    #[error("the client certificate cannot be read")]
    Malformed,
}

impl Peer {
    /// Reads the end-entity certificate of `chain`, which TLS must have verified. A certificate with several names is unusable.
    pub fn of_verified(chain: Option<&[CertificateDer<'_>]>) -> Self {
        Self::of_client(chain, |_| false)
    }

    /// Reads the end-entity certificate of `chain`, which TLS must have verified. A certificate with several names counts when
    /// `has_role` is true for exactly one of them.
    pub fn of_client(chain: Option<&[CertificateDer<'_>]>, has_role: impl Fn(&Principal) -> bool) -> Self {
        match chain.and_then(<[_]>::first) {
            Some(leaf) => Self::read(leaf, has_role).unwrap_or_else(Self::Unusable),
            None => Self::Anonymous,
        }
    }

    fn read(leaf: &[u8], has_role: impl Fn(&Principal) -> bool) -> Result<Self, UnusableCertificate> {
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| UnusableCertificate::Malformed)?;
        Ok(Self::Known {
            principal: choose(&named_principals(&certificate), has_role)?,
            not_after: not_after(&certificate).ok_or(UnusableCertificate::Malformed)?,
        })
    }

    /// Returns the principal unless its certificate or token has expired at `now`: a connection may outlive both.
    pub fn principal_at(&self, now: SystemTime) -> Option<&Principal> {
        match self {
            Self::Known { principal, not_after } if now <= *not_after => Some(principal),
            Self::Known { .. } | Self::Anonymous | Self::Unusable(_) => None,
        }
    }

    /// Returns the time at which the identity expires; `None` for a peer without one.
    pub fn not_after(&self) -> Option<SystemTime> {
        match self {
            Self::Known { not_after, .. } => Some(*not_after),
            Self::Anonymous | Self::Unusable(_) => None,
        }
    }

    /// Returns the reason why this peer is no principal, or no longer one. The text names nothing of a certificate.
    pub fn why_unidentified(&self) -> String {
        match self {
            Self::Anonymous => "the client sent no certificate and no token".to_owned(),
            Self::Unusable(reason) => reason.to_string(),
            Self::Known { not_after, .. } => format!(
                "the client's certificate or token expired at {}",
                expiry::text(*not_after)
            ),
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
    choose(&named_principals(certificate), |_| false).ok()
}

/// Returns the names that may be the principal of a certificate: its URIs, or without a URI its DNS names. A name that is no
/// principal is `None`.
fn named_principals(certificate: &X509Certificate<'_>) -> Vec<Option<Principal>> {
    let (uris, names) = alternative_names(certificate);
    match uris.as_slice() {
        [] => names.into_iter().map(Principal::dns).collect(),
        uris => uris.iter().map(|uri| Principal::spiffe(uri)).collect(),
    }
}

/// Returns the one principal of a certificate with these names: the only name, or else the only name that has a role.
fn choose(
    named: &[Option<Principal>],
    has_role: impl Fn(&Principal) -> bool,
) -> Result<Principal, UnusableCertificate> {
    match named {
        [] => Err(UnusableCertificate::NoName),
        [only] => only.clone().ok_or(UnusableCertificate::NotAPrincipal),
        several => {
            let mut with_role = several.iter().flatten().filter(|name| has_role(name));
            match (with_role.next(), with_role.next()) {
                (Some(one), None) => Ok(one.clone()),
                (Some(_), Some(_)) => Err(UnusableCertificate::SeveralWithRole),
                (None, _) => Err(UnusableCertificate::NoneWithRole),
            }
        }
    }
}

/// Logs why the certificate of the client at `address` is of no use, with the names in it.
pub fn log_unusable(reason: UnusableCertificate, chain: Option<&[CertificateDer<'_>]>, address: SocketAddr) {
    static LIMIT: LogLimit = LogLimit::for_strangers();
    let Some(suppressed) = LIMIT.admit(Instant::now()) else {
        return;
    };
    let leaf = chain.and_then(<[_]>::first);
    let names = leaf
        .and_then(|leaf| X509Certificate::from_der(leaf).ok())
        .map(|(_, certificate)| names_of(&certificate))
        .unwrap_or_default();
    tracing::info!(peer = %address, ?names, %reason, { field::SUPPRESSED } = suppressed, "client certificate not usable");
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    /// Returns the choice among DNS names, of which `a` and `b` have a role.
    fn chosen(names: &[&str]) -> Result<String, UnusableCertificate> {
        let named: Vec<_> = names.iter().map(|name| Principal::dns(name)).collect();
        let has_role = |principal: &Principal| ["dns:a", "dns:b"].contains(&&*principal.to_string());
        choose(&named, has_role).map(|principal| principal.to_string())
    }

    #[test]
    fn of_several_names_the_only_one_with_a_role_is_the_principal() {
        assert_eq!(chosen(&["x", "a", "y"]), Ok("dns:a".to_owned()));
        assert_eq!(chosen(&["*.a", "a"]), Ok("dns:a".to_owned()));
        assert_eq!(chosen(&["x", "y"]), Err(UnusableCertificate::NoneWithRole));
        assert_eq!(
            chosen(&["a", "x", "b"]),
            Err(UnusableCertificate::SeveralWithRole)
        );
        assert_eq!(chosen(&["a", "a"]), Err(UnusableCertificate::SeveralWithRole));
    }

    #[test]
    fn an_only_name_is_the_principal_whether_or_not_it_has_a_role() {
        assert_eq!(chosen(&["a"]), Ok("dns:a".to_owned()));
        assert_eq!(chosen(&["x"]), Ok("dns:x".to_owned()));
        assert_eq!(chosen(&["*.a"]), Err(UnusableCertificate::NotAPrincipal));
        assert_eq!(chosen(&[]), Err(UnusableCertificate::NoName));
    }
}
