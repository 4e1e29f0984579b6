//! The frames of messages in a gRPC body: a flag, four bytes of length, the message.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use bytes::{Buf as _, Bytes};
use thiserror::Error;

/// Most bytes of a message, compressed or not. gRPC's own servers have the same default.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Number of bytes before a message: the flag and the length.
pub(super) const PREFIX_LEN: usize = 5;

/// The reason why a body is refused. Never quotes the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FramingError {
    #[error("a message's compressed flag is neither 0 nor 1")]
    Flag,
    #[error("a message has more than {MAX_MESSAGE} bytes")]
    TooLarge,
}

/// Splits a body into messages. The body arrives in chunks of any size, of which the deframer keeps at most one message
/// and the last chunk.
#[derive(Default)]
pub struct MessageDeframer {
    /// The beginning of a frame that continues in the next chunk.
    partial: Vec<u8>,
    chunk: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramedMessage {
    pub is_compressed: bool,
    frame: Bytes,
}

impl FramedMessage {
    pub fn uncompressed(message: &[u8]) -> Self {
        let mut frame = Vec::with_capacity(PREFIX_LEN + message.len());
        frame.extend_from_slice(&frame_prefix(message.len()));
        frame.extend_from_slice(message);
        Self {
            is_compressed: false,
            frame: frame.into(),
        }
    }

    pub fn payload(&self) -> &[u8] {
        self.frame.get(PREFIX_LEN..).unwrap_or_default()
    }

    /// Returns the length of the frame.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.frame.len()
    }

    pub fn into_frame(self) -> Bytes {
        self.frame
    }
}

impl MessageDeframer {
    /// Takes the next chunk of the body. All messages of the chunks before must have been taken.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "messages were left in the last chunk");
        self.chunk = chunk;
    }

    /// Returns the next message, if it is complete. A message that is too large is refused before any byte is kept.
    pub fn next_message(&mut self) -> Result<Option<FramedMessage>, FramingError> {
        if self.partial.is_empty()
            && let Some(prefix) = FramePrefix::read(&self.chunk)?
            && self.chunk.len() >= prefix.frame_len
        {
            // Most messages arrive in one chunk, and need no copy.
            let frame = self.chunk.split_to(prefix.frame_len);
            return Ok(Some(prefix.with(frame)));
        }
        self.gather(PREFIX_LEN);
        let Some(prefix) = FramePrefix::read(&self.partial)? else {
            return Ok(None);
        };
        self.gather(prefix.frame_len);
        if self.partial.len() < prefix.frame_len {
            return Ok(None);
        }
        Ok(Some(prefix.with(std::mem::take(&mut self.partial).into())))
    }

    pub fn buffered(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    /// Returns true when the body may end here, because no message is incomplete.
    pub fn is_between_messages(&self) -> bool {
        self.partial.is_empty() && self.chunk.is_empty()
    }

    /// Moves bytes from the chunk to the partial frame, until that frame has `len` bytes or the chunk is empty.
    fn gather(&mut self, len: usize) {
        let missing = len.saturating_sub(self.partial.len()).min(self.chunk.len());
        self.partial
            .extend_from_slice(self.chunk.get(..missing).unwrap_or_default());
        self.chunk.advance(missing);
    }
}

#[derive(Clone, Copy)]
struct FramePrefix {
    is_compressed: bool,
    frame_len: usize,
}

impl FramePrefix {
    fn read(bytes: &[u8]) -> Result<Option<Self>, FramingError> {
        let Some(&[flag, a, b, c, d]) = bytes.first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let is_compressed = match flag {
            0 => false,
            1 => true,
            _ => return Err(FramingError::Flag),
        };
        match usize::try_from(u32::from_be_bytes([a, b, c, d])) {
            Ok(length @ 0..=MAX_MESSAGE) => Ok(Some(Self {
                is_compressed,
                frame_len: PREFIX_LEN + length,
            })),
            Ok(_) | Err(_) => Err(FramingError::TooLarge),
        }
    }

    fn with(self, frame: Bytes) -> FramedMessage {
        FramedMessage {
            is_compressed: self.is_compressed,
            frame,
        }
    }
}

pub(super) fn frame_prefix(len: usize) -> [u8; PREFIX_LEN] {
    let len =
        u32::try_from(len).expect("a message has 4 MiB at most, and a server 64 secrets of 64 KiB at most");
    let [a, b, c, d] = len.to_be_bytes();
    [0, a, b, c, d]
}
