//! Identifiers that distinguish a resource from an earlier resource of the same name.

use std::fmt;

/// A random 128-bit identifier (UUID version 4, RFC 9562).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(uuid::Uuid);

/// The text is not a UUID in its hyphenated lower-case form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a uid is a UUID in lower case, such as 67e55044-10b1-426f-9247-bb680e5fe0c8")]
pub struct UidError;

impl Uid {
    /// Makes a random identifier.
    pub fn generate() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    /// Makes an identifier from its 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// Reads an identifier. Accepts only the form in which `Display` writes it, so that two texts never mean the same.
    pub fn parse(text: &str) -> Result<Self, UidError> {
        let uid = Self(uuid::Uuid::try_parse(text).map_err(|_| UidError)?);
        if uid.to_string() == text {
            Ok(uid)
        } else {
            Err(UidError)
        }
    }

    /// Returns the 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_has_one_spelling() {
        let uid = Uid::generate();
        assert_eq!(Uid::parse(&uid.to_string()), Ok(uid));
        for other in [
            uid.to_string().to_uppercase(),
            uid.0.simple().to_string(),
            String::new(),
        ] {
            assert_eq!(Uid::parse(&other), Err(UidError));
        }
    }
}
