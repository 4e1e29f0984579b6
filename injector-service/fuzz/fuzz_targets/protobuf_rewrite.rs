//! For every body in chunks of any size: the deframer finds the same messages; in a rewritten message another parser finds
//! the injected secrets and no others, and nothing else has changed; rewriting the message again changes nothing.
#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use injector_service::inject::protobuf::{
    FieldNumber, FramedMessage, FramingError, MessageDeframer, OwnedFields, SecretEntries, WireError, rewrite,
};
use libfuzzer_sys::fuzz_target;
use prost::Message;

const FIELD: u32 = 7;
const ENTRY: &[u8] = b"\x3a\x06\x0a\x01T\x12\x01v";

/// A parser that knows no field.
#[derive(Clone, PartialEq, Message)]
struct Opaque {}

/// A parser that knows only the field of the secrets.
#[derive(Clone, PartialEq, Message)]
struct Secrets {
    #[prost(btree_map = "string, string", tag = "7")]
    secrets: BTreeMap<String, String>,
}

fuzz_target!(|data: &[u8]| {
    let [cut, body @ ..] = data else { return };
    check(body);
    let (messages, error) = framed(body, usize::from(*cut).max(1));
    assert_eq!((&messages, error), (&framed(body, usize::MAX).0, framed(body, usize::MAX).1));
    messages.iter().for_each(|framed| check(framed.payload()));
});

fn check(message: &[u8]) {
    match with_token(message) {
        Ok(out) => {
            assert!(out.ends_with(ENTRY));
            if let Ok(read) = Secrets::decode(&*out) {
                assert_eq!(read.secrets, BTreeMap::from([("T".to_owned(), "v".to_owned())]));
            }
            assert_eq!(with_token(&out).as_deref(), Ok(&*out));
        }
        Err(_) => assert!(Opaque::decode(message).is_err(), "a parser accepts a refused message"),
    }
}

fn with_token(message: &[u8]) -> Result<Vec<u8>, WireError> {
    let field = FieldNumber::parse(FIELD).expect("7 is a field's number");
    let token = SecretEntries::new([(field, "T", vec!["v"])]);
    let out = rewrite(message, &OwnedFields::from_iter([field]), &token)?.expect("something was put in");
    let (head, out) = out.split_at(5);
    assert_eq!(head[1..], u32::try_from(out.len()).expect("messages are short").to_be_bytes());
    Ok(out.to_vec())
}

fn framed(body: &[u8], cut: usize) -> (Vec<FramedMessage>, Option<FramingError>) {
    let (mut deframer, mut messages) = (MessageDeframer::default(), Vec::new());
    for chunk in body.chunks(cut) {
        deframer.push(Bytes::copy_from_slice(chunk));
        loop {
            match deframer.next_message() {
                Ok(Some(framed)) => messages.push(framed),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}
