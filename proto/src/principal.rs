//! Identities of clients and services.

use std::{fmt, sync::Arc};

/// An identity from a client or server certificate. Two principals are equal when their texts are equal byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A SPIFFE ID: the only URI among the subject alternative names of the certificate.
    Spiffe(Arc<str>),
    /// The only DNS name among the subject alternative names of a certificate without a URI.
    Dns(Arc<str>),
}

/// The text is not a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// The text begins with neither `spiffe:` nor `dns:`.
    #[error("a principal is spiffe://TRUST-DOMAIN/PATH or dns:NAME")]
    Kind,
    /// The text after `spiffe:` does not make a SPIFFE ID.
    #[error(
        "a SPIFFE ID is spiffe://, a lower-case trust domain and a path of segments of A-Z, a-z, 0-9, '.', '-' and '_'"
    )]
    Spiffe,
    /// The text after `dns:` is not a DNS name.
    #[error("a DNS principal is dns: and a lower-case DNS name, without a wildcard or a final dot")]
    Dns,
}

impl Principal {
    /// Reads a principal as it is written in settings. Does not normalize.
    pub fn parse(text: &str) -> Result<Self, PrincipalError> {
        match text.split_once(':') {
            Some(("spiffe", _)) => Self::spiffe(text).ok_or(PrincipalError::Spiffe),
            Some(("dns", name)) => Self::dns(name).ok_or(PrincipalError::Dns),
            _ => Err(PrincipalError::Kind),
        }
    }

    /// Reads a SPIFFE ID (SPIFFE-ID standard, sections 2.1 to 2.3).
    pub fn spiffe(id: &str) -> Option<Self> {
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

    /// Reads a lower-case DNS name without a wildcard or a final dot.
    pub fn dns(name: &str) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_written_as_it_was_read() {
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
