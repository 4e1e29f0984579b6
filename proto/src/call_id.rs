//! The id of one call through the injector.

use std::{fmt, sync::Arc};

/// Maximum length of an id, in characters.
const MAX_CALL_ID: usize = 64;

/// Identifies one call through the injector in its answer, in the logs of both services and in the audit log of the vault.
/// Every id is safe to write in a header, a URL and a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallId(Arc<str>);

/// The text is not a call id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("call_id: 1 to {MAX_CALL_ID} letters, digits, '-', '_' and '.' are needed")]
pub struct CallIdError;

impl CallId {
    /// Makes a new id, a UUID of version 4 (RFC 9562). The UUID's 122 random bits make the id unique across processes
    /// and restarts, and keep a program from guessing the id of another program's call.
    pub fn generate() -> Self {
        Self(crate::Uid::generate().to_string().into())
    }

    /// Reads the id that a client chose.
    pub fn parse(text: &str) -> Result<Self, CallIdError> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if (1..=MAX_CALL_ID).contains(&text.len()) && text.bytes().all(is_legal) {
            Ok(Self(text.into()))
        } else {
            Err(CallIdError)
        }
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_call_id_is_short_and_safe_to_print() {
        for text in [
            "a",
            "67e55044-10b1-426f-9247-bb680e5fe0c8",
            "A_b.9",
            &"x".repeat(64),
        ] {
            assert_eq!(CallId::parse(text).unwrap().as_str(), text);
        }
        for text in ["", "a b", "a\n", "\"", "é", "a\u{202e}", "a/b", &"x".repeat(65)] {
            assert_eq!(CallId::parse(text), Err(CallIdError), "{text:?}");
        }
    }

    #[test]
    fn generated_call_ids_differ_in_all_their_parts_and_are_legal() {
        let ids: Vec<_> = (0..1000).map(|_| CallId::generate()).collect();
        for half in [|id: &str| id[..18].to_owned(), |id: &str| id[19..].to_owned()] {
            let halves: HashSet<_> = ids.iter().map(|id| half(id.as_str())).collect();
            assert_eq!(halves.len(), ids.len());
        }
        assert!(ids.iter().all(|id| CallId::parse(id.as_str()).as_ref() == Ok(id)));
    }
}
