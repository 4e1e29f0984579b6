use super::error::{Fault, JsonCause};
use super::lexer::whitespace_run;

/// Whitespace after the object that we hold back at most.
pub(super) const MAX_TAIL: usize = 64 * 1024;

/// What follows the closing brace: whitespace, held back until the body has ended.
#[derive(Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let (blank, room) = (whitespace_run(bytes), MAX_TAIL - self.0.len());
        if blank > room {
            return Err(Fault::new(room, JsonCause::TooMuchWhitespace));
        }
        if blank < bytes.len() {
            return Err(Fault::new(blank, JsonCause::TrailingData));
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
