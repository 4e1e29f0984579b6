use thiserror::Error;
use zeroize::Zeroizing;

/// The bytes of the value of our member, e.g. `{"GITHUB_TOKEN":"ghp_…"}`: plaintext, wiped on drop.
pub struct SecretsObject(Zeroizing<Vec<u8>>);

/// The value of this secret is not UTF-8, so JSON cannot hold it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the value of secret {name} is not UTF-8 and cannot stand in JSON")]
pub struct ValueNotUtf8 {
    /// Which secret; its value stays out of this error.
    pub name: String,
}

impl SecretsObject {
    /// Members come in the order given. Names are expected to be distinct.
    pub fn new<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, ValueNotUtf8> {
        let entries = entries.into_iter().map(utf8).collect::<Result<Vec<_>, _>>()?;
        let mut len = 0;
        spell(&entries, &mut |piece| len += piece.len());
        // Exactly what is needed: a buffer that grew would leave its old self behind, unwiped.
        let mut object = Zeroizing::new(Vec::with_capacity(len));
        spell(&entries, &mut |piece| object.extend_from_slice(piece));
        Ok(Self(object))
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

fn utf8<'a>((name, value): (&'a str, &'a [u8])) -> Result<(&'a str, &'a str), ValueNotUtf8> {
    let value = std::str::from_utf8(value).map_err(|_| ValueNotUtf8 {
        name: name.to_owned(),
    })?;
    Ok((name, value))
}

/// Both the measuring and the writing go through here, so they cannot disagree.
fn spell(entries: &[(&str, &str)], sink: &mut impl FnMut(&[u8])) {
    sink(b"{");
    for (index, (name, value)) in entries.iter().enumerate() {
        if index > 0 {
            sink(b",");
        }
        spell_string(name, sink);
        sink(b":");
        spell_string(value, sink);
    }
    sink(b"}");
}

fn spell_string(text: &str, sink: &mut impl FnMut(&[u8])) {
    sink(b"\"");
    for run in text.as_bytes().split_inclusive(|&byte| must_escape(byte)) {
        match run.split_last() {
            Some((&last, plain)) if must_escape(last) => {
                sink(plain);
                spell_escape(last, sink);
            }
            _ => sink(run),
        }
    }
    sink(b"\"");
}

fn must_escape(byte: u8) -> bool {
    matches!(byte, 0x00..=0x1F | b'"' | b'\\')
}

fn spell_escape(byte: u8, sink: &mut impl FnMut(&[u8])) {
    match byte {
        b'\n' => sink(b"\\n"),
        b'\r' => sink(b"\\r"),
        b'\t' => sink(b"\\t"),
        b'"' | b'\\' => sink(&[b'\\', byte]),
        _ => sink(&[
            b'\\',
            b'u',
            b'0',
            b'0',
            b'0' + (byte >> 4),
            hex_digit(byte & 0x0F),
        ]),
    }
}

fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + (nibble - 10),
    }
}

#[cfg(test)]
mod tests {
    use super::SecretsObject;

    fn spelled(entries: &[(&str, &[u8])]) -> String {
        let object = SecretsObject::new(entries.iter().copied()).expect("UTF-8");
        assert_eq!(
            object.0.capacity(),
            object.0.len(),
            "the buffer has grown, or is larger than needed"
        );
        String::from_utf8(object.expose().to_vec()).expect("UTF-8")
    }

    #[test]
    fn members_stand_in_the_order_given() {
        assert_eq!(spelled(&[]), "{}");
        assert_eq!(spelled(&[("B", b"2"), ("A", b"")]), r#"{"B":"2","A":""}"#);
    }

    #[test]
    fn only_what_json_wants_escaped_is_escaped() {
        assert_eq!(
            spelled(&[("A", b"\"\\/\n\r\t\0\x08\x0C\x1F\x7F")]),
            "{\"A\":\"\\\"\\\\/\\n\\r\\t\\u0000\\u0008\\u000c\\u001f\x7F\"}"
        );
        assert_eq!(spelled(&[("A", "né€🔑".as_bytes())]), r#"{"A":"né€🔑"}"#);
        assert_eq!(spelled(&[("A", b"x\"}, \"B\":{")]), r#"{"A":"x\"}, \"B\":{"}"#);
    }

    #[test]
    fn a_value_that_is_not_utf8_is_refused_by_name_only() {
        let refused = SecretsObject::new([("A", b"fine".as_slice()), ("B", b"hush\xFF")])
            .err()
            .expect("not UTF-8");
        assert_eq!(
            refused.to_string(),
            "the value of secret B is not UTF-8 and cannot stand in JSON"
        );
        assert!(!format!("{refused:?}").contains("hush"));
    }
}
