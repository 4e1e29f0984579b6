//! Names of members, compared without regard to case.

/// The name of a member, under a case folding that equates at least what some JSON parser equates.
///
/// The folding is the full one of Unicode, and equates all spellings of the letter `i` as well: the dotted `İ` and the
/// dotless `ı` equal `i` in Java (`String.equalsIgnoreCase`) and under Turkish rules. A lone surrogate counts as U+FFFD,
/// which is how most parsers decode it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoldedName(Vec<char>);

impl FoldedName {
    pub(crate) fn new(name: &str) -> Self {
        Self(folded(name.chars()).collect())
    }

    /// Compares with a valid name as it is written in a JSON text, without its quotes.
    pub(crate) fn equals_spelled(&self, spelled: &[u8]) -> bool {
        folded(Unescaped(spelled)).eq(self.0.iter().copied())
    }
}

/// Returns true when a valid name, as it is written in a JSON text without its quotes, is exactly `name`.
pub(crate) fn is_exactly(spelled: &[u8], name: &str) -> bool {
    Unescaped(spelled).eq(name.chars())
}

/// Folds a name without respect to case. Lower case comes first, because the upper case of `ẞ` is the letter itself, and that of its lower case `ß` is `SS`.
/// U+0307 is left out, because the lower case of `İ` is `i` with U+0307.
pub(crate) fn folded(name: impl Iterator<Item = char>) -> impl Iterator<Item = char> {
    name.flat_map(char::to_lowercase)
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .filter(|c| *c != '\u{307}')
}

/// The characters of a valid string, which stands between its quotes.
struct Unescaped<'s>(&'s [u8]);

impl Iterator for Unescaped<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let (decoded, rest) = match self.0 {
            [] => return None,
            [b'\\', b'u', rest @ ..] => utf16_escape(rest),
            [b'\\', escape, rest @ ..] => (short_escape(*escape), rest),
            [byte @ 0x00..=0x7F, rest @ ..] => (char::from(*byte), rest),
            bytes => utf8_character(bytes),
        };
        self.0 = rest;
        Some(decoded)
    }
}

fn short_escape(escape: u8) -> char {
    match escape {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        other => char::from(other),
    }
}

/// Decodes the digits of `\uXXXX`, and of a second such escape when the two are a surrogate pair.
fn utf16_escape(rest: &[u8]) -> (char, &[u8]) {
    let Some((first, after)) = code_unit(rest) else {
        return (char::REPLACEMENT_CHARACTER, &[]);
    };
    let pair = match after {
        [b'\\', b'u', after @ ..] => code_unit(after),
        _ => None,
    };
    let mut alone = char::decode_utf16([first]);
    match (alone.next(), pair) {
        (Some(Ok(c)), _) => (c, after),
        (_, Some((second, behind))) => match char::decode_utf16([first, second]).next() {
            Some(Ok(c)) => (c, behind),
            _ => (char::REPLACEMENT_CHARACTER, after),
        },
        (_, None) => (char::REPLACEMENT_CHARACTER, after),
    }
}

fn code_unit(digits: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = digits.split_first_chunk::<4>()?;
    let digits = std::str::from_utf8(digits).ok()?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

fn utf8_character(bytes: &[u8]) -> (char, &[u8]) {
    let length = match bytes {
        [0xF0..=0xFF, ..] => 4,
        [0xE0..=0xEF, ..] => 3,
        _ => 2,
    };
    let (first, rest) = bytes.split_at(length.min(bytes.len()));
    let decoded = std::str::from_utf8(first)
        .ok()
        .and_then(|text| text.chars().next());
    (decoded.unwrap_or(char::REPLACEMENT_CHARACTER), rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn equal(name: &str, spelled: &str) -> bool {
        FoldedName::new(name).equals_spelled(spelled.as_bytes())
    }

    #[test]
    fn every_spelling_of_a_name_is_equal() {
        for (name, spellings) in [
            (
                "token",
                r"token TOKEN tOKEn to\u212Aen toKen \u0074oken \u0054OKEN",
            ),
            ("secrets", r"secrets ſecretſ \u017Fecrets SECRETS"),
            (
                "api_key",
                r"api_key apı_key APİ_KEY api\u0307_key \u0061P\u0130_Key",
            ),
            ("stra\u{df}e", "straße STRASSE strasse STRAẞE stra\\u1E9Ee"),
            ("\u{1f511}\u{10400}", r"🔑𐐀 🔑𐐨 \ud83d\udd11\uD801\uDC28"),
            ("a/b\"\\\n", r#"a/b\"\\\n A\/B\u0022\u005c\u000A"#),
            ("ﬁﬆ", "fist FIST"),
            ("\u{fffd}", r"\ud800 \uDFFF"),
            ("\u{fffd}a", r"\ud800a \ud800\u0061"),
            ("\u{3c3}", "σ Σ ς"),
        ] {
            for spelled in spellings.split(' ') {
                assert!(equal(name, spelled), "{name} {spelled}");
            }
        }
    }

    #[test]
    fn other_names_are_not_equal() {
        for (name, others) in [
            (
                "token",
                r"toke tokens t\u0000oken tokén token\u0000 \\u0074oken to\\ken",
            ),
            ("a", "ä à а"),
            ("\u{1f511}", r"\ud83d \udd11\ud83d"),
        ] {
            for other in others.split(' ') {
                assert!(!equal(name, other), "{name} {other}");
            }
        }
    }

    #[test]
    fn only_an_exact_name_is_exact() {
        assert!(is_exactly(br"t\u006fken", "token") && is_exactly("ſ".as_bytes(), "ſ"));
        assert!(!is_exactly(b"Token", "token") && !is_exactly(b"toke", "token"));
    }

    /// Go's `strings.EqualFold`, .NET's `OrdinalIgnoreCase` and Java's `equalsIgnoreCase` compare single characters by
    /// one of these mappings.
    #[test]
    fn a_character_equals_its_upper_and_lower_case() {
        for c in char::MIN..=char::MAX {
            let cases = [c.to_uppercase().to_string(), c.to_lowercase().to_string()];
            for other in cases.into_iter().filter(|case| !case.starts_with(c)) {
                assert_eq!(
                    FoldedName::new(&c.to_string()),
                    FoldedName::new(&other),
                    "{c} {other}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_name_is_decoded_as_serde_json_decodes_it(name in any::<String>()) {
            let spelled = serde_json::to_string(&name).unwrap();
            let spelled = spelled.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
            prop_assert!(is_exactly(spelled.as_bytes(), &name));
            let escaped: String = name.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            prop_assert!(is_exactly(escaped.as_bytes(), &name));
        }
    }
}
