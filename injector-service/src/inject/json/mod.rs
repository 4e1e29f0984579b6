//! Puts secrets into a JSON object: a member `secrets` ([`Rewriter`]), or members at JSON Pointers ([`insert_members`]).
//!
//! The rewriter works while the object streams to the upstream, in constant memory.
//!
//! The body has to be one JSON object in UTF-8 and nothing else, strictly by RFC 8259. The rewriter does not interpret
//! values, so everything that the grammar allows passes byte for byte: `1e400`, `"\ud800"`, a repeated name.
//!
//! ```text
//! in   {"a":1, "Secrets":{"x":"spoofed"}, "b":2}⏎
//! out  {"a":1,  "b":2,"secrets":{"GITHUB_TOKEN":"ghp_…"}}⏎
//! ```
//!
//! Every top-level member whose decoded name equals `secrets` under Unicode case folding is removed, because some
//! parsers match names case-insensitively (Go's `encoding/json`), and of two such members either may win. The injected
//! member is written right before the closing brace, after any whitespace there. No other byte changes. Secrets are
//! written only after the whole body was found valid.
//!
//! Memory does not grow with the body. The rewriter keeps one bit per open level (at most 128 Ki levels), the
//! whitespace after the object (at most 64 KiB), and the beginning of a top-level name that may be `secrets`.

mod encode;
mod error;
mod find;
mod insert;
mod lexer;
mod members;
mod name;
mod nesting;
mod number;
mod secrets;
mod string;
#[cfg(test)]
mod tests;
mod tree;
mod whitespace;

pub use super::text_value::ValueNotUtf8;
pub use crate::json_pointer::{JsonPointer, JsonPointerError};
pub use encode::JsonString;
pub use error::{InsertError, JsonCause, JsonError};
pub use insert::insert_members;
pub use secrets::SecretsObject;
pub use tree::{ConflictingPointers, JsonMembers};

use error::SliceError;
use members::{MemberFilter, ObjectEnd};
use whitespace::TrailingWhitespace;

pub struct Rewriter {
    secrets: SecretsObject,
    offset: u64,
    phase: Phase,
}

enum Phase {
    InObject(MemberFilter),
    AfterObject {
        needs_comma: bool,
        whitespace: TrailingWhitespace,
    },
    Failed(JsonError),
}

impl Rewriter {
    pub fn new(secrets: SecretsObject) -> Self {
        Self {
            secrets,
            offset: 0,
            phase: Phase::InObject(MemberFilter::default()),
        }
    }

    /// Appends to `out` the part of the rewritten body that can be sent now. This part contains no secrets.
    ///
    /// After an error every further call returns the same error, and the caller drops `out`, which then contains a part
    /// of the received body.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), JsonError> {
        let pushed = match &mut self.phase {
            Phase::InObject(members) => match members.push(chunk, out) {
                Ok(None) => Ok(()),
                Ok(Some(end)) => self.begin_whitespace(end, chunk),
                Err(error) => Err(error),
            },
            Phase::AfterObject { whitespace, .. } => whitespace.push(chunk),
            Phase::Failed(error) => return Err(*error),
        };
        pushed.map_err(|error| self.fail(error))?;
        self.offset += chunk.len() as u64;
        Ok(())
    }

    /// Appends the `secrets` member, the closing brace and the whitespace after it. Fails when the body is incomplete.
    ///
    /// `out` then contains plaintext, which the caller has to wipe. `finish` grows `out` before it writes plaintext, so
    /// no copy is left behind. The caller must not let `out` grow after that.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let (needs_comma, whitespace) = match self.phase {
            Phase::InObject(_) => {
                return Err(JsonError {
                    offset: self.offset,
                    cause: JsonCause::Truncated,
                });
            }
            Phase::AfterObject {
                needs_comma,
                whitespace,
            } => (needs_comma, whitespace),
            Phase::Failed(error) => return Err(error),
        };
        let comma: &[u8] = if needs_comma { b"," } else { b"" };
        let pieces = [
            comma,
            b"\"",
            name::NAME.as_bytes(),
            b"\":",
            self.secrets.expose(),
            b"}",
            whitespace.as_bytes(),
        ];
        out.reserve(pieces.iter().map(|piece| piece.len()).sum());
        pieces.iter().for_each(|piece| out.extend_from_slice(piece));
        Ok(())
    }

    fn begin_whitespace(
        &mut self,
        ObjectEnd {
            consumed,
            needs_comma,
        }: ObjectEnd,
        chunk: &[u8],
    ) -> Result<(), SliceError> {
        let mut whitespace = TrailingWhitespace::default();
        whitespace
            .push(chunk.get(consumed..).unwrap_or_default())
            .map_err(|error| error.after(consumed))?;
        self.phase = Phase::AfterObject {
            needs_comma,
            whitespace,
        };
        Ok(())
    }

    fn fail(&mut self, error: SliceError) -> JsonError {
        let error = JsonError {
            offset: self.offset + error.at as u64,
            cause: error.cause,
        };
        self.phase = Phase::Failed(error);
        error
    }
}
