//! Puts secrets into the messages of a gRPC request, on the wire format alone: no descriptor is needed.
//!
//! ```text
//! in   00 00000009 | 0a 01 61 | 3a 04 ‹a map entry, spoofed›
//! out  00 0000001e | 0a 01 61 | 3a 19 ‹{1: "GITHUB_TOKEN", 2: "ghp_…"}›
//! ```
//!
//! [`Frames`] cuts a body into messages, however it was cut into chunks. [`rewrite`] removes from one message every
//! top-level field of the server's number, and appends our entries, which is how a `map<string, string>` is written.
//! No other byte changes.
//!
//! What is removed is what any reader could take for that field: in each wire type, groups too, and with a tag that is
//! longer than it need be. What readers do not agree on is refused: they differ in whether a tag beyond 32 bits is an
//! error or loses its upper bits.

mod entries;
mod frame;
#[cfg(test)]
mod tests;
mod wire;

pub use entries::{SecretEntries, ValueNotUtf8};
pub use frame::{Framed, Frames, FramingError, MAX_MESSAGE};
pub use wire::WireError;

use crate::placement::FieldNumber;
use wire::Fields;
use zeroize::Zeroizing;

/// The frame of a message without what stood in `field`, and with `entries` at its end. None when that is what it was.
///
/// What comes out may hold plaintext. It was written once, into a buffer of its size, so that this is the only copy.
pub fn rewrite(
    message: &[u8],
    field: FieldNumber,
    entries: &SecretEntries,
) -> Result<Option<Zeroizing<Vec<u8>>>, WireError> {
    if message.len() > MAX_MESSAGE {
        return Err(WireError::TooLarge);
    }
    let mut kept = 0;
    for read in Fields::of(message) {
        let read = read?;
        if read.number != field.get() {
            kept += read.bytes.len();
        }
    }
    if kept == message.len() && entries.expose().is_empty() {
        return Ok(None);
    }
    let mut out = Zeroizing::new(Vec::with_capacity(frame::HEAD + kept + entries.expose().len()));
    out.extend_from_slice(&frame::head(kept + entries.expose().len()));
    for read in Fields::of(message) {
        let read = read?;
        if read.number != field.get() {
            out.extend_from_slice(read.bytes);
        }
    }
    out.extend_from_slice(entries.expose());
    Ok(Some(out))
}
