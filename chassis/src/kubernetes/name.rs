//! Names of objects. A name is checked before it becomes part of a URL.

use std::{fmt, str::FromStr};

/// Length limit of a DNS subdomain (RFC 1123, section 2.1).
const MAX_LENGTH: usize = 253;

/// The name of an object: a DNS subdomain in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName(String);

/// The text is not the name of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is not a DNS subdomain.
    #[error(
        "{0:?} is not the name of an object: lower-case letters, digits, `-` and `.`, with a letter or digit at both ends"
    )]
    Characters(String),
    /// The text has no namespace.
    #[error("{0:?} is not NAMESPACE/NAME")]
    NoNamespace(String),
}

impl ObjectName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`NameError`] for a text that is not a DNS subdomain.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_label = |label: &str| {
            let bytes = label.as_bytes();
            bytes.iter().all(|byte| is_alphanumeric(byte) || *byte == b'-')
                && bytes.first().is_some_and(is_alphanumeric)
                && bytes.last().is_some_and(is_alphanumeric)
        };
        if text.len() <= MAX_LENGTH && text.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Characters(text.to_owned()))
        }
    }

    /// Returns this name with more characters at its end.
    ///
    /// # Errors
    /// [`NameError`], when the result is not a name.
    pub fn with_suffix(&self, suffix: &str) -> Result<Self, NameError> {
        Self::parse(&format!("{self}{suffix}"))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an object in a namespace: `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: ObjectName,
    /// The name.
    pub name: ObjectName,
}

impl FromStr for NamespacedName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| NameError::NoNamespace(text.to_owned()))?;
        Ok(Self {
            namespace: namespace.parse()?,
            name: name.parse()?,
        })
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_place_in_a_url() {
        for name in ["web", "web-1", "web.example.org", "1"] {
            assert!(ObjectName::parse(name).is_ok(), "{name}");
        }
        let long = "a".repeat(254);
        for name in [
            "", "Web", "a/b", "..", "a..b", "-a", "a-", "a?b", "a b", "a%2fb", &long,
        ] {
            assert!(ObjectName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_name_in_a_namespace_has_one_slash() {
        let name: NamespacedName = "shop/web".parse().unwrap();
        assert_eq!(name.to_string(), "shop/web");
        for wrong in ["web", "shop/", "/web", "shop/web/x"] {
            assert!(wrong.parse::<NamespacedName>().is_err(), "{wrong}");
        }
    }
}
