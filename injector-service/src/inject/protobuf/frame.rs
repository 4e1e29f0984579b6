//! Messages in a gRPC body: a flag, four bytes of length, the message.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use bytes::{Buf as _, Bytes};
use thiserror::Error;

/// The most bytes of a message, compressed or not: what gRPC's own servers take unless they are told otherwise.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Flag and length.
pub(super) const HEAD: usize = 5;

/// Why a body is no sequence of messages that we take. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FramingError {
    /// Neither compressed nor not.
    #[error("a message's compressed flag is neither 0 nor 1")]
    Flag,
    /// Longer than [`MAX_MESSAGE`].
    #[error("a message has more than {MAX_MESSAGE} bytes")]
    TooLarge,
}

/// Cuts a body into messages, wherever its chunks end. Holds at most one message, and the last chunk.
#[derive(Default)]
pub struct Frames {
    /// The beginning of a frame that chunks before the last one cut.
    begun: Vec<u8>,
    /// What came last, as far as it was not looked at.
    chunk: Bytes,
}

/// One message, in its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framed {
    /// What its flag says.
    pub compressed: bool,
    frame: Bytes,
}

impl Framed {
    /// A message, as it is sent.
    pub fn uncompressed(message: &[u8]) -> Self {
        let mut frame = Vec::with_capacity(HEAD + message.len());
        frame.extend_from_slice(&head(message.len()));
        frame.extend_from_slice(message);
        Self {
            compressed: false,
            frame: frame.into(),
        }
    }

    /// The message alone.
    pub fn message(&self) -> &[u8] {
        self.frame.get(HEAD..).unwrap_or_default()
    }

    /// How many bytes flag, length and message have.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.frame.len()
    }

    /// Flag, length and message, as they came.
    pub fn into_frame(self) -> Bytes {
        self.frame
    }
}

impl Frames {
    /// Takes the next bytes of the body. Expects that [`Self::next_frame`] has nothing more to give.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "messages were left in the last chunk");
        self.chunk = chunk;
    }

    /// The next message, when it is whole. A message that is refused is refused before its first byte is kept.
    pub fn next_frame(&mut self) -> Result<Option<Framed>, FramingError> {
        if self.begun.is_empty()
            && let Some(head) = Head::read(&self.chunk)?
            && self.chunk.len() >= head.frame_len
        {
            // The common case is not copied.
            let frame = self.chunk.split_to(head.frame_len);
            return Ok(Some(head.of(frame)));
        }
        self.gather(HEAD);
        let Some(head) = Head::read(&self.begun)? else {
            return Ok(None);
        };
        self.gather(head.frame_len);
        if self.begun.len() < head.frame_len {
            return Ok(None);
        }
        Ok(Some(head.of(std::mem::take(&mut self.begun).into())))
    }

    /// How many bytes it holds.
    #[expect(
        clippy::len_without_is_empty,
        reason = "is_between_messages says what that would mean"
    )]
    pub fn len(&self) -> usize {
        self.begun.len() + self.chunk.len()
    }

    /// Whether no message has begun that has not ended: only then may the body end.
    pub fn is_between_messages(&self) -> bool {
        self.begun.is_empty() && self.chunk.is_empty()
    }

    /// Goes on with the frame that has begun, to this length if the chunk has so much.
    fn gather(&mut self, len: usize) {
        let missing = len.saturating_sub(self.begun.len()).min(self.chunk.len());
        self.begun
            .extend_from_slice(self.chunk.get(..missing).unwrap_or_default());
        self.chunk.advance(missing);
    }
}

/// The first bytes of a frame, read.
#[derive(Clone, Copy)]
struct Head {
    compressed: bool,
    frame_len: usize,
}

impl Head {
    /// None when they are not there yet.
    fn read(bytes: &[u8]) -> Result<Option<Self>, FramingError> {
        let Some(&[flag, a, b, c, d]) = bytes.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let compressed = match flag {
            0 => false,
            1 => true,
            _ => return Err(FramingError::Flag),
        };
        match usize::try_from(u32::from_be_bytes([a, b, c, d])) {
            Ok(length @ 0..=MAX_MESSAGE) => Ok(Some(Self {
                compressed,
                frame_len: HEAD + length,
            })),
            Ok(_) | Err(_) => Err(FramingError::TooLarge),
        }
    }

    fn of(self, frame: Bytes) -> Framed {
        Framed {
            compressed: self.compressed,
            frame,
        }
    }
}

/// What stands before an uncompressed message.
pub(super) fn head(len: usize) -> [u8; HEAD] {
    let len =
        u32::try_from(len).expect("a message has 4 MiB at most, and a server 64 secrets of 64 KiB at most");
    let [a, b, c, d] = len.to_be_bytes();
    [0, a, b, c, d]
}
