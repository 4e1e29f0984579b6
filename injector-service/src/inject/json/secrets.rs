use zeroize::Zeroizing;

use super::encode::write_string;
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
