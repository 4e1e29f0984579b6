//! Names of query parameters and of form fields, compared as the servers that read names most freely read them.

use crate::json_pointer::fold;

/// The name of a query parameter or of a form field.
///
/// Servers do not agree on the spellings of a name. Two names count as the same one when some common server reads them
/// as the same one:
///
/// - `+`, `%2B`-style escapes and the `%u002B` style of IIS are decoded, once.
/// - Characters of UTF-8 are compared without case (ASP.NET), under the folding of [`fold`]. Other bytes stay as they are.
/// - A name ends before its first `[`, because `a[b]` is an entry of `a` (PHP, Rails, qs). Brackets before the name and a
///   `]` behind it do not count: `[a]` is `a` (qs, Rack up to version 2), and so is `a]` (Rack).
/// - `.`, a space and `_` are the same character, as is a `[` that nothing closes, and leading spaces do not count (PHP).
/// - A name ends before its first NUL, where a C string ends (PHP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParameterName {
    /// The decoded and folded name.
    folded: Vec<u8>,
}

impl ParameterName {
    /// Returns the name that is written as plain text, such as in a server's settings.
    pub(crate) fn plain(name: &str) -> Self {
        Self::decoded(name.as_bytes())
    }

    /// Returns the name that is written in the encoding of a query or of a form.
    pub(crate) fn encoded(name: &[u8]) -> Self {
        Self::decoded(&decode(name))
    }

    /// Returns the name that [`decode`] has returned.
    pub(crate) fn decoded(name: &[u8]) -> Self {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let start = name.iter().position(|byte| *byte != b' ');
        let name = start.and_then(|start| name.get(start..)).unwrap_or_default();
        let mut folded = Vec::with_capacity(name.len());
        for chunk in name.utf8_chunks() {
            let text: String = fold::folded(chunk.valid().chars()).collect();
            folded.extend(text.bytes().map(|byte| match byte {
                b'.' | b' ' => b'_',
                other => other,
            }));
            folded.extend_from_slice(chunk.invalid());
        }
        Self { folded }
    }

    /// Returns true when a server may read both names as the same one.
    pub(crate) fn compares_equal(&self, other: &Self) -> bool {
        self.before_bracket() == other.before_bracket()
            || self.with_open_brackets().eq(other.with_open_brackets())
    }

    fn before_bracket(&self) -> &[u8] {
        let mut words = self.folded.split(|byte| matches!(byte, b'[' | b']'));
        words.find(|word| !word.is_empty()).unwrap_or_default()
    }

    fn with_open_brackets(&self) -> impl Iterator<Item = u8> {
        self.folded.iter().map(|byte| match byte {
            b'[' => b'_',
            other => *other,
        })
    }
}

/// Splits a query or a form at `&` and `;`, and returns the fields whose names are none of `owned`, byte for byte. Each
/// field has the separator before it, except the first one that is returned.
pub(crate) fn without_names<'t>(text: &'t [u8], owned: &[ParameterName]) -> impl Iterator<Item = &'t [u8]> {
    let mut is_first = true;
    fields(text).filter_map(move |DelimitedField { separator, field }| {
        let name = field_name(field);
        if owned.iter().any(|owned| owned.compares_equal(&name)) {
            return None;
        }
        let kept = if is_first { field } else { separator };
        is_first = false;
        Some(kept)
    })
}

/// Returns the name of a field, which ends before the first `=`.
fn field_name(field: &[u8]) -> ParameterName {
    ParameterName::encoded(field.split(|byte| *byte == b'=').next().unwrap_or_default())
}

/// A field with and without the separator before it.
struct DelimitedField<'t> {
    separator: &'t [u8],
    field: &'t [u8],
}

fn fields(text: &[u8]) -> impl Iterator<Item = DelimitedField<'_>> {
    let mut start = Some(0);
    std::iter::from_fn(move || {
        let from = start?;
        let rest = text.get(from..)?;
        let length = rest.iter().position(|byte| matches!(byte, b'&' | b';'));
        start = length.map(|length| from + length + 1);
        let end = from + length.unwrap_or(rest.len());
        Some(DelimitedField {
            separator: text.get(from.saturating_sub(1)..end)?,
            field: text.get(from..end)?,
        })
    })
}

/// Decodes a name in the encoding of a query or of a form. An escape that is none stands for itself.
pub(crate) fn decode(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, behind)) = rest.split_first() {
        if let Some((char, behind)) = unicode_escape(rest) {
            decoded.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            rest = behind;
            continue;
        }
        let (byte, behind) = match rest {
            [b'+', ..] => (b' ', behind),
            [b'%', high, low, behind @ ..] if let Some(byte) = hex_pair(*high, *low) => (byte, behind),
            _ => (*first, behind),
        };
        decoded.push(byte);
        rest = behind;
    }
    decoded
}

/// Decodes an escape of IIS at the beginning of `text`, or two of them that are a surrogate pair.
fn unicode_escape(text: &[u8]) -> Option<(char, &[u8])> {
    let (first, behind) = code_unit(text)?;
    if let Some(char) = char::from_u32(first.into()) {
        return Some((char, behind));
    }
    let pair = code_unit(behind).and_then(|(second, behind)| {
        let char = char::decode_utf16([first, second]).next()?;
        Some((char.ok()?, behind))
    });
    Some(pair.unwrap_or((char::REPLACEMENT_CHARACTER, behind)))
}

fn code_unit(text: &[u8]) -> Option<(u16, &[u8])> {
    let [b'%', b'u' | b'U', a, b, c, d, behind @ ..] = text else {
        return None;
    };
    let unit = u16::from_be_bytes([hex_pair(*a, *b)?, hex_pair(*c, *d)?]);
    Some((unit, behind))
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work_growth::{assert_linear, repeated};

    fn matches(owned: &str, sent: &str) -> bool {
        ParameterName::plain(owned).compares_equal(&ParameterName::encoded(sent.as_bytes()))
    }

    #[test]
    fn every_spelling_of_a_name_compares_equal() {
        for (owned, spellings) in [
            (
                "token",
                "token TOKEN t%6Fken %54oken tok%65n token[] token[a] token%5Ba%5D token%00x +token %20token",
            ),
            ("token", "%u0074oken %U0054oken tok%u0065n"),
            (
                "api_key",
                "api_key api.key api+key api%20key api%2ekey api[key API_KEY api_key[0] api%5Fkey",
            ),
            ("api key", "api_key api+key"),
            (
                "token",
                "[token] [token][a] %5Btoken%5D [token [[token]] token] token][a] +[TOKEN]",
            ),
            ("a[b]", "a a[b] a[c] a%5b"),
            (
                "schl\u{fc}ssel",
                "schl%C3%BCssel schl%c3%bcssel[] SCHL%C3%9CSSEL Schl%u00FCssel",
            ),
            (
                "key",
                "%E2%84%AAey \u{212a}ey %u212Aey KE%59 %E2%84%AAey[a] ke%CC%87y",
            ),
            (
                "session",
                "%C5%BFession \u{17f}e\u{17f}sion %u017Fession se\u{df}ion SE%E1%BA%9EION",
            ),
            ("api_key", "ap\u{131}.key AP%C4%B0_KEY ap%u0131+%e2%84%aaey"),
            ("stra\u{df}e", "STRASSE stra%E1%BA%9Ee"),
            ("\u{1f511}", "%F0%9F%94%91 %uD83D%uDD11"),
        ] {
            for spelled in spellings.split(' ') {
                assert!(matches(owned, spelled), "{owned} {spelled}");
            }
        }
    }

    #[test]
    fn other_names_do_not_compare_equal() {
        for (owned, others) in [
            (
                "token",
                "tok toke tokens token_ xtoken to%2560ken token%20 t%o6ken [a]token a[token] to%2Bken %74oke",
            ),
            ("api_key", "apikey api-key api__key api%255Fkey"),
            (
                "key",
                "%AAey %FFkey k%C3%A9y %84key key%E2 %uD83Dkey %uD83D%u0020key %u+06Bey %u212ey",
            ),
            ("", "a"),
        ] {
            for other in others.split(' ') {
                assert!(!matches(owned, other), "{owned} {other}");
            }
        }
        assert!(matches("", ""), "a field without a name");
    }

    fn remaining(text: &str, owned: &[&str]) -> String {
        let owned: Vec<_> = owned.iter().map(|name| ParameterName::plain(name)).collect();
        let kept: Vec<_> = without_names(text.as_bytes(), &owned).collect();
        String::from_utf8(kept.concat()).unwrap()
    }

    #[test]
    fn only_the_owned_fields_are_removed() {
        for (text, left) in [
            ("", ""),
            ("token=x", ""),
            ("token", ""),
            ("a=1&token=x&b=2", "a=1&b=2"),
            ("token=x&a=1", "a=1"),
            ("a=1&token=x", "a=1"),
            ("a=1;token=x;b=2", "a=1;b=2"),
            ("a=1&b=2;token=x", "a=1&b=2"),
            ("Token=1&to%6ben=2&token[x]=3&KEY=4", ""),
            ("&&a&&", "&&a&&"),
            ("a=token&b=%zz&c=%F0&d==&=&", "a=token&b=%zz&c=%F0&d==&=&"),
            ("a=1&&token=x&&b=2", "a=1&&&b=2"),
        ] {
            assert_eq!(remaining(text, &["token", "key"]), left, "{text}");
        }
    }

    #[test]
    fn the_work_for_a_query_grows_with_its_length_only() {
        let owned: Vec<_> = ["token", "a[b]", "api key"].map(ParameterName::plain).into();
        for again in [
            "=", "&", "a&", ";=", "[", "]", "[&", "%5B", ".", "%", "%u", "%u00", "\u{307}", "\u{212a}",
        ] {
            assert_linear(
                again,
                |length| repeated("a", again, length),
                |query| without_names(query, &owned).map(<[u8]>::len).sum::<usize>(),
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn without_owned_names_nothing_changes(text in "[a-z&;=%+\\[]{0,40}") {
            assert_eq!(remaining(&text, &[]), text);
            assert_eq!(remaining(&text, &["TOKEN"]), text);
        }

        #[test]
        fn a_name_compares_equal_to_each_of_its_encodings(name in "\\PC{1,12}", lower in proptest::prelude::any::<bool>()) {
            let encoded: String = name.bytes().map(|byte| match lower {
                true => format!("%{byte:02x}"),
                false => format!("%{byte:02X}"),
            }).collect();
            assert!(matches(&name, &encoded));
        }
    }
}
