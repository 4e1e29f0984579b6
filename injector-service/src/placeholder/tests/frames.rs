//! The frames and field lines of HTTP/2, as bytes.

use super::super::huffman;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Encodes a string of fewer than 127 bytes with HPACK's Huffman code (RFC 7541, section 5.2).
pub(super) fn text(text: &[u8]) -> Vec<u8> {
    let code = huffman::encode(text).unwrap();
    let length = u8::try_from(code.len()).unwrap();
    assert!(length < 127);
    [&[0x80 | length][..], &code].concat()
}

/// Encodes `:method: GET`, `:scheme: http` and a path.
pub(super) fn pseudo(path: &[u8]) -> Vec<u8> {
    [&[0x82, 0x86, 0x04][..], &text(path)].concat()
}
