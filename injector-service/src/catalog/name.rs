//! The names of entries of the catalog.

use std::fmt;

use proto::ServerName;

/// The name of an entry: `@scope/name`, both lower-case DNS labels. Names compare as text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryName {
    text: Box<str>,
    server: ServerName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an entry's name is @SCOPE/NAME, such as @aerostack/github; both are 1 to 63 of the characters a-z, 0-9 and -, \
     with neither a - first nor last"
)]
pub struct NotAnEntryName;

impl EntryName {
    pub fn parse(text: &str) -> Result<Self, NotAnEntryName> {
        let parts = text.strip_prefix('@').and_then(|parts| parts.split_once('/'));
        let (scope, name) = parts.ok_or(NotAnEntryName)?;
        // A scope follows the rule for names of servers.
        ServerName::parse(scope).map_err(|_| NotAnEntryName)?;
        Ok(Self {
            text: text.into(),
            server: ServerName::parse(name).map_err(|_| NotAnEntryName)?,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the last part, which is the default name of a server that is added from the entry.
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// Returns the first part, with the `@`.
    pub fn scope(&self) -> &str {
        self.text.split('/').next().unwrap_or_default()
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_scope_and_a_name_that_are_dns_labels() {
        let long = "x".repeat(63);
        for text in ["@a/b", "@a-1/0", &format!("@{long}/{long}")] {
            assert_eq!(EntryName::parse(text).unwrap().as_str(), text);
        }
        let too_long = format!("@{long}x/a");
        for text in [
            "",
            "@",
            "/",
            "@/",
            "a/b",
            "@a",
            "@a/",
            "@/b",
            "@a/b/c",
            "@@a/b",
            "@a/@b",
            "@A/b",
            "@a/B",
            "@a_b/c",
            "@a/b.c",
            "@-a/b",
            "@a/b-",
            " @a/b",
            "@a/b ",
            "@a/b\n",
            "@a/caf\u{e9}",
            "\u{ff20}a/b",
            &too_long,
            &"x".repeat(1 << 20),
        ] {
            assert_eq!(EntryName::parse(text), Err(NotAnEntryName), "{text:.20}");
        }
    }
}
