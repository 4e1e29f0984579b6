use zeroize::Zeroizing;

use crate::{
    inject::text_value::{ValueNotUtf8, text_entries},
    placement::FieldNumber,
};

/// The wire type `LEN` of strings and of the entries of a map.
const LENGTH_DELIMITED: u32 = 2;
const KEY_TAG: u8 = 0x0a;
const VALUE_TAG: u8 = 0x12;

/// The encoded entries of a `map<string, string>`: plaintext, which is wiped on drop.
pub struct SecretEntries(Zeroizing<Vec<u8>>);

impl SecretEntries {
    pub fn none() -> Self {
        Self(Zeroizing::default())
    }

    /// Encodes the entries in the given order. The names must be distinct.
    pub fn new<'a>(
        field: FieldNumber,
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, ValueNotUtf8> {
        let entries = text_entries(entries)?;
        let mut len = 0;
        write(field, &entries, &mut |piece| len += piece.len());
        // The buffer gets its exact size at once, because a buffer that grows leaves unwiped copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        write(field, &entries, &mut |piece| bytes.extend_from_slice(piece));
        Ok(Self(bytes))
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Writes the entries to `sink`. [`SecretEntries::new`] uses this function to measure the entries and then to write
/// them.
fn write(field: FieldNumber, entries: &[(&str, &str)], sink: &mut impl FnMut(&[u8])) {
    for (name, value) in entries {
        let mut len = 0;
        write_entry(name, value, &mut |piece| len += piece.len());
        write_varint(u64::from(field.get() << 3 | LENGTH_DELIMITED), sink);
        write_varint(len as u64, sink);
        write_entry(name, value, sink);
    }
}

fn write_entry(name: &str, value: &str, sink: &mut impl FnMut(&[u8])) {
    for (tag, text) in [(KEY_TAG, name), (VALUE_TAG, value)] {
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
    fn entries_have_the_given_order() {
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
        assert_eq!(refused.to_string(), "the value of secret B is not UTF-8");
        assert!(!format!("{refused:?}").contains("hush"));
    }
}
