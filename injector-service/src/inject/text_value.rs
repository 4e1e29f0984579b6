//! The values of secrets that have to be text.

use thiserror::Error;

/// The value of the secret `name` is not UTF-8, so a JSON string cannot contain the value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the value of secret {name} is not UTF-8")]
pub struct ValueNotUtf8 {
    pub name: String,
}

pub(super) fn text_entries<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Vec<(&'a str, &'a str)>, ValueNotUtf8> {
    let text = |(name, value): (&'a str, &'a [u8])| match str::from_utf8(value) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(ValueNotUtf8 {
            name: name.to_owned(),
        }),
    };
    entries.into_iter().map(text).collect()
}
