//! Refusals of tokens.

use proto::{Reason, Refusal};

/// The reason why a token is not accepted. `Display` is one sentence for the client, without any part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// The text is not a JSON Web Signature with the claims that are needed.
    #[error("the token is not a JSON Web Token with the claims iss, sub, aud and exp")]
    Malformed,
    /// The header `authorization` is not `Bearer` and a token, or occurs twice.
    #[error("the metadata authorization must be one value, `Bearer` and a JSON Web Token")]
    Header,
    /// No issuer is configured.
    #[error("this service accepts no tokens")]
    NotAccepted,
    /// The header has a parameter that the verifier would have to understand (`crit`, RFC 7515, section 4.1.11).
    #[error("the token has a critical header parameter, and this service understands none")]
    Critical,
    /// The algorithm is none of RS256, ES256 and EdDSA.
    #[error("the token's algorithm is none of RS256, ES256 and EdDSA")]
    Algorithm,
    /// No issuer of the settings has the name in `iss`.
    #[error("the token's issuer is not known to this service")]
    UnknownIssuer,
    /// The issuer's key set has no fitting key, or more than one.
    #[error("the token is signed with a key that its issuer does not publish for this algorithm")]
    UnknownKey,
    /// The signature does not verify.
    #[error("the token's signature is wrong")]
    Signature,
    /// `aud` does not contain the audience of this service.
    #[error("the token is meant for another audience than this service")]
    Audience,
    /// The time in `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// The time in `nbf` has not come yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The time from `iat` or from now to `exp` exceeds the issuer's `max-life=`.
    #[error("the token is valid for longer than this service accepts")]
    MaxLife,
    /// `iss` and `sub` make no principal.
    #[error("the token's subject cannot be used as a principal")]
    Subject,
    /// The issuer's keys are not known, because the issuer does not answer.
    #[error("the keys of the token's issuer are not available now")]
    KeysUnavailable,
}

impl TokenRefusal {
    /// Returns the name of the cause, for the log and the metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Header => "header",
            Self::NotAccepted => "not_accepted",
            Self::Critical => "critical",
            Self::Algorithm => "algorithm",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::MaxLife => "max_life",
            Self::Subject => "subject",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }

    /// Returns the refusal of a call with such a token. `From` is not implemented: with a second conversion into `Refusal`, the compiler
    /// could no longer infer the error type of closures that use `?`.
    pub fn refusal(self) -> Refusal {
        Refusal::new(self.reason(), self)
    }

    /// Returns the reason for the client. Only with missing keys can a later attempt with the same token succeed.
    pub fn reason(self) -> Reason {
        match self {
            Self::KeysUnavailable => Reason::TokenKeysUnavailable,
            Self::Malformed
            | Self::Header
            | Self::NotAccepted
            | Self::Critical
            | Self::Algorithm
            | Self::UnknownIssuer
            | Self::UnknownKey
            | Self::Signature
            | Self::Audience
            | Self::Expired
            | Self::NotYetValid
            | Self::MaxLife
            | Self::Subject => Reason::Unauthenticated,
        }
    }
}
