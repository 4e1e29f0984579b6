//! Puts fields into a form: a body of the type `application/x-www-form-urlencoded`.
//!
//! ```text
//! fields  token
//! in      a=1&Token=spoofed&b=%7e
//! out     a=1&b=%7e&token=ghp_…
//! ```
//!
//! Every field that a server may read as one of ours is removed ([`ParameterName`]). Ours come last. No other byte changes.

use zeroize::Zeroizing;

use super::parameter_name::{ParameterName, without_names};

/// The fields that go into one form. A field without a value is removed from the form and not put in.
pub struct FormFields {
    owned: Vec<ParameterName>,
    /// `name=value`, encoded: plaintext, which is wiped on drop.
    fields: Vec<Zeroizing<Vec<u8>>>,
}

impl FormFields {
    /// Takes the names as plain text, and the pieces of each value that exists.
    pub fn new<'f>(fields: impl IntoIterator<Item = (&'f str, Option<Vec<&'f str>>)>) -> Self {
        let (mut owned, mut encoded) = (Vec::new(), Vec::new());
        for (name, value) in fields {
            owned.push(ParameterName::plain(name));
            encoded.extend(value.map(|pieces| encode_field(name, &pieces)));
        }
        Self {
            owned,
            fields: encoded,
        }
    }

    /// Returns `body` with these fields, in a buffer that was never moved.
    pub fn put_into(&self, body: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut len = 0;
        self.write(body, &mut |piece| len += piece.len());
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        self.write(body, &mut |piece| out.extend_from_slice(piece));
        out
    }

    fn write(&self, body: &[u8], sink: &mut impl FnMut(&[u8])) {
        let mut needs_separator = false;
        for field in without_names(body, &self.owned) {
            needs_separator |= !field.is_empty();
            sink(field);
        }
        for field in &self.fields {
            if needs_separator {
                sink(b"&");
            }
            sink(field);
            needs_separator = true;
        }
    }
}

fn encode_field(name: &str, value: &[&str]) -> Zeroizing<Vec<u8>> {
    let write = |sink: &mut dyn FnMut(&[u8])| {
        percent_encode(name, sink);
        sink(b"=");
        value.iter().for_each(|piece| percent_encode(piece, sink));
    };
    let mut len = 0;
    write(&mut |piece| len += piece.len());
    // The buffer gets its exact size at once, because a buffer that grows leaves unwiped copies behind.
    let mut field = Zeroizing::new(Vec::with_capacity(len));
    write(&mut |piece| field.extend_from_slice(piece));
    field
}

/// Percent-encodes everything but the unreserved characters (RFC 3986, section 2.3). A space is `%20`, which every server
/// decodes.
fn percent_encode(text: &str, sink: &mut dyn FnMut(&[u8])) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => sink(&[byte]),
            _ => sink(&[b'%', hex_digit(byte >> 4), hex_digit(byte & 0x0F)]),
        }
    }
}

fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'A' + (nibble - 10),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use url::form_urlencoded;

    use super::*;

    fn put(fields: &[(&str, Option<&str>)], body: &str) -> String {
        let fields = fields
            .iter()
            .map(|(name, value)| (*name, value.map(|value| vec![value])));
        let out = FormFields::new(fields).put_into(body.as_bytes());
        assert_eq!(
            out.capacity(),
            out.len(),
            "the buffer has grown, or is larger than needed"
        );
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn fields_are_put_last_and_replace_what_was_sent() {
        for (body, expected) in [
            ("", "token=v"),
            ("a=1", "a=1&token=v"),
            ("a=1&b=%7e&c=+&d", "a=1&b=%7e&c=+&d&token=v"),
            ("token=spoofed", "token=v"),
            ("TOKEN=1&a=1&to%6ben=2&token[]=3", "a=1&token=v"),
            ("a=1&", "a=1&&token=v"),
        ] {
            assert_eq!(put(&[("token", Some("v"))], body), expected, "{body}");
        }
        assert_eq!(
            put(&[("a", Some("1")), ("b", Some("2"))], "c=3&A=x"),
            "c=3&a=1&b=2"
        );
    }

    #[test]
    fn a_field_without_a_value_is_removed_only() {
        let fields = [("token", None), ("user", Some("me"))];
        assert_eq!(put(&fields, "token=x&a=1"), "a=1&user=me");
        assert_eq!(put(&fields[..1], "a=1&token=x"), "a=1");
        assert_eq!(put(&fields[..1], "token=x"), "");
    }

    #[test]
    fn names_and_values_are_percent_encoded() {
        let encoded = put(&[("my key", Some("a b+c&d=e;\u{e9}%~-._\n"))], "");
        assert_eq!(encoded, "my%20key=a%20b%2Bc%26d%3De%3B%C3%A9%25~-._%0A");
        let pieces = FormFields::new([("t", Some(vec!["Bearer ", "x&y"]))]).put_into(b"");
        assert_eq!(*pieces, b"t=Bearer%20x%26y");
    }

    fn pair() -> impl Strategy<Value = (String, String)> {
        let name = prop_oneof![
            Just("token".to_owned()),
            Just("ToKen".to_owned()),
            "[a-z.&=;\\[ é]{0,6}"
        ];
        (name, ".{0,8}")
    }

    proptest! {
        #[test]
        fn another_parser_finds_ours_and_all_others(pairs in vec(pair(), 0..8), value in any::<String>()) {
            let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
            let out = put(&[("token", Some(&value))], &body);
            let read: Vec<(String, String)> = form_urlencoded::parse(out.as_bytes()).into_owned().collect();
            let is_ours = |name: &str| {
                let mut words = name.trim_start_matches(' ').split(['[', ']']);
                words.find(|word| !word.is_empty()).is_some_and(|word| word.eq_ignore_ascii_case("token"))
            };
            let mut expected: Vec<_> = pairs.into_iter().filter(|(name, _)| !is_ours(name)).collect();
            expected.push(("token".to_owned(), value));
            prop_assert_eq!(read, expected);
        }
    }
}
