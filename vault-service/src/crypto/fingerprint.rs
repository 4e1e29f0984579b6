//! What tells two requests apart without keeping them.
//!
//! ```text
//! K           = HKDF-SHA256[(), request-fingerprint](KEK, 32)
//! fingerprint = HMAC-SHA256(K, LP(f1) || LP(f2) || ...)      LP(f) = u64be(len(f)) || f; 64 zeros behind a value
//! ```
//!
//! A request holds a value, and a plain hash of it would let whoever reads the store try guesses. Without the
//! workspace's KEK this one says nothing.

use hmac::{Hmac, KeyInit as _, Mac as _};
use proto::SecretValue;
use sha2::Sha256;

use super::WorkspaceKek;

/// Takes the fields of a request one by one.
pub struct Fingerprinter {
    mac: Hmac<Sha256>,
}

/// HMAC-SHA256 of a request, under a key of its workspace.
pub struct Fingerprint {
    mac: Hmac<Sha256>,
}

impl Fingerprinter {
    /// Begins one.
    pub fn new(kek: &WorkspaceKek) -> Self {
        let key = kek.fingerprint_key();
        Self {
            mac: Hmac::new_from_slice(key.expose()).expect("HMAC takes keys of any length"),
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.mac.update(&(bytes.len() as u64).to_be_bytes());
        self.mac.update(bytes);
        self
    }

    /// Adds a value, and a block of zeros behind it: what is not hashed yet stands in the MAC, which is moved about.
    #[must_use]
    pub fn value(self, value: &SecretValue) -> Self {
        let mut print = self.field(value.expose());
        print.mac.update(&[0; 64]);
        print
    }

    /// The fingerprint of these fields.
    pub fn finish(self) -> Fingerprint {
        let Self { mac } = self;
        Fingerprint { mac }
    }
}

impl Fingerprint {
    /// For storing.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.mac.clone().finalize().into_bytes().into()
    }

    /// Whether `stored` is the fingerprint of the same fields under the same key; takes the same time whatever differs.
    pub fn matches(self, stored: &[u8]) -> bool {
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
            .fold(Fingerprinter::new(kek), |print, field| {
                print.field(field.as_bytes())
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
