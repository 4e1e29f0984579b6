use thiserror::Error;
use zeroize::Zeroizing;

use crate::placement::FieldNumber;

/// The wire type of what has a length: strings, and the entries of a map.
const LENGTH: u32 = 2;
/// The tags of an entry's two fields, both strings.
const KEY: u8 = 0x0a;
const VALUE: u8 = 0x12;

/// The entries of a `map<string, string>`, as they stand in a message: plaintext, wiped on drop.
pub struct SecretEntries(Zeroizing<Vec<u8>>);

/// The value of this secret is not UTF-8, so a protobuf `string` cannot hold it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the value of secret {name} is not UTF-8 and cannot stand in a string")]
pub struct ValueNotUtf8 {
    /// Which secret; its value stays out of this error.
    pub name: String,
}

impl SecretEntries {
    /// For a message that gets none.
    pub fn none() -> Self {
        Self(Zeroizing::default())
    }

    /// Entries come in the order given. Names are expected to be distinct.
    pub fn new<'a>(
        field: FieldNumber,
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, ValueNotUtf8> {
        let entries = entries.into_iter().map(utf8).collect::<Result<Vec<_>, _>>()?;
        let mut len = 0;
        write(field, &entries, &mut |piece| len += piece.len());
        // Exactly what is needed: a buffer that grew would leave its old self behind, unwiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        write(field, &entries, &mut |piece| bytes.extend_from_slice(piece));
        Ok(Self(bytes))
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
fn write(field: FieldNumber, entries: &[(&str, &str)], sink: &mut impl FnMut(&[u8])) {
    for (name, value) in entries {
        let mut len = 0;
        write_entry(name, value, &mut |piece| len += piece.len());
        write_varint(u64::from(field.get() << 3 | LENGTH), sink);
        write_varint(len as u64, sink);
        write_entry(name, value, sink);
    }
}

fn write_entry(name: &str, value: &str, sink: &mut impl FnMut(&[u8])) {
    for (tag, text) in [(KEY, name), (VALUE, value)] {
        sink(&[tag]);
        write_varint(text.len() as u64, sink);
        sink(text.as_bytes());
    }
}

fn write_varint(mut value: u64, sink: &mut impl FnMut(&[u8])) {
    while value > 0x7f {
        sink(&[low_bits(value) | 0x80]);
        value >>= 7;
    }
    sink(&[low_bits(value)]);
}

fn low_bits(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low & 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u32) -> FieldNumber {
        FieldNumber::parse(number).unwrap()
    }

    fn written(number: u32, entries: &[(&str, &[u8])]) -> Vec<u8> {
        let written = SecretEntries::new(field(number), entries.iter().copied()).unwrap();
        assert_eq!(
            written.0.capacity(),
            written.0.len(),
            "the buffer has grown, or is larger than needed"
        );
        written.expose().to_vec()
    }

    #[test]
    fn entries_stand_in_the_order_given() {
        assert_eq!(written(7, &[]), b"");
        assert_eq!(
            written(7, &[("B", b"2"), ("A", b"")]),
            b"\x3a\x06\x0a\x01B\x12\x012\x3a\x05\x0a\x01A\x12\x00"
        );
    }

    #[test]
    fn tags_and_lengths_are_varints() {
        let long = [b'x'; 300];
        let entry = written(536_870_911, &[("A", &long)]);
        let head = b"\xfa\xff\xff\xff\x0f\xb2\x02\x0a\x01A\x12\xac\x02";
        assert_eq!(entry, [&head[..], &long].concat());
    }

    #[test]
    fn a_value_that_is_not_utf8_is_refused_by_name_only() {
        let refused = SecretEntries::new(field(1), [("A", b"fine".as_slice()), ("B", b"hush\xFF")])
            .err()
            .unwrap();
        assert_eq!(
            refused.to_string(),
            "the value of secret B is not UTF-8 and cannot stand in a string"
        );
        assert!(!format!("{refused:?}").contains("hush"));
    }
}
