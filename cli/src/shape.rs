//! What `secret set` changes in a value before it is put: `--trim` and `--compact`.

use proto::vault::v1::ValueFacts;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use crate::failure::{Failure, FailureKind};

/// The changes that were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// White space at both ends and a byte order mark are dropped.
    pub trim: bool,
    /// White space between the parts of JSON is dropped.
    pub compact: bool,
}

impl Shape {
    /// Changes the value of `name`. Fails when nothing is left of it, or when it is to be JSON and is not.
    pub fn apply(self, name: &str, value: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Failure> {
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

/// Returns the flags with which the value would be legal in a header, or `None` when none are enough.
pub fn that_helps(value: &[u8]) -> Option<&'static str> {
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

fn trimmed(value: &[u8]) -> &[u8] {
    let value = value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value);
    value.trim_ascii()
}

/// Drops white space outside of strings; everything else stays, byte for byte.
fn compacted(json: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    serde_json::from_slice::<IgnoredAny>(json).ok()?;
    // Of its largest size from the start: a buffer that grows leaves copies behind.
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

    const KEY_FILE: &str = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN-----\\nMC 4\\n\",\n  \
                            \"quote\": \"\\\\\\\" \",\n  \"number\": 1.50\n}\n";
    const COMPACT: &str = "{\"type\":\"service_account\",\"private_key\":\"-----BEGIN-----\\nMC 4\\n\",\"quote\":\"\\\\\\\" \",\
                           \"number\":1.50}";

    fn shaped(shape: Shape, value: &str) -> Result<Vec<u8>, String> {
        let shaped = shape.apply("X", Zeroizing::new(value.as_bytes().to_vec()));
        shaped
            .map(|value| value.to_vec())
            .map_err(|failure| failure.message)
    }

    #[test]
    fn a_value_changes_only_as_asked() {
        let (trim, compact) = (
            Shape {
                trim: true,
                compact: false,
            },
            Shape {
                trim: false,
                compact: true,
            },
        );
        let both = Shape {
            trim: true,
            compact: true,
        };
        for (shape, value, expected) in [
            (Shape::default(), " a\n", " a\n"),
            (trim, "\u{feff} \r\na b\t\n\n", "a b"),
            (compact, KEY_FILE, COMPACT),
            (both, &format!("\u{feff}{KEY_FILE}"), COMPACT),
        ] {
            assert_eq!(shaped(shape, value).unwrap(), expected.as_bytes());
        }
        assert!(shaped(trim, " \n").is_err());
        let refused = shaped(compact, "{\"a\": hunter2}").unwrap_err();
        assert!(refused.contains("not JSON") && !refused.contains("hunter2"));
    }

    #[test]
    fn the_flags_that_help_are_known() {
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
            assert_eq!(that_helps(value.as_bytes()), flags, "{value:?}");
        }
    }
}
