use super::error::{JsonCause, SliceError};
use super::lexer::whitespace_run;

pub(super) const MAX_TRAILING_WHITESPACE: usize = 64 * 1024;

/// The whitespace after the closing brace, which is kept until the end of the body.
#[derive(Default)]
pub(super) struct TrailingWhitespace(Vec<u8>);

impl TrailingWhitespace {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), SliceError> {
        let (blank, room) = (whitespace_run(bytes), MAX_TRAILING_WHITESPACE - self.0.len());
        if blank > room {
            return Err(SliceError::new(room, JsonCause::TooMuchWhitespace));
        }
        if blank < bytes.len() {
            return Err(SliceError::new(blank, JsonCause::TrailingData));
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
