//! Names of secrets, and the one rule that normalizes them.

use std::{collections::HashSet, fmt, sync::Arc};

/// Maximum number of characters of a secret's name.
pub const MAX_LENGTH: usize = 128;

/// A normalized secret name: 1 to 128 of `A-Z`, `0-9` and `_`, at least one of them a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(Arc<str>);

/// The text is not the name of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretNameError {
    /// The text is empty.
    #[error("a secret's name must not be empty")]
    Empty,
    /// The text has more than 128 characters.
    #[error("a secret's name has at most {MAX_LENGTH} characters")]
    TooLong,
    /// The normalized name would consist of `_` only.
    #[error("a secret's name needs at least one ASCII letter or digit")]
    NoLetterOrDigit,
    /// `NAME=VALUE` was given, so the text probably contains a value. The message must not repeat the text.
    #[error(
        "a secret's name must not contain `=`: give the name alone, such as GITHUB_TOKEN, and the value apart from it"
    )]
    EqualsSign,
}

impl SecretName {
    /// Normalizes and checks a name. No other code does so.
    ///
    /// ASCII letters become upper case, then every Unicode scalar that is not `A-Z`, `0-9` or `_` becomes one `_`. A text
    /// with a `=` is refused before anything else: it is `NAME=VALUE`, and the value would show in every list of names.
    pub fn parse(text: &str) -> Result<Self, SecretNameError> {
        if text.is_empty() {
            return Err(SecretNameError::Empty);
        }
        if text.contains('=') {
            return Err(SecretNameError::EqualsSign);
        }
        // Each scalar becomes one byte, so the number of scalars is the length of the normalized name. A scalar has at most
        // four bytes of UTF-8, so longer texts need not be counted.
        if text.len() > 4 * MAX_LENGTH || text.chars().count() > MAX_LENGTH {
            return Err(SecretNameError::TooLong);
        }
        let name: String = text.chars().map(normalize).collect();
        if !name.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
            return Err(SecretNameError::NoLetterOrDigit);
        }
        Ok(Self(name.into()))
    }

    /// Returns the normalized name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn normalize(scalar: char) -> char {
    match scalar.to_ascii_uppercase() {
        upper @ ('A'..='Z' | '0'..='9' | '_') => upper,
        _ => '_',
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A list contains two names that normalize to the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is named more than once (names that normalize to the same name are the same secret)")]
pub struct DuplicateName(pub SecretName);

/// Returns `names` when all of them are different.
pub fn distinct(names: Vec<SecretName>) -> Result<Vec<SecretName>, DuplicateName> {
    let mut seen = HashSet::with_capacity(names.len());
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(twice) => Err(DuplicateName(twice.clone())),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalized_as_documented() {
        for (given, normalized) in [
            ("github-token", "GITHUB_TOKEN"),
            ("GITHUB_TOKEN", "GITHUB_TOKEN"),
            ("my.api.key", "MY_API_KEY"),
            ("SlackWebhook", "SLACKWEBHOOK"),
            ("a..b", "A__B"),
            ("9lives", "9LIVES"),
            ("caf\u{e9}", "CAF_"),
            ("cafe\u{301}", "CAFE_"),
            ("a🔑b", "A_B"),
            ("a\r\nb", "A__B"),
            ("../a", "___A"),
            ("%2e", "_2E"),
            ("\u{131}x", "_X"),
            ("ſx", "_X"),
        ] {
            assert_eq!(
                SecretName::parse(given).unwrap().as_str(),
                normalized,
                "{given:?}"
            );
        }
    }

    #[test]
    fn names_without_a_letter_or_digit_are_refused() {
        for name in ["_", "..", "/", "\0", "\r\n", "🔑", "é", "\u{202e}"] {
            assert_eq!(
                SecretName::parse(name),
                Err(SecretNameError::NoLetterOrDigit),
                "{name:?}"
            );
        }
        assert_eq!(SecretName::parse(""), Err(SecretNameError::Empty));
    }

    #[test]
    fn a_name_with_its_value_is_refused_without_repeating_the_value() {
        for text in [
            "GITHUB_TOKEN=ghp_abc",
            "A=",
            "=ghp_abc",
            "=",
            &format!("A={}", "x".repeat(1 << 20)),
        ] {
            let error = SecretName::parse(text).unwrap_err();
            assert_eq!(error, SecretNameError::EqualsSign);
            assert!(!error.to_string().contains("ghp_abc"));
        }
    }

    #[test]
    fn the_limit_counts_characters() {
        assert!(SecretName::parse(&"x".repeat(128)).is_ok());
        assert!(SecretName::parse(&format!("a{}", "🔑".repeat(127))).is_ok());
        for long in [
            "x".repeat(129),
            "x".repeat(1 << 20),
            format!("a{}", "🔑".repeat(128)),
        ] {
            assert_eq!(SecretName::parse(&long), Err(SecretNameError::TooLong));
        }
    }

    #[test]
    fn a_list_with_two_spellings_of_one_name_is_refused() {
        let names = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| SecretName::parse(text).unwrap())
                .collect()
        };
        assert!(distinct(names(&["a", "b"])).is_ok());
        let DuplicateName(twice) = distinct(names(&["github-token", "x", "GITHUB.TOKEN"])).unwrap_err();
        assert_eq!(twice.as_str(), "GITHUB_TOKEN");
    }

    proptest::proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(text in ".{1,140}") {
            if let Ok(name) = SecretName::parse(&text) {
                assert_eq!(SecretName::parse(name.as_str()).unwrap(), name);
            }
        }
    }
}
