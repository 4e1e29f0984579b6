//! Labels of secrets, which follow the rules of Kubernetes.

use std::collections::BTreeMap;

const MAX_LABELS: usize = 32;
const MAX_NAME: usize = 63;
const MAX_PREFIX: usize = 253;

/// Labels of a secret: short values by short keys, for sorting. Labels are not encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    #[error("at most {MAX_LABELS} may be given")]
    TooMany,
    #[error(
        "the label {0:?} is not valid: its name has 1 to {MAX_NAME} letters, digits, `-`, `_` and `.`, begins and ends with a \
         letter or digit, and may follow a DNS name and a `/`"
    )]
    Key(String),
    #[error(
        "the value of the label {0:?} is not valid: a value is empty, or has 1 to {MAX_NAME} letters, digits, `-`, `_` and \
         `.`, and begins and ends with a letter or digit"
    )]
    Value(String),
}

impl Labels {
    pub fn parse(labels: BTreeMap<String, String>) -> Result<Self, LabelsError> {
        if labels.len() > MAX_LABELS {
            return Err(LabelsError::TooMany);
        }
        for (key, value) in &labels {
            if !is_key(key) {
                return Err(LabelsError::Key(shortened(key)));
            }
            if !value.is_empty() && !is_name(value) {
                return Err(LabelsError::Value(key.clone()));
            }
        }
        Ok(Self(labels))
    }

    /// Makes labels from stored ones, which were valid when they were stored.
    pub(super) fn stored(labels: BTreeMap<String, String>) -> Self {
        Self(labels)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && is_name(name),
        None => is_name(key),
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && ends_match(name, |byte| byte.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Returns true for a DNS subdomain (RFC 1123) in lower case.
fn is_dns_name(name: &str) -> bool {
    let label_ok = |label: &str| {
        ends_match(label, |byte| byte != b'-')
            && label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    name.len() <= MAX_PREFIX && name.split('.').all(label_ok)
}

/// Returns true when the first and the last byte match; an empty text has neither.
fn ends_match(text: &str, matches: impl Fn(u8) -> bool) -> bool {
    match (text.as_bytes().first(), text.as_bytes().last()) {
        (Some(first), Some(last)) => matches(*first) && matches(*last),
        _ => false,
    }
}

/// Returns the beginning of an invalid key, so that a refusal does not repeat a long text.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Result<Labels, LabelsError> {
        Labels::parse(BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn keys_and_values_follow_the_rules_of_kubernetes() {
        let longest = format!("{}/{}", ["a"; 127].join("."), "n".repeat(63));
        for key in ["a", "A.b_c-1", "example.com/owner", "x/Y", &longest] {
            for value in ["", "v", "V.1_2-3", &"v".repeat(63)] {
                assert!(one(key, value).is_ok(), "{key} {value}");
            }
        }
        let too_long = format!("{}a/n", "a.".repeat(127));
        for key in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "-a",
            "a-",
            "a b",
            "é",
            "EXAMPLE.com/a",
            "a..b/c",
            "-a.b/c",
            &too_long,
            &"n".repeat(64),
        ] {
            assert!(matches!(one(key, "v"), Err(LabelsError::Key(_))), "{key}");
        }
        for value in ["-", "a/b", " ", "a\n", &"v".repeat(64)] {
            assert_eq!(
                one("k", value),
                Err(LabelsError::Value("k".to_owned())),
                "{value}"
            );
        }
    }

    #[test]
    fn more_than_32_labels_are_refused_and_a_refusal_is_short() {
        let many = |count: usize| (0..count).map(|number| (format!("k{number}"), String::new()));
        assert!(Labels::parse(many(32).collect()).is_ok());
        assert_eq!(Labels::parse(many(33).collect()), Err(LabelsError::TooMany));
        assert!(one(&"n".repeat(10_000), "").unwrap_err().to_string().len() < 300);
    }
}
