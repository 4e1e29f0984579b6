//! Identities of clients and services.

use std::{fmt, sync::Arc};

use crate::label::is_label;

/// Longest issuer and longest subject of a JSON Web Token that make a principal, in bytes.
const MAX_JWT_NAME: usize = 1024;

/// An identity of a client or a service: from its certificate, from a JSON Web Token, or from a static token. Two principals
/// are equal when their texts are equal byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A SPIFFE ID: the only URI among the subject alternative names of the certificate.
    Spiffe(Arc<str>),
    /// The only DNS name among the subject alternative names of a certificate without a URI.
    Dns(Arc<str>),
    /// The issuer and the subject of a JSON Web Token: `ISSUER#SUBJECT`, where the issuer has no `#`.
    Jwt(Arc<str>),
    /// The id of a static token of the data plane, which is a DNS label.
    Token(Arc<str>),
}

/// The text is not a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// The text begins with none of the kinds.
    #[error("a principal is spiffe://TRUST-DOMAIN/PATH, dns:NAME, jwt:ISSUER#SUBJECT or token:ID")]
    Kind,
    /// The text after `spiffe:` does not make a SPIFFE ID.
    #[error(
        "a SPIFFE ID is spiffe://, a lower-case trust domain and a path of segments of A-Z, a-z, 0-9, '.', '-' and '_'"
    )]
    Spiffe,
    /// The text after `dns:` is not a DNS name.
    #[error("a DNS principal is dns: and a lower-case DNS name, without a wildcard or a final dot")]
    Dns,
    /// The text after `jwt:` is not an issuer and a subject.
    #[error(
        "a principal of a JSON Web Token is jwt:ISSUER#SUBJECT, both in ASCII without spaces and not longer than 1024 bytes"
    )]
    Jwt,
    /// The text after `token:` is not a DNS label.
    #[error("a principal of a static token is token:ID, where ID has 1 to 63 of a-z, 0-9 and '-'")]
    Token,
}

impl Principal {
    /// Reads a principal as it is written in settings. Does not normalize.
    pub fn parse(text: &str) -> Result<Self, PrincipalError> {
        match text.split_once(':') {
            Some(("spiffe", _)) => Self::spiffe(text).ok_or(PrincipalError::Spiffe),
            Some(("dns", name)) => Self::dns(name).ok_or(PrincipalError::Dns),
            Some(("jwt", both)) => both
                .split_once('#')
                .and_then(|(issuer, subject)| Self::jwt(issuer, subject))
                .ok_or(PrincipalError::Jwt),
            Some(("token", id)) => Self::token(id).ok_or(PrincipalError::Token),
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
        (name.len() <= 253 && name.split('.').all(is_label)).then(|| Self::Dns(name.into()))
    }

    /// Makes the principal of a JSON Web Token from its claims `iss` and `sub`. Both have only visible ASCII characters, so
    /// that they cannot break a line of a log, and the issuer has no `#`, so that two pairs never have the same text.
    pub fn jwt(issuer: &str, subject: &str) -> Option<Self> {
        let is_name = |text: &str| {
            (1..=MAX_JWT_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        (is_name(issuer) && is_name(subject) && !issuer.contains('#'))
            .then(|| Self::Jwt(format!("{issuer}#{subject}").into()))
    }

    /// Makes the principal of the static token with this id.
    pub fn token(id: &str) -> Option<Self> {
        is_label(id).then(|| Self::Token(id.into()))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => f.write_str(id),
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Jwt(both) => write!(f, "jwt:{both}"),
            Self::Token(id) => write!(f, "token:{id}"),
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
            "jwt:https://kubernetes.default.svc.cluster.local#system:serviceaccount:shop:web",
            "jwt:https://issuer.example/tenant?x=1#a#b",
            "token:ci-1",
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
            "jwt:",
            "jwt:https://issuer.example",
            "jwt:https://issuer.example#",
            "jwt:#subject",
            "jwt:https://issuer.example#two words",
            "jwt:https://issuer.example#line\nbreak",
            "jwt:https://issuer.example#caf\u{e9}",
            "token:",
            "token:-x",
            "token:X",
            "token:a.b",
            "system:serviceaccount:shop:web",
            "https://td/a",
        ] {
            assert!(Principal::parse(text).is_err(), "{text:?}");
        }
    }
    #[test]
    fn the_issuer_of_a_jwt_ends_at_the_first_number_sign() {
        let principal = Principal::jwt("https://issuer.example", "a#b").unwrap();
        assert_eq!(Principal::parse("jwt:https://issuer.example#a#b"), Ok(principal));
        assert_eq!(Principal::jwt("https://issuer.example#a", "b"), None);
        assert_eq!(Principal::jwt("https://issuer.example", &"s".repeat(1025)), None);
    }
}
