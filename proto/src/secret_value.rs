//! The value of a secret, as a type that does not reveal it by accident.

use std::fmt;

use zeroize::Zeroizing;

use crate::vault::v1::ValueFacts;

/// Maximum size of a value in bytes.
pub const MAX_SIZE: usize = 64 * 1024;

/// The value of a secret: 1 byte to 64 KiB. Prints as `SecretValue(..)`, wipes itself, and cannot be cloned, compared
/// or serialized.
pub struct SecretValue(Zeroizing<Vec<u8>>);

/// The value is empty or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value has 1 to {MAX_SIZE} bytes; this one has {actual}")]
pub struct ValueSizeError {
    /// Size of the value in bytes.
    pub actual: usize,
}

impl SecretValue {
    /// Checks the size. The buffer is wiped when the value is refused as well.
    pub fn parse(value: Zeroizing<Vec<u8>>) -> Result<Self, ValueSizeError> {
        match value.len() {
            1..=MAX_SIZE => Ok(Self(value)),
            actual => Err(ValueSizeError { actual }),
        }
    }

    /// Returns the facts about the value that decide which places it fits.
    pub fn facts(&self) -> ValueFacts {
        ValueFacts::of(&self.0)
    }

    /// Returns the value itself. Every use can be found by searching for `expose`.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_1_byte_to_64_kib() {
        for (size, taken) in [(0, false), (1, true), (MAX_SIZE, true), (MAX_SIZE + 1, false)] {
            assert_eq!(
                SecretValue::parse(Zeroizing::new(vec![0; size])).is_ok(),
                taken,
                "{size}"
            );
        }
    }

    #[test]
    fn debug_does_not_print_the_value() {
        let value = SecretValue::parse(Zeroizing::new(b"canary".to_vec())).unwrap();
        assert_eq!(format!("{value:?}"), "SecretValue(..)");
    }
}
