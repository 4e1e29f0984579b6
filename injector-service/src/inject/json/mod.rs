//! Puts a `secrets` member into a JSON object while its bytes stream by, in constant memory.
//!
//! Grammar: RFC 8259, strictly, in UTF-8; the body is one object and nothing else. Values are never
//! computed, so whatever the grammar allows passes byte for byte: `1e400`, `"\ud800"`, a name twice.
//!
//! ```text
//! in   {"a":1, "Secrets":{"x":"spoofed"}, "b":2}⏎
//! out  {"a":1,  "b":2,"secrets":{"GITHUB_TOKEN":"ghp_…"}}⏎
//! ```
//!
//! Every top-level member whose decoded name equals `secrets` under Unicode case folding is removed:
//! parsers match names case-insensitively (Go's `encoding/json`), and of two such members any may win.
//! Ours goes in right before the closing brace, after any whitespace that stood there. No other byte
//! changes. Nothing of ours is written before the whole body has been found valid.
//!
//! Memory does not grow with the body: one bit per open level, at most 128 Ki levels; whitespace after
//! the object, at most 64 KiB; a top-level name, as long as it may still be ours.

mod error;
mod lexer;
mod members;
mod name;
mod nesting;
mod number;
mod secrets;
mod string;
mod tail;
#[cfg(test)]
mod tests;

pub use error::{JsonCause, JsonError};
pub use secrets::{SecretsObject, ValueNotUtf8};

use error::Fault;
use members::{Closed, Members};
use tail::Tail;

/// One body on its way through.
pub struct Rewriter {
    secrets: SecretsObject,
    /// Length of what was pushed before.
    offset: u64,
    phase: Phase,
}

enum Phase {
    Inside(Members),
    After { needs_comma: bool, tail: Tail },
    Failed(JsonError),
}

impl Rewriter {
    /// Expects the first byte of a body.
    pub fn new(secrets: SecretsObject) -> Self {
        Self {
            secrets,
            offset: 0,
            phase: Phase::Inside(Members::default()),
        }
    }

    /// Appends to `out` what may be sent on so far, which is never anything of ours.
    ///
    /// After an error every further call returns the same one. What then stands in `out` is a part of
    /// the inbound body, of no use but to be dropped.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), JsonError> {
        let pushed = match &mut self.phase {
            Phase::Inside(members) => match members.push(chunk, out) {
                Ok(None) => Ok(()),
                Ok(Some(closed)) => self.begin_tail(closed, chunk),
                Err(fault) => Err(fault),
            },
            Phase::After { tail, .. } => tail.push(chunk),
            Phase::Failed(error) => return Err(*error),
        };
        pushed.map_err(|fault| self.fail(fault))?;
        self.offset += chunk.len() as u64;
        Ok(())
    }

    /// The body has ended: if it was whole, appends our member, the closing brace and what followed it.
    ///
    /// From here on `out` holds plaintext, which is the caller's to wipe. It grows before that plaintext
    /// is written, never after, so that this leaves no copy behind; a caller who lets it grow does.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let (needs_comma, tail) = match self.phase {
            Phase::Inside(_) => {
                return Err(JsonError {
                    offset: self.offset,
                    cause: JsonCause::Truncated,
                });
            }
            Phase::After { needs_comma, tail } => (needs_comma, tail),
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
            tail.as_bytes(),
        ];
        out.reserve(pieces.iter().map(|piece| piece.len()).sum());
        pieces.iter().for_each(|piece| out.extend_from_slice(piece));
        Ok(())
    }

    fn begin_tail(&mut self, Closed { taken, needs_comma }: Closed, chunk: &[u8]) -> Result<(), Fault> {
        let mut tail = Tail::default();
        tail.push(chunk.get(taken..).unwrap_or_default())
            .map_err(|fault| fault.after(taken))?;
        self.phase = Phase::After { needs_comma, tail };
        Ok(())
    }

    fn fail(&mut self, fault: Fault) -> JsonError {
        let error = JsonError {
            offset: self.offset + fault.at as u64,
            cause: fault.cause,
        };
        self.phase = Phase::Failed(error);
        error
    }
}
