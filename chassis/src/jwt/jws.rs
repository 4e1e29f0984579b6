//! Tokens in the compact serialization of JWS (RFC 7515, section 3.1), parsed and not yet verified.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::{
    claims::Claims,
    public_key::{Algorithm, PublicKey},
    refusal::TokenRefusal,
};

/// Longest token, in bytes.
pub(super) const MAX_TOKEN: usize = 16 * 1024;

/// A token that was parsed and not verified.
pub(super) struct ParsedToken<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) claims: Claims,
    /// The header and the payload as they were signed.
    signed: &'t str,
    signature: Vec<u8>,
}

/// The parameters of the header that matter. `jku`, `jwk`, `x5u` and `x5c` would name a key that the token chooses, and are
/// ignored like all others.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

fn is_present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

impl<'t> ParsedToken<'t> {
    pub(super) fn parse(token: &'t str) -> Result<Self, TokenRefusal> {
        if token.len() > MAX_TOKEN {
            return Err(TokenRefusal::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenRefusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenRefusal::Malformed)?;
        let header: Header = json(header)?;
        let algorithm = Algorithm::parse(&header.alg).ok_or(TokenRefusal::Algorithm)?;
        if header.crit {
            return Err(TokenRefusal::Critical);
        }
        Ok(Self {
            algorithm,
            kid: header.kid,
            claims: json(payload)?,
            signed,
            signature: decode(signature)?,
        })
    }

    /// Checks the signature. The kind of the key must fit the token's algorithm.
    pub(super) fn check_signature(&self, key: &PublicKey) -> Result<(), TokenRefusal> {
        let is_right =
            key.algorithm() == self.algorithm && key.verifies(self.signed.as_bytes(), &self.signature);
        is_right.then_some(()).ok_or(TokenRefusal::Signature)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenRefusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenRefusal::Malformed)
}

fn json<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, TokenRefusal> {
    serde_json::from_slice(&decode(part)?).map_err(|_| TokenRefusal::Malformed)
}
