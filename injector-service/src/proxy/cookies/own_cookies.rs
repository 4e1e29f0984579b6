//! The cookies that the injector puts into the requests of a server, and the names under which servers read them.

use super::white_space::{trimmed, without_white_start, words};
use crate::{
    inject::parameter_name::{self, ParameterName},
    placement::{Injection, Placement},
};

/// The names of the cookies that the injector puts into the requests of a server.
pub(super) struct OwnCookies(Vec<ParameterName>);

impl OwnCookies {
    pub(super) fn of(injections: &[Injection]) -> Self {
        injections
            .iter()
            .filter_map(|injection| match &injection.placement {
                Placement::Cookie { name, value: _ } => Some(name.as_str()),
                Placement::Header { .. }
                | Placement::Basic { .. }
                | Placement::Query { .. }
                | Placement::Path { .. }
                | Placement::Json { .. }
                | Placement::Form { .. }
                | Placement::Protobuf { .. } => None,
            })
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true when a server may read one of these cookies in `pair`, the text between two `;`.
    pub(super) fn are_in(&self, pair: &[u8]) -> bool {
        !self.is_empty() && (self.are_named_by(pair) || names(pair).any(|name| self.include(name)))
    }

    /// Returns true when a server may read one of these names as the name of the cookie `pair`.
    pub(super) fn are_named_by(&self, pair: &[u8]) -> bool {
        self.include(whole_name(pair))
    }

    fn include(&self, name: &[u8]) -> bool {
        let decoded = parameter_name::decode(name);
        let names = [decoded.as_slice(), trimmed(&decoded)].map(ParameterName::decoded);
        let is_read = |own: &ParameterName| names.iter().any(|name| own.compares_equal(name));
        self.0.iter().any(is_read)
    }
}

impl<'n> FromIterator<&'n str> for OwnCookies {
    fn from_iter<I: IntoIterator<Item = &'n str>>(names: I) -> Self {
        Self(names.into_iter().map(ParameterName::plain).collect())
    }
}

/// Returns the name of a cookie. Some servers ignore a `=` at its beginning.
fn whole_name(pair: &[u8]) -> &[u8] {
    let mut pair = trimmed(pair);
    while let Some(rest) = pair.strip_prefix(b"=") {
        pair = without_white_start(rest);
    }
    trimmed(pair.split(|byte| *byte == b'=').next().unwrap_or_default())
}

/// Returns the name in each word of a cookie. Most servers end a cookie at a `;` only, but some end it at a space, a comma
/// or a quotation mark too, so a name counts wherever a server may begin to read.
///
/// No name contains a `=`, so a word has one name, and the names are together no longer than twice the cookie. The names
/// before every `=` would together have as many bytes as the square of the cookie's length.
fn names(pair: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut last: &[u8] = &[];
    words(pair).flat_map(move |word| {
        let before = std::mem::replace(&mut last, word);
        // White space may separate a name from its `=`.
        let separated = word.starts_with(b"=").then_some(before);
        let mut parts = word
            .split(|byte| *byte == b'=')
            .skip_while(|part| part.is_empty());
        let name = parts.next().filter(|_| parts.next().is_some());
        separated.into_iter().chain(name)
    })
}
