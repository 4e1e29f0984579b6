//! Decompresses gRPC messages, because only uncompressed messages can be rewritten.
//! <https://github.com/grpc/grpc/blob/master/doc/compression.md>

use std::io::{self, Read};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use proto::{Reason, Refusal};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder, errors::FrameDecoderError};

use crate::inject::protobuf::MAX_MESSAGE;

/// The header that names the encoding of compressed messages.
pub(super) const HEADER: &str = "grpc-encoding";
/// Value of `grpc-accept-encoding`: the encodings that [`Encoding`] supports.
pub(in crate::proxy) const ACCEPTED: &str = "identity,gzip,deflate,zstd";

/// Largest Zstandard window. Decoders should support 8 MiB (RFC 8878, section 3.1.1.1.2). The decoder allocates the
/// size that a frame states, so the limit bounds the memory that a client can claim.
pub(in crate::proxy) const MAX_WINDOW: u64 = 8 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Encoding {
    Identity,
    Gzip,
    /// The zlib format (RFC 1950), as for `deflate` in HTTP.
    Deflate,
    Zstd,
    Unknown,
}

pub(in crate::proxy) enum DecodeError {
    /// No encoding was named.
    NotNamed,
    /// The named encoding is not supported.
    Unknown,
    /// The message has more than [`MAX_MESSAGE`] bytes.
    TooLarge,
    Malformed,
}

impl Encoding {
    pub(in crate::proxy) fn named_by(headers: &HeaderMap) -> Self {
        let mut named = headers.get_all(HEADER).iter();
        match (named.next().map(|value| value.as_bytes()), named.next()) {
            (None | Some(b"identity"), None) => Self::Identity,
            (Some(b"gzip"), None) => Self::Gzip,
            (Some(b"deflate"), None) => Self::Deflate,
            (Some(b"zstd"), None) => Self::Zstd,
            _ => Self::Unknown,
        }
    }

    /// Decodes a message of a request.
    pub(super) fn decode(self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.decompress(message).map_err(|error| match error {
            DecodeError::NotNamed => Refusal::new(
                Reason::MessageFlagInvalid,
                "a message's compressed flag is set, but no grpc-encoding says how it is compressed",
            ),
            DecodeError::Unknown => {
                let message = format!(
                    "this server gets its secrets in the messages; those can be compressed as {ACCEPTED}, and not otherwise"
                );
                Refusal::new(Reason::MessageEncodingUnsupported, message)
            }
            DecodeError::TooLarge => too_large(),
            DecodeError::Malformed => Refusal::new(
                Reason::BodyInvalid,
                "a compressed message is not what its grpc-encoding says",
            ),
        })
    }

    pub(in crate::proxy) fn decompress(self, message: &[u8]) -> Result<Vec<u8>, DecodeError> {
        match self {
            Self::Identity => Err(DecodeError::NotNamed),
            Self::Unknown => Err(DecodeError::Unknown),
            // Some clients set the compressed flag of an empty message, but do not compress the message.
            Self::Gzip | Self::Deflate | Self::Zstd if message.is_empty() => Ok(Vec::new()),
            Self::Gzip => gzip(message),
            Self::Deflate => deflate(message),
            Self::Zstd => zstd(message),
        }
    }
}

/// Returns the refusal of a message that is longer than [`MAX_MESSAGE`], compressed or not.
pub(super) fn too_large() -> Refusal {
    let message = format!(
        "this server gets its secrets in the messages, so each must have at most {MAX_MESSAGE} bytes, uncompressed"
    );
    Refusal::new(Reason::LimitExceeded, message)
}

fn gzip(message: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    read(&mut MultiGzDecoder::new(message), &mut out)?;
    Ok(out)
}

fn deflate(message: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let (mut decoder, mut out) = (ZlibDecoder::new(message), Vec::new());
    read(&mut decoder, &mut out)?;
    match decoder.into_inner() {
        [] => Ok(out),
        _ => Err(DecodeError::Malformed),
    }
}

/// Decodes block by block, because a block has at most 128 KiB, so [`read`] can stop a decompression bomb early.
fn zstd(mut message: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let (mut decoder, mut out) = (FrameDecoder::new(), Vec::new());
    decoder.set_max_window_size(MAX_WINDOW);
    while !message.is_empty() {
        decoder.reset(&mut message)?;
        while !decoder.is_finished() {
            decoder.decode_blocks(&mut message, BlockDecodingStrategy::UptoBlocks(1))?;
            read(&mut decoder, &mut out)?;
        }
        let stated = decoder.get_checksum_from_data();
        if stated.is_some() && stated != decoder.get_calculated_checksum() {
            return Err(DecodeError::Malformed);
        }
    }
    Ok(out)
}

/// Appends the decoded bytes to `out`. Stops with an error as soon as `out` exceeds [`MAX_MESSAGE`].
fn read(decoder: &mut impl Read, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let left = (MAX_MESSAGE + 1).saturating_sub(out.len());
    decoder.take(left as u64).read_to_end(out)?;
    if out.len() > MAX_MESSAGE {
        return Err(DecodeError::TooLarge);
    }
    Ok(())
}

impl From<io::Error> for DecodeError {
    fn from(_: io::Error) -> Self {
        Self::Malformed
    }
}

impl From<FrameDecoderError> for DecodeError {
    fn from(error: FrameDecoderError) -> Self {
        match error {
            FrameDecoderError::WindowSizeTooBig { .. } => Self::TooLarge,
            _ => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests;
