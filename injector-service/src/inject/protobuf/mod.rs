//! Puts secrets into the messages of a gRPC request. The code works on the wire format and needs no descriptors.
//!
//! ```text
//! in   00 00000009 | 0a 01 61 | 3a 04 ‹a map entry, spoofed›
//! out  00 0000001e | 0a 01 61 | 3a 19 ‹{1: "GITHUB_TOKEN", 2: "ghp_…"}›
//! ```
//!
//! [`MessageDeframer`] splits a body into messages. [`rewrite`] removes from a message every top-level field that the
//! injector owns, and appends entries of `map<string, string>` fields. No other byte changes.
//!
//! [`rewrite`] removes everything that any parser could read as an owned field: all wire types, groups too, and tags in
//! more bytes than necessary. Messages that parsers read differently are refused: for a tag beyond 32 bits some parsers
//! report an error, and others drop the upper bits.

mod deframer;
mod entries;
mod owned_fields;
#[cfg(test)]
mod tests;
mod wire;

pub use crate::placement::FieldNumber;
pub use deframer::{FramedMessage, FramingError, MAX_MESSAGE, MessageDeframer};
pub use entries::SecretEntries;
pub use owned_fields::OwnedFields;
pub use wire::WireError;

use wire::Fields;
use zeroize::Zeroizing;

/// Returns the frame of the message without the fields `owned` and with `entries` at its end, or `None` when the message
/// would not change.
///
/// The result may contain plaintext, and is the only copy of it: the buffer gets its exact size before the first write.
pub fn rewrite(
    message: &[u8],
    owned: &OwnedFields,
    entries: &SecretEntries,
) -> Result<Option<Zeroizing<Vec<u8>>>, WireError> {
    if message.len() > MAX_MESSAGE {
        return Err(WireError::TooLarge);
    }
    let mut kept = 0;
    for parsed in Fields::new(message) {
        let parsed = parsed?;
        if !owned.contain(parsed.number) {
            kept += parsed.bytes.len();
        }
    }
    if kept == message.len() && entries.expose().is_empty() {
        return Ok(None);
    }
    let mut out = Zeroizing::new(Vec::with_capacity(
        deframer::PREFIX_LEN + kept + entries.expose().len(),
    ));
    out.extend_from_slice(&deframer::frame_prefix(kept + entries.expose().len()));
    for parsed in Fields::new(message) {
        let parsed = parsed?;
        if !owned.contain(parsed.number) {
            out.extend_from_slice(parsed.bytes);
        }
    }
    out.extend_from_slice(entries.expose());
    Ok(Some(out))
}
