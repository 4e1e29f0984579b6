//! Changes to a value before it is put: the removal of its final newline, and `--trim` and `--compact` of `secret set`.
//!
//! No function here grows a buffer that holds a value: growing would copy the value and leave the old copy behind.

use proto::vault::v1::ValueFacts;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use crate::failure::{Failure, FailureKind};

/// The changes that the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    /// Remove white space at both ends, and a byte order mark.
    pub(crate) trim: bool,
    /// Remove white space between the tokens of JSON.
    pub(crate) compact: bool,
}

impl Edits {
    /// Returns the changed value of the secret `name`. Fails when the result is empty, or when `--compact` meets a value
    /// that is not JSON.
    pub(crate) fn apply(self, name: &str, value: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let value = match self.trim {
            true => Zeroizing::new(trimmed(&value).to_vec()),
            false => value,
        };
        if value.is_empty() {
            return Err(Failure::new(
                FailureKind::Usage,
                format_args!("the value of {name} is nothing but white space"),
            ));
        }
        if !self.compact {
            return Ok(value);
        }
        compacted(&value).ok_or_else(|| {
            Failure::new(
                FailureKind::Usage,
                format_args!("--compact: the value of {name} is not JSON"),
            )
        })
    }
}

/// Returns the flags that make a value legal in a header. `None` means that the value is legal already, or that no flags
/// help.
pub(crate) fn flags_for_header(value: &[u8]) -> Option<&'static str> {
    let fits = |value: &[u8]| !value.is_empty() && ValueFacts::of(value).header_fault().is_none();
    if fits(value) {
        return None;
    }
    if fits(trimmed(value)) {
        return Some("--trim");
    }
    if compacted(value).is_some_and(|compact| fits(&compact)) {
        return Some("--compact");
    }
    let both = compacted(trimmed(value))?;
    fits(&both).then_some("--trim --compact")
}

/// Removes one final newline, `\n` or `\r\n`. `echo` and editors end text with a newline, and no header may contain one.
pub(super) fn without_final_newline(mut value: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if value.last() == Some(&b'\n') {
        value.pop();
        if value.last() == Some(&b'\r') {
            value.pop();
        }
    }
    value
}

fn trimmed(value: &[u8]) -> &[u8] {
    let value = value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value);
    value.trim_ascii()
}

/// Removes the white space outside of strings, and keeps all other bytes. Returns `None` when `json` is not JSON.
fn compacted(json: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    serde_json::from_slice::<IgnoredAny>(json).ok()?;
    let mut compact = Zeroizing::new(Vec::with_capacity(json.len()));
    let (mut in_string, mut escaped) = (false, false);
    for &byte in json {
        let ends_or_begins = byte == b'"' && !escaped;
        escaped = in_string && byte == b'\\' && !escaped;
        in_string ^= ends_or_begins;
        if in_string || !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            compact.push(byte);
        }
    }
    Some(compact)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn only_one_final_newline_is_removed() {
        for (given, expected) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("a\r", "a\r"),
            ("\n", ""),
            ("a\nb\n", "a\nb"),
            (" a ", " a "),
        ] {
            let edited = without_final_newline(Zeroizing::new(given.as_bytes().to_vec()));
            assert_eq!(edited.as_slice(), expected.as_bytes(), "{given:?}");
        }
    }

    const KEY_FILE: &str = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN-----\\nMC 4\\n\",\n  \
                            \"quote\": \"\\\\\\\" \",\n  \"number\": 1.50\n}\n";
    const COMPACT: &str = "{\"type\":\"service_account\",\"private_key\":\"-----BEGIN-----\\nMC 4\\n\",\"quote\":\"\\\\\\\" \",\
                           \"number\":1.50}";

    fn edited(edits: Edits, value: &str) -> Result<Vec<u8>, String> {
        let edited = edits.apply("X", Zeroizing::new(value.as_bytes().to_vec()));
        edited
            .map(|value| value.to_vec())
            .map_err(|failure| failure.message)
    }

    #[test]
    fn each_flag_makes_only_its_own_change() {
        let (trim, compact) = (
            Edits {
                trim: true,
                compact: false,
            },
            Edits {
                trim: false,
                compact: true,
            },
        );
        let both = Edits {
            trim: true,
            compact: true,
        };
        for (edits, value, expected) in [
            (Edits::default(), " a\n", " a\n"),
            (trim, "\u{feff} \r\na b\t\n\n", "a b"),
            (compact, KEY_FILE, COMPACT),
            (both, &format!("\u{feff}{KEY_FILE}"), COMPACT),
        ] {
            assert_eq!(edited(edits, value).unwrap(), expected.as_bytes());
        }
        assert!(edited(trim, " \n").is_err());
        let refused = edited(compact, "{\"a\": hunter2}").unwrap_err();
        assert!(refused.contains("not JSON") && !refused.contains("hunter2"));
    }

    #[test]
    fn flags_that_make_a_value_legal_in_a_header_are_suggested() {
        for (value, flags) in [
            ("token", None),
            ("token\n\n", Some("--trim")),
            (" token", Some("--trim")),
            ("\u{feff}token", Some("--trim")),
            (KEY_FILE, Some("--compact")),
            ("\u{feff}{\n}", Some("--trim --compact")),
            ("-----BEGIN-----\nMC4\n-----END-----\n", None),
            ("schl\u{fc}ssel", None),
        ] {
            assert_eq!(flags_for_header(value.as_bytes()), flags, "{value:?}");
        }
    }
}
