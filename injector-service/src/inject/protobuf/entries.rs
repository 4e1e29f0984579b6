use zeroize::Zeroizing;

use crate::placement::FieldNumber;

/// The wire type `LEN` of strings and of the entries of a map.
const LENGTH_DELIMITED: u32 = 2;
const KEY_TAG: u8 = 0x0a;
const VALUE_TAG: u8 = 0x12;

/// Encoded entries of `map<string, string>` fields: plaintext, which is wiped on drop.
pub struct SecretEntries(Zeroizing<Vec<u8>>);

/// An entry of a map: the number of the map's field, the key, and the pieces of the value.
struct MapEntry<'a> {
    field: FieldNumber,
    key: &'a str,
    value: Vec<&'a str>,
}

impl SecretEntries {
    pub fn none() -> Self {
        Self(Zeroizing::default())
    }

    /// Encodes the entries in the given order. An entry is the number of the map's field, the key, and the pieces of the
    /// value. The keys of one field must be distinct.
    pub fn new<'a>(entries: impl IntoIterator<Item = (FieldNumber, &'a str, Vec<&'a str>)>) -> Self {
        let entries = entries.into_iter();
        let entries: Vec<_> = entries
            .map(|(field, key, value)| MapEntry { field, key, value })
            .collect();
        let mut len = 0;
        write(&entries, &mut |piece| len += piece.len());
        // The buffer gets its exact size at once, because a buffer that grows leaves unwiped copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        write(&entries, &mut |piece| bytes.extend_from_slice(piece));
        Self(bytes)
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Writes the entries to `sink`. [`SecretEntries::new`] uses this function to measure the entries and then to write
/// them.
fn write(entries: &[MapEntry<'_>], sink: &mut impl FnMut(&[u8])) {
    for entry in entries {
        let mut len = 0;
        write_entry(entry, &mut |piece| len += piece.len());
        write_varint(u64::from(entry.field.get() << 3 | LENGTH_DELIMITED), sink);
        write_varint(len as u64, sink);
        write_entry(entry, sink);
    }
}

fn write_entry(entry: &MapEntry<'_>, sink: &mut impl FnMut(&[u8])) {
    let MapEntry { field: _, key, value } = entry;
    write_string(KEY_TAG, &[*key], sink);
    write_string(VALUE_TAG, value, sink);
}

fn write_string(tag: u8, pieces: &[&str], sink: &mut impl FnMut(&[u8])) {
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    sink(&[tag]);
    write_varint(len as u64, sink);
    pieces.iter().for_each(|piece| sink(piece.as_bytes()));
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

    fn written(number: u32, entries: &[(&str, &[&str])]) -> Vec<u8> {
        let entries = entries.iter();
        let entries = entries.map(|(key, value)| (field(number), *key, value.to_vec()));
        let written = SecretEntries::new(entries);
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
            written(7, &[("B", &["2"]), ("A", &[])]),
            b"\x3a\x06\x0a\x01B\x12\x012\x3a\x05\x0a\x01A\x12\x00"
        );
    }

    #[test]
    fn the_pieces_of_a_value_are_one_string() {
        let entry = written(7, &[("K", &["Bearer ", "v", "!"])]);
        assert_eq!(entry, b"\x3a\x0e\x0a\x01K\x12\x09Bearer v!");
    }

    #[test]
    fn entries_may_belong_to_several_fields() {
        let entries = [(field(7), "A", vec!["1"]), (field(8), "A", vec!["2"])];
        assert_eq!(
            SecretEntries::new(entries).expose(),
            b"\x3a\x06\x0a\x01A\x12\x011\x42\x06\x0a\x01A\x12\x012"
        );
    }

    #[test]
    fn tags_and_lengths_are_varints() {
        let long = "x".repeat(300);
        let entry = written(536_870_911, &[("A", &[long.as_str()])]);
        let head = b"\xfa\xff\xff\xff\x0f\xb2\x02\x0a\x01A\x12\xac\x02";
        assert_eq!(entry, [&head[..], long.as_bytes()].concat());
    }
}
