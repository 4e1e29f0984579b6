//! Names of workspaces and servers: lower-case DNS labels (RFC 1123, section 2.1). Other texts are refused, not
//! normalized.

use std::fmt;

/// The text is not a lower-case DNS label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to 63 of the characters a-z, 0-9 and -, with neither a - first nor last (a lower-case DNS label)"
)]
pub struct LabelError;

pub(crate) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Reads a lower-case DNS label.
            pub fn parse(text: &str) -> Result<Self, LabelError> {
                if is_label(text) { Ok(Self(text.into())) } else { Err(LabelError) }
            }

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

label! {
    /// The name of a workspace.
    WorkspaceName
}

label! {
    /// The name of a server, unique in its workspace.
    ServerName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_labels_are_names_without_a_change() {
        for name in ["a", "0", "my-workspace", "a--b", &"x".repeat(63)] {
            assert_eq!(WorkspaceName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_text_that_is_not_a_dns_label_is_refused() {
        let long = "x".repeat(64);
        let huge = "x".repeat(1 << 20);
        for name in [
            "",
            "-a",
            "a-",
            "A",
            "My-Workspace",
            "a_b",
            "a.b",
            "..",
            "/",
            "a/b",
            "a\0",
            "a\r\n",
            "%2e",
            "a\u{202e}b",
            "caf\u{e9}",
            "cafe\u{301}",
            "🔑",
            " a",
            "a ",
            &long,
            &huge,
        ] {
            assert_eq!(ServerName::parse(name), Err(LabelError), "{name:.20}");
        }
    }
}
