use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;

#[derive(Clone, PartialEq, prost::Message)]
struct Probe {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(sint64, tag = "2")]
    number: i64,
    #[prost(bytes, tag = "3")]
    data: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    inner: Vec<Probe>,
    #[prost(double, tag = "5")]
    fraction: f64,
    #[prost(fixed32, repeated, tag = "600")]
    many: Vec<u32>,
    #[prost(btree_map = "string, string", tag = "7")]
    secrets: BTreeMap<String, String>,
}

/// A parser that knows no field.
#[derive(Clone, PartialEq, prost::Message)]
struct Opaque {}

/// A parser that knows only the field of the secrets.
#[derive(Clone, PartialEq, prost::Message)]
struct Secrets {
    #[prost(btree_map = "string, string", tag = "7")]
    secrets: BTreeMap<String, String>,
}

fn secrets() -> BTreeMap<String, String> {
    [("T".to_owned(), "v".to_owned())].into()
}

fn probe() -> impl Strategy<Value = Probe> {
    let fields = (
        any::<String>(),
        any::<i64>(),
        any::<Vec<u8>>(),
        any::<i32>(),
        any::<Vec<u32>>(),
    );
    let leaf = fields.prop_map(|(text, number, data, fraction, many)| Probe {
        text,
        number,
        data,
        inner: Vec::new(),
        fraction: f64::from(fraction),
        many,
        secrets: BTreeMap::new(),
    });
    // A nested field with this number stays.
    let inner = leaf.clone().prop_map(|leaf| Probe {
        secrets: [("T".to_owned(), "theirs".to_owned())].into(),
        ..leaf
    });
    (leaf, prop::collection::vec(inner, 0..3)).prop_map(|(leaf, inner)| Probe { inner, ..leaf })
}

/// Generates a field of this number in any wire type, with a tag of any length.
fn any_field(number: u32) -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        any::<u64>().prop_map(|value| (0, varint(value, 10))),
        any::<[u8; 8]>().prop_map(|value| (1, value.to_vec())),
        prop::collection::vec(any::<u8>(), 0..100)
            .prop_map(|value| { (2, [varint(value.len() as u64, 2), value].concat()) }),
        any::<[u8; 4]>().prop_map(|value| (5, value.to_vec())),
        Just((3, Vec::new())),
    ];
    (value, 5..=10_usize).prop_map(move |((wire_type, value), len)| {
        let end = if wire_type == 3 {
            tag(number, 4, len)
        } else {
            Vec::new()
        };
        [tag(number, wire_type, len), value, end].concat()
    })
}

#[derive(Debug, Clone)]
enum Piece {
    Kept(Vec<u8>),
    Removed(Vec<u8>),
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![
        probe().prop_map(|probe| Piece::Kept(probe.encode_to_vec())),
        // A field that `Probe` does not know.
        any_field(1000).prop_map(Piece::Kept),
        any_field(FIELD).prop_map(Piece::Removed),
    ];
    prop::collection::vec(piece, 0..6)
}

/// Generates bytes that are often nearly a message.
fn almost_message() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        prop::sample::select(&b"\x00\x01\x02\x08\x0a\x0b\x0c\x38\x39\x3a\x3b\x3c\x3d\x80\xba\xff"[..]),
        any::<u8>()
    ];
    prop::collection::vec(byte, 0..40)
}

fn deframe(body: &[u8], sizes: &[usize]) -> Vec<FramedMessage> {
    let (mut deframer, mut messages, mut rest) = (MessageDeframer::default(), Vec::new(), body);
    for size in sizes.iter().copied().chain([usize::MAX]) {
        let (chunk, left) = rest.split_at(size.min(rest.len()));
        rest = left;
        deframer.push(Bytes::copy_from_slice(chunk));
        while let Some(message) = deframer.next_message().unwrap() {
            messages.push(message);
        }
    }
    assert!(deframer.is_between_messages());
    messages
}

proptest! {
    #[test]
    fn a_rewritten_message_has_the_injected_secrets_and_no_others(pieces in pieces()) {
        let (mut message, mut expected) = (Vec::new(), Vec::new());
        for piece in &pieces {
            let (bytes, kept) = match piece {
                Piece::Kept(bytes) => (bytes, true),
                Piece::Removed(bytes) => (bytes, false),
            };
            message.extend_from_slice(bytes);
            if kept {
                expected.extend_from_slice(bytes);
            }
        }
        let out = with_token(&message).unwrap();
        let decoded = Probe::decode(out.as_slice()).unwrap();
        let sent = Probe::decode(expected.as_slice()).unwrap();
        prop_assert_eq!(decoded, Probe { secrets: secrets(), ..sent });
        expected.extend_from_slice(TOKEN);
        prop_assert_eq!(&out, &expected);
        prop_assert_eq!(with_token(&out).unwrap(), out, "a second rewrite changes nothing");
    }

    #[test]
    fn a_parser_finds_only_the_injected_secrets(message in almost_message()) {
        match with_token(&message) {
            Ok(out) => {
                if let Ok(read) = Secrets::decode(out.as_slice()) {
                    prop_assert_eq!(read.secrets, secrets());
                }
                prop_assert_eq!(with_token(&out).unwrap(), out);
            }
            Err(_) => prop_assert!(Opaque::decode(message.as_slice()).is_err(), "a parser accepts a refused message"),
        }
    }

    #[test]
    fn chunks_of_any_size_give_the_same_messages(
        messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..20)), 0..8),
        sizes in prop::collection::vec(0..12_usize, 0..40),
    ) {
        let mut body = Vec::new();
        for (compressed, message) in &messages {
            body.push(u8::from(*compressed));
            body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            body.extend_from_slice(message);
        }
        let read = deframe(&body, &sizes);
        let read: Vec<_> = read.iter().map(|message| (message.is_compressed, message.payload().to_vec())).collect();
        prop_assert_eq!(read, messages);
    }
}
