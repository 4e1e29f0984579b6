use zeroize::Zeroizing;

use crate::inject::text_value::{ValueNotUtf8, text_entries};

/// The encoded value of the `secrets` member, for example `{"GITHUB_TOKEN":"ghp_…"}`: plaintext, which is wiped on
/// drop.
pub struct SecretsObject(Zeroizing<Vec<u8>>);

impl SecretsObject {
    /// Encodes the members in the given order. The names must be distinct.
    pub fn new<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, ValueNotUtf8> {
        let entries = text_entries(entries)?;
        let mut len = 0;
        write_object(&entries, &mut |piece| len += piece.len());
        // The buffer gets its exact size at once, because a buffer that grows leaves unwiped copies behind.
        let mut object = Zeroizing::new(Vec::with_capacity(len));
        write_object(&entries, &mut |piece| object.extend_from_slice(piece));
        Ok(Self(object))
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Writes the object to `sink`. [`SecretsObject::new`] uses this function to measure the object and then to write it.
fn write_object(entries: &[(&str, &str)], sink: &mut impl FnMut(&[u8])) {
    sink(b"{");
    for (index, (name, value)) in entries.iter().enumerate() {
        if index > 0 {
            sink(b",");
        }
        write_string(name, sink);
        sink(b":");
        write_string(value, sink);
    }
    sink(b"}");
}

fn write_string(text: &str, sink: &mut impl FnMut(&[u8])) {
    sink(b"\"");
    for run in text.as_bytes().split_inclusive(|&byte| must_escape(byte)) {
        match run.split_last() {
            Some((&last, plain)) if must_escape(last) => {
                sink(plain);
                write_escape(last, sink);
            }
            _ => sink(run),
        }
    }
    sink(b"\"");
}

fn must_escape(byte: u8) -> bool {
    matches!(byte, 0x00..=0x1F | b'"' | b'\\')
}

fn write_escape(byte: u8, sink: &mut impl FnMut(&[u8])) {
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

    fn encoded(entries: &[(&str, &[u8])]) -> String {
        let object = SecretsObject::new(entries.iter().copied()).expect("UTF-8");
        assert_eq!(
            object.0.capacity(),
            object.0.len(),
            "the buffer has grown, or is larger than needed"
        );
        String::from_utf8(object.expose().to_vec()).expect("UTF-8")
    }

    #[test]
    fn members_have_the_given_order() {
        assert_eq!(encoded(&[]), "{}");
        assert_eq!(encoded(&[("B", b"2"), ("A", b"")]), r#"{"B":"2","A":""}"#);
    }

    #[test]
    fn only_necessary_escapes_are_written() {
        assert_eq!(
            encoded(&[("A", b"\"\\/\n\r\t\0\x08\x0C\x1F\x7F")]),
            "{\"A\":\"\\\"\\\\/\\n\\r\\t\\u0000\\u0008\\u000c\\u001f\x7F\"}"
        );
        assert_eq!(encoded(&[("A", "né€🔑".as_bytes())]), r#"{"A":"né€🔑"}"#);
        assert_eq!(encoded(&[("A", b"x\"}, \"B\":{")]), r#"{"A":"x\"}, \"B\":{"}"#);
    }

    #[test]
    fn a_value_that_is_not_utf8_is_refused_by_name_only() {
        let refused = SecretsObject::new([("A", b"fine".as_slice()), ("B", b"hush\xFF")])
            .err()
            .expect("not UTF-8");
        assert_eq!(refused.to_string(), "the value of secret B is not UTF-8");
        assert!(!format!("{refused:?}").contains("hush"));
    }
}
