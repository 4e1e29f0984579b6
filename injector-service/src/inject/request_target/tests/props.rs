use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// Reads a name as the most tolerant server reads it, in steps of its own, so that the test does not share code with
/// [`ParameterName`]. Returns the first word of the name outside of brackets or in brackets.
fn tolerant(parameter: &str) -> String {
    let name = parameter.split('=').next().unwrap_or_default().replace('+', " ");
    let mut decoded: Vec<u8> = Vec::new();
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let escape = |from: usize| {
            let digits = name.get(from..from + 2)?;
            digits
                .bytes()
                .all(|digit| digit.is_ascii_hexdigit())
                .then(|| u8::from_str_radix(digits, 16).unwrap())
        };
        let unicode = name
            .get(at..at + 4)
            .is_some_and(|text| text.eq_ignore_ascii_case("%u00"));
        match (bytes[at], escape(at + 1), escape(at + 4)) {
            (b'%', Some(byte), _) => {
                decoded.push(byte);
                at += 3;
            }
            (b'%', None, Some(byte)) if unicode => {
                decoded.push(byte);
                at += 6;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    let text = String::from_utf8_lossy(&decoded).to_ascii_lowercase();
    let text = text.trim_start_matches(' ').replace(['.', ' '], "_");
    let text = text.split('\0').next().unwrap_or_default();
    text.split(['[', ']'])
        .find(|word| !word.is_empty())
        .unwrap_or_default()
        .to_owned()
}

/// A spelling of one character of a name.
#[derive(Debug, Clone, Copy)]
enum Spelling {
    Plain,
    Upper,
    Escaped,
    EscapedUpper,
    Unicode,
}

fn spell(name: &str, spellings: &[Spelling], space: &str, suffix: &str) -> String {
    let mut spelled = String::new();
    for (char, spelling) in name.chars().zip(spellings.iter().cycle()) {
        let code = u32::from(char);
        match spelling {
            _ if char == '_' => spelled.push_str(space),
            Spelling::Plain => spelled.push(char),
            Spelling::Upper => spelled.push(char.to_ascii_uppercase()),
            Spelling::Escaped => spelled.push_str(&format!("%{code:02x}")),
            Spelling::EscapedUpper => {
                spelled.push_str(&format!("%{:02X}", u32::from(char.to_ascii_uppercase())));
            }
            Spelling::Unicode => spelled.push_str(&format!("%u{code:04x}")),
        }
    }
    spelled + suffix
}

fn spellings() -> impl Strategy<Value = Vec<Spelling>> {
    use Spelling::{Escaped, EscapedUpper, Plain, Unicode, Upper};
    vec(select(vec![Plain, Upper, Escaped, EscapedUpper, Unicode]), 1..12)
}

proptest! {
    /// The program's parameters with owned names disappear in every spelling, and its other parameters arrive byte for
    /// byte and in order.
    #[test]
    fn owned_parameters_never_remain_and_others_stay(
        owned in "[a-z][a-z_]{0,6}",
        spellings in spellings(),
        space in select(vec!["_", ".", "+", "%20", "%2e", "%5F"]),
        suffix in select(vec!["", "[]", "[a]", "%5Bx%5D", "[", "%00"]),
        before in select(vec!["", "+", "%20", "[", "%5B", "+["]),
        others in vec("[a-zA-Z0-9%+=._/?-]{0,12}", 0..6),
        places in vec(any::<prop::sample::Index>(), 0..4),
        separators in vec(select(vec!["&", ";"]), 10),
        is_present in any::<bool>(),
    ) {
        let spelled = format!("{before}{}=evil", spell(&owned, &spellings, space, suffix));
        // PHP reads an open bracket as `_`, which `tolerant` does not.
        let others = others.into_iter().filter(|other| !["5b", "5d"].iter().any(|code| other.to_ascii_lowercase().contains(code)));
        let others: Vec<String> = others.filter(|other| tolerant(other) != tolerant(&owned)).collect();
        let mut parameters = others.clone();
        for place in &places {
            parameters.insert(place.index(parameters.len() + 1), spelled.clone());
        }
        let mut query = String::new();
        for (at, parameter) in parameters.iter().enumerate() {
            if at > 0 {
                query.push_str(separators[at % separators.len()]);
            }
            query.push_str(parameter);
        }
        let value = is_present.then_some("value");
        let target = sent("/x", "", &format!("?{query}"), &[(&owned, value)]);
        let left = target.strip_prefix("/x").unwrap();
        let left = left.strip_prefix('?').unwrap_or(left);
        let left = match is_present {
            true => left.strip_prefix(&format!("{owned}=value")).unwrap(),
            false => left,
        };
        let left = match is_present {
            true => left.strip_prefix('&').unwrap_or(left),
            false => left,
        };
        for parameter in left.split(['&', ';']) {
            prop_assert!(left.is_empty() || tolerant(parameter) != tolerant(&owned), "{query} {target}");
        }
        let remaining: Vec<_> = left.split(['&', ';']).filter(|parameter| !parameter.is_empty()).collect();
        let expected: Vec<_> = others.iter().filter(|parameter| !parameter.is_empty()).collect();
        prop_assert_eq!(remaining, expected, "{} {}", query, target);
    }

    /// The shown target differs from the secret one in the values only, and contains none of their bytes.
    #[test]
    fn the_shown_target_has_the_length_of_the_secret_one(
        value in "[A-Za-z0-9~%-]{1,40}",
        rest in "(/[a-z]{0,5}){0,3}(\\?[a-z&=]{0,9})?",
    ) {
        let (shown, secret) = joined("/a${T}b", "v=1", &rest, &[("T", &value)], &[("key", Some(&value))]).unwrap();
        let secret = secret.unwrap();
        prop_assert_eq!(shown.len(), secret.len());
        let differs = shown.bytes().zip(secret.bytes()).filter(|(shown, secret)| shown != secret);
        prop_assert!(differs.clone().all(|(shown, _)| shown == b'*'));
        prop_assert_eq!(differs.count(), 2 * value.len());
        prop_assert_eq!(shown.replace(&"*".repeat(value.len()), &value), secret);
    }
}
