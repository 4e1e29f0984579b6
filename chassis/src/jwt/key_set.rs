//! The keys that an issuer publishes (JWK Set, RFC 7517, section 5).

use serde::Deserialize;
use serde_json::Value;

use super::public_key::{Algorithm, Jwk, PublicKey};

/// Longest key set that is read, in bytes.
pub(super) const MAX_KEY_SET: usize = 256 * 1024;
/// Largest number of keys in a set.
const MAX_KEYS: usize = 100;

/// The usable keys of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeySet(Vec<NamedKey>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedKey {
    kid: Option<String>,
    key: PublicKey,
}

/// A text is not a usable key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("it is longer than {} KiB", MAX_KEY_SET / 1024)]
    TooLong,
    #[error("it is not a JSON Web Key Set")]
    Form,
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads the keys of a set, and passes over those that are for other algorithms or uses. A set without a usable key is no
    /// error: an issuer withdraws its only key with it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_KEY_SET {
            return Err(KeySetError::TooLong);
        }
        let Document { keys } = serde_json::from_slice(text).map_err(|_| KeySetError::Form)?;
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        Ok(Self(keys.into_iter().filter_map(NamedKey::read).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the key with this `kid` that fits the algorithm. Without a `kid`, all keys that fit count. Returns `None` when several
    /// keys fit: the verifier does not try one key after another.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&PublicKey> {
        let has_kid = |key: &&NamedKey| kid.is_none() || key.kid.as_deref() == kid;
        let mut fitting = self.0.iter().filter(has_kid).map(|named| &named.key);
        let mut fitting = fitting.by_ref().filter(|key| key.algorithm() == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(key),
            _ => None,
        }
    }
}

impl NamedKey {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let key = jwk.public_key()?;
        Some(Self { kid: jwk.kid, key })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use serde_json::json;

    use super::{super::test_keys::TestKey, *};

    fn parse(keys: Value) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn a_kid_chooses_among_the_keys_that_fit_the_algorithm() {
        let (rsa, ec, ed) = (TestKey::rsa(), TestKey::p256(), TestKey::ed25519());
        let set = parse(json!([rsa.jwk("a"), ec.jwk("a"), ed.jwk("b")])).unwrap();
        let find = |kid, algorithm| set.find(kid, algorithm).map(PublicKey::algorithm);
        assert_eq!(find(Some("a"), Algorithm::Rs256), Some(Algorithm::Rs256));
        assert_eq!(find(Some("a"), Algorithm::Es256), Some(Algorithm::Es256));
        assert_eq!(find(Some("a"), Algorithm::EdDsa), None);
        assert_eq!(find(Some("b"), Algorithm::Rs256), None);
        assert_eq!(find(Some("c"), Algorithm::EdDsa), None);
    }

    #[test]
    fn without_a_kid_or_with_a_kid_of_two_keys_no_key_is_guessed() {
        let (one, other) = (TestKey::p256(), TestKey::p256());
        let set = parse(json!([one.jwk("a"), other.jwk("b"), TestKey::ed25519().jwk("c")])).unwrap();
        assert!(set.find(None, Algorithm::Es256).is_none());
        assert!(set.find(None, Algorithm::EdDsa).is_some());
        let same = parse(json!([one.jwk("a"), other.jwk("a")])).unwrap();
        assert!(same.find(Some("a"), Algorithm::Es256).is_none());
    }

    #[test]
    fn keys_for_other_purposes_are_passed_over() {
        let with = |member: &str, value: Value| {
            let mut key = TestKey::p256().jwk("a");
            key[member] = value;
            !parse(json!([key])).unwrap().is_empty()
        };
        assert!(
            with("alg", json!("ES256")) && with("use", json!("sig")) && with("key_ops", json!(["verify"]))
        );
        for (member, value) in [
            ("alg", json!("ES384")),
            ("alg", json!("HS256")),
            ("use", json!("enc")),
            ("key_ops", json!(["sign"])),
            ("crv", json!("P-384")),
            ("kty", json!("RSA")),
            ("kty", json!("oct")),
            ("x", json!("AA")),
            ("y", json!("AA")),
            ("x", json!(1)),
        ] {
            assert!(!with(member, value.clone()), "{member} {value}");
        }
        let mut short = TestKey::rsa().jwk("a");
        short["n"] = json!("ofgWCuLjybRlzo0tZWJjNg");
        assert!(parse(json!([short])).unwrap().is_empty());
    }

    #[test]
    fn a_set_without_a_key_is_a_key_set() {
        assert!(parse(json!([])).unwrap().is_empty());
    }

    #[test]
    fn the_size_of_a_key_set_is_limited() {
        let keys = |number| parse((0..number).map(|_| TestKey::ed25519().jwk("a")).collect());
        assert!(keys(MAX_KEYS).is_ok());
        assert_eq!(keys(MAX_KEYS + 1), Err(KeySetError::TooMany));
        let long = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(MAX_KEY_SET));
        assert_eq!(KeySet::parse(long.as_bytes()), Err(KeySetError::TooLong));
        for wrong in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[]} x"] {
            assert_eq!(KeySet::parse(wrong.as_bytes()), Err(KeySetError::Form), "{wrong}");
        }
    }
}
