//! Keyed fingerprints of requests, by which the vault recognizes a repeated request without keeping the request.
//!
//! ```text
//! K           = HKDF-SHA256[(), request-fingerprint](KEK, 32)
//! fingerprint = HMAC-SHA256(K, LP(f1) || LP(f2) || ...)      LP(f) = u64be(len(f)) || f; 64 zeros after a value
//! ```
//!
//! A request holds a secret value. A plain hash of the request would let a reader of the store test guesses of the value;
//! without the workspace's KEK the fingerprint reveals nothing.

use hmac::{Hmac, KeyInit as _, Mac as _};
use proto::SecretValue;
use sha2::Sha256;

use super::WorkspaceKek;

/// Builder of a [`Fingerprint`].
pub(crate) struct Fingerprinter {
    mac: Hmac<Sha256>,
}

/// HMAC-SHA256 of a request, under a key that is derived from the workspace's KEK.
pub(crate) struct Fingerprint {
    mac: Hmac<Sha256>,
}

impl Fingerprinter {
    pub(crate) fn new(kek: &WorkspaceKek) -> Self {
        let key = kek.fingerprint_key();
        Self {
            mac: Hmac::new_from_slice(key.expose()).expect("HMAC takes keys of any length"),
        }
    }

    #[must_use]
    pub(crate) fn field(mut self, bytes: &[u8]) -> Self {
        self.mac.update(&(bytes.len() as u64).to_be_bytes());
        self.mac.update(bytes);
        self
    }

    /// Adds a secret value and a block of zeros. The MAC buffers bytes until a block is full, and moving the MAC would
    /// copy a buffered value; the zeros fill up the block.
    #[must_use]
    pub(crate) fn value(self, value: &SecretValue) -> Self {
        let mut fingerprinter = self.field(value.expose());
        fingerprinter.mac.update(&[0; 64]);
        fingerprinter
    }

    pub(crate) fn finish(self) -> Fingerprint {
        let Self { mac } = self;
        Fingerprint { mac }
    }
}

impl Fingerprint {
    /// Returns the bytes to store.
    pub(crate) fn to_bytes(&self) -> [u8; 32] {
        self.mac.clone().finalize().into_bytes().into()
    }

    /// Compares with a stored fingerprint in constant time.
    pub(crate) fn matches(self, stored: &[u8]) -> bool {
        self.mac.verify_slice(stored).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proto::SecretValue;
    use zeroize::Zeroizing;

    use super::*;

    fn of(kek: &WorkspaceKek, fields: &[&str], value: &str) -> Fingerprint {
        let value = SecretValue::parse(Zeroizing::new(value.into())).expect("a value");
        fields
            .iter()
            .fold(Fingerprinter::new(kek), |fingerprinter, field| {
                fingerprinter.field(field.as_bytes())
            })
            .value(&value)
            .finish()
    }

    #[test]
    fn only_the_same_fields_under_the_same_key_match() {
        let kek = WorkspaceKek::generate().expect("randomness");
        let stored = of(&kek, &["a", "bc"], "value").to_bytes();
        assert!(of(&kek, &["a", "bc"], "value").matches(&stored));
        let others: [(&[&str], &str); 4] = [
            (&["a", "bc"], "valuf"),
            (&["ab", "c"], "value"),
            (&["a", "bcvalue"], "x"),
            (&["a"], "value"),
        ];
        for (fields, value) in others {
            assert!(!of(&kek, fields, value).matches(&stored), "{fields:?}");
        }
        let other = WorkspaceKek::generate().expect("randomness");
        assert!(!of(&other, &["a", "bc"], "value").matches(&stored));
        assert!(!of(&kek, &["a", "bc"], "value").matches(&stored[..31]));
    }
}
