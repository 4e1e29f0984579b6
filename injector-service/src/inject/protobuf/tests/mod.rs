mod deframer;
mod props;

use super::*;

/// The field number in most tests. Its tags have one byte: `38` to `3d`.
const FIELD: u32 = 7;

fn field(number: u32) -> FieldNumber {
    FieldNumber::parse(number).unwrap()
}

fn owned(number: u32) -> OwnedFields {
    OwnedFields::from_iter([field(number)])
}

fn token() -> SecretEntries {
    SecretEntries::new([(field(FIELD), "T", vec!["v"])])
}

const TOKEN: &[u8] = b"\x3a\x06\x0a\x01T\x12\x01v";

/// Returns the rewritten message with the secret `T=v`, without its frame.
fn with_token(message: &[u8]) -> Result<Vec<u8>, WireError> {
    let out = rewrite(message, &owned(FIELD), &token())?.expect("something was put in");
    assert_eq!(
        out.capacity(),
        out.len(),
        "the buffer has grown, or is larger than needed"
    );
    let (head, body) = out.split_at(super::deframer::PREFIX_LEN);
    assert_eq!(head, super::deframer::frame_prefix(body.len()));
    Ok(body.to_vec())
}

/// Encodes the tag of a field in `bytes` bytes.
fn tag(number: u32, wire_type: u8, bytes: usize) -> Vec<u8> {
    varint(u64::from(number << 3 | u32::from(wire_type)), bytes)
}

fn varint(mut value: u64, bytes: usize) -> Vec<u8> {
    let mut varint = Vec::new();
    for left in (0..bytes).rev() {
        let [low, ..] = value.to_le_bytes();
        varint.push(if left > 0 { low | 0x80 } else { low & 0x7f });
        value >>= 7;
    }
    varint
}

#[test]
fn secrets_come_last_and_nothing_else_changes() {
    for message in [
        &b""[..],
        b"\x08\x01",
        b"\x0a\x03abc\x11........\x1d....\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        // Another field that contains a field of this number.
        b"\x0a\x04\x3a\x02ab",
        b"\x0b\x3a\x02ab\x0c",
        // Numbers, tags and lengths in more bytes than necessary.
        b"\x88\x80\x00\x01\x0a\x81\x80\x00a\x08\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00",
        // A field number whose tag begins with the same byte.
        b"\xba\x01\x01a",
    ] {
        assert_eq!(
            with_token(message).unwrap(),
            [message, TOKEN].concat(),
            "{message:x?}"
        );
    }
}

#[test]
fn the_field_is_removed_in_every_wire_type() {
    for value in [
        // The wire type `LEN`: an entry, an empty entry, and values that are no entries.
        &b"\x3a\x06\x0a\x01T\x12\x01x"[..],
        b"\x3a\x00",
        b"\x3a\x03abc",
        b"\x3a\x83\x80\x80\x80\x80\x80\x80\x80\x80\x00abc",
        b"\x38\x01",
        b"\x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x39........",
        b"\x3d....",
        b"\x3b\x3c",
        // A group that contains other groups, one of them with the same number.
        b"\x3b\x0a\x01a\x3b\x08\x01\x3c\x0b\x0c\x15....\x19........\x3c",
    ] {
        for around in [(&b""[..], &b""[..]), (b"\x08\x01", b"\x12\x01z")] {
            let message = [around.0, value, around.1].concat();
            let expected = [around.0, around.1, TOKEN].concat();
            assert_eq!(with_token(&message).unwrap(), expected, "{message:x?}");
        }
    }
}

#[test]
fn the_field_is_removed_with_a_tag_of_any_length() {
    for number in [FIELD, 1, 15, 16, 2047, 2048, 536_870_911] {
        let empty = SecretEntries::none();
        for length in varint_len(number)..=10 {
            let message = [&tag(number, 2, length)[..], b"\x01x"].concat();
            let out = rewrite(&message, &owned(number), &empty).unwrap().unwrap();
            assert_eq!(out.as_slice(), [0, 0, 0, 0, 0], "{number} in {length}");
            let group = [tag(number, 3, length), tag(number, 4, 10)].concat();
            let out = rewrite(&group, &owned(number), &empty).unwrap().unwrap();
            assert_eq!(out.as_slice(), [0, 0, 0, 0, 0], "{number} in {length}");
        }
    }
}

#[test]
fn every_owned_field_is_removed() {
    let owned = OwnedFields::from_iter([field(7), field(600)]);
    let theirs = [
        b"\x3a\x01x\x08\x01",
        &tag(600, 0, 2)[..],
        b"\x01\x12\x01z\x38\x01",
    ]
    .concat();
    let out = rewrite(&theirs, &owned, &SecretEntries::none()).unwrap().unwrap();
    assert_eq!(out.as_slice(), b"\0\0\0\0\x05\x08\x01\x12\x01z");
}

fn varint_len(number: u32) -> usize {
    (1..).find(|len| (number << 3) as u64 >> (7 * len) == 0).unwrap()
}

#[test]
fn a_message_that_parsers_read_differently_is_refused() {
    for (message, error) in [
        // Field 7 for a parser that drops the bits beyond 32.
        (&b"\xba\x80\x80\x80\x10\x00"[..], WireError::Tag),
        (b"\xba\x80\x80\x80\x80\x80\x80\x80\x80\x01\x00", WireError::Tag),
        // Tags beyond 64 bits.
        (b"\xba\x80\x80\x80\x80\x80\x80\x80\x80\x02\x00", WireError::Tag),
        (
            b"\xba\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00\x00",
            WireError::Varint,
        ),
        (b"\x02\x00", WireError::Tag),
        (b"\x00\x00", WireError::Tag),
        (b"\x3e", WireError::WireType),
        (b"\x3f", WireError::WireType),
    ] {
        assert_eq!(with_token(message), Err(error), "{message:x?}");
        assert_eq!(
            with_token(&[b"\x0b", message].concat()),
            Err(error),
            "in a group: {message:x?}"
        );
    }
}

#[test]
fn a_truncated_or_malformed_message_is_refused() {
    for (message, error) in [
        (&b"\x3a"[..], WireError::Truncated),
        (b"\x3a\x02a", WireError::Truncated),
        (
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            WireError::Truncated,
        ),
        (
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            WireError::Truncated,
        ),
        (b"\x08\x80", WireError::Truncated),
        (
            b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
            WireError::Varint,
        ),
        (b"\x09.......", WireError::Truncated),
        (b"\x0d...", WireError::Truncated),
        (b"\xba", WireError::Truncated),
        (b"\x0b\x08\x01", WireError::Truncated),
        (b"\x3b", WireError::Truncated),
        (b"\x0c", WireError::GroupEnd),
        (b"\x3c", WireError::GroupEnd),
        (b"\x3b\x0c", WireError::GroupEnd),
        (b"\x0b\x13\x0c\x14", WireError::GroupEnd),
    ] {
        assert_eq!(with_token(message), Err(error), "{message:x?}");
    }
}

#[test]
fn groups_may_be_nested_100_deep() {
    let nested = |depth| [vec![0x0b; depth], vec![0x0c; depth]].concat();
    assert!(with_token(&nested(100)).is_ok());
    assert_eq!(with_token(&nested(101)), Err(WireError::TooDeep));
    assert_eq!(with_token(&vec![0x3b; MAX_MESSAGE]), Err(WireError::TooDeep));
}

#[test]
fn a_message_without_the_field_and_without_secrets_is_not_rewritten() {
    let none = SecretEntries::none();
    assert!(rewrite(b"\x08\x01", &owned(FIELD), &none).unwrap().is_none());
    assert!(rewrite(b"", &owned(FIELD), &none).unwrap().is_none());
    assert_eq!(
        rewrite(b"\x08", &owned(FIELD), &none).err(),
        Some(WireError::Truncated)
    );
    let out = rewrite(b"\x38\x01", &owned(FIELD), &none).unwrap().unwrap();
    assert_eq!(out.as_slice(), b"\0\0\0\0\0");
}

#[test]
fn a_message_has_at_most_4_mib() {
    let largest = [b"\x0a\xfb\xff\xff\x01", vec![b'x'; MAX_MESSAGE - 5].as_slice()].concat();
    assert_eq!(
        with_token(&largest).map(|out| out.len()),
        Ok(MAX_MESSAGE + TOKEN.len())
    );
    assert_eq!(with_token(&vec![0; MAX_MESSAGE + 1]), Err(WireError::TooLarge));
}
