//! Public keys of issuers (JWK, RFC 7517 and RFC 8037), and the algorithm that each is for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

/// Sizes of RSA moduli that are accepted, in bytes: 2048 to 8192 bits.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
/// Longest public exponent of RSA, in bytes. ring accepts 33 bits at the most.
const MAX_RSA_EXPONENT: usize = 5;

/// A signature algorithm that is accepted (RFC 7518, section 3.1, and RFC 8037). There is no symmetric one, so a public key
/// is never used as the key of an HMAC, and there is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Reads the name of an algorithm as it is in `alg`.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A public key. Its kind alone decides the algorithm that it verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PublicKey {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// An uncompressed point (SEC 1, section 2.3.3).
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// The fields of a JWK that matter here.
#[derive(Debug, Deserialize)]
pub(super) struct Jwk {
    kty: String,
    pub(super) kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    /// Returns the key, unless it is for something else than for verifying with an accepted algorithm.
    pub(super) fn public_key(&self) -> Option<PublicKey> {
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => self.rsa()?,
            ("EC", Some("P-256")) => self.p256()?,
            ("OKP", Some("Ed25519")) => PublicKey::Ed25519(bytes(&self.x, 32)?),
            _ => return None,
        };
        let is_for_algorithm = match &self.alg {
            Some(name) => Algorithm::parse(name) == Some(key.algorithm()),
            None => true,
        };
        let is_for_signatures = self.usage.as_deref().is_none_or(|usage| usage == "sig");
        let is_for_verifying = match &self.key_ops {
            Some(operations) => operations.iter().any(|operation| operation == "verify"),
            None => true,
        };
        (is_for_algorithm && is_for_signatures && is_for_verifying).then_some(key)
    }

    fn rsa(&self) -> Option<PublicKey> {
        let (modulus, exponent) = (integer(&self.n)?, integer(&self.e)?);
        let has_fitting_sizes =
            RSA_MODULUS.contains(&modulus.len()) && (1..=MAX_RSA_EXPONENT).contains(&exponent.len());
        has_fitting_sizes.then_some(PublicKey::Rsa { modulus, exponent })
    }

    fn p256(&self) -> Option<PublicKey> {
        let (x, y) = (bytes(&self.x, 32)?, bytes(&self.y, 32)?);
        Some(PublicKey::P256([&[4], x.as_slice(), y.as_slice()].concat()))
    }
}

impl PublicKey {
    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Returns true when `signature` is one of this key over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            Self::Rsa { modulus, exponent } => RsaPublicKeyComponents {
                n: modulus,
                e: exponent,
            }
            .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Self::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point).verify(message, signature),
        };
        verified.is_ok()
    }
}

/// Decodes a member that has exactly `len` bytes.
fn bytes(member: &Option<String>, len: usize) -> Option<Vec<u8>> {
    let decoded = URL_SAFE_NO_PAD.decode(member.as_deref()?).ok()?;
    (decoded.len() == len).then_some(decoded)
}

/// Decodes a member that is an unsigned integer (RFC 7518, section 2). Some issuers write a leading zero, which ring does not
/// accept.
fn integer(member: &Option<String>) -> Option<Vec<u8>> {
    let decoded = URL_SAFE_NO_PAD.decode(member.as_deref()?).ok()?;
    let zeros = decoded.iter().take_while(|byte| **byte == 0).count();
    Some(decoded.get(zeros..)?.to_vec())
}
