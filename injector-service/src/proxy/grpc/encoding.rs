//! What `grpc-encoding` says of compressed messages, which have to be read to be rewritten.
//! <https://github.com/grpc/grpc/blob/master/doc/compression.md>

use std::io::{self, Read};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use proto::{Reason, Refusal};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder, errors::FrameDecoderError};

use crate::inject::protobuf::MAX_MESSAGE;

/// The header that names the encoding of compressed messages.
pub(super) const HEADER: &str = "grpc-encoding";
/// What [`Encoding`] knows, for `grpc-accept-encoding`.
pub(in crate::proxy) const ACCEPTED: &str = "identity,gzip,deflate,zstd";

/// The largest Zstandard window, which is what a decoder should take (RFC 8878, section 3.1.1.1.2); it is allocated
/// because a frame says so.
const MAX_WINDOW: u64 = 8 * 1024 * 1024;

/// How a call's compressed messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    /// The zlib format, as everywhere in HTTP.
    Deflate,
    Zstd,
    Unknown,
}

enum Undecodable {
    TooLarge,
    Malformed,
}

impl Encoding {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut named = headers.get_all(HEADER).iter();
        match (named.next().map(|value| value.as_bytes()), named.next()) {
            (None | Some(b"identity"), None) => Self::Identity,
            (Some(b"gzip"), None) => Self::Gzip,
            (Some(b"deflate"), None) => Self::Deflate,
            (Some(b"zstd"), None) => Self::Zstd,
            _ => Self::Unknown,
        }
    }

    /// A message that its flag calls compressed, as it was before.
    pub(super) fn decode(self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let decoded = match self {
            Self::Identity => {
                let message =
                    "a message's compressed flag is set, but no grpc-encoding says how it is compressed";
                return Err(Refusal::new(Reason::MessageFlagInvalid, message));
            }
            Self::Unknown => {
                let message = format!(
                    "this server gets its secrets in the messages; those can be compressed as {ACCEPTED}, and not otherwise"
                );
                return Err(Refusal::new(Reason::MessageEncodingUnsupported, message));
            }
            // Nothing, compressed, is nothing to some clients.
            Self::Gzip | Self::Deflate | Self::Zstd if message.is_empty() => Ok(Vec::new()),
            Self::Gzip => gzip(message),
            Self::Deflate => deflate(message),
            Self::Zstd => zstd(message),
        };
        decoded.map_err(|error| match error {
            Undecodable::TooLarge => too_large(),
            Undecodable::Malformed => Refusal::new(
                Reason::BodyInvalid,
                "a compressed message is not what its grpc-encoding says",
            ),
        })
    }
}

/// A message is longer than what is taken, compressed or not.
pub(super) fn too_large() -> Refusal {
    let message = format!(
        "this server gets its secrets in the messages, so each must have at most {MAX_MESSAGE} bytes, uncompressed"
    );
    Refusal::new(Reason::LimitExceeded, message)
}

fn gzip(message: &[u8]) -> Result<Vec<u8>, Undecodable> {
    let mut out = Vec::new();
    read(&mut MultiGzDecoder::new(message), &mut out)?;
    Ok(out)
}

fn deflate(message: &[u8]) -> Result<Vec<u8>, Undecodable> {
    let (mut decoder, mut out) = (ZlibDecoder::new(message), Vec::new());
    read(&mut decoder, &mut out)?;
    match decoder.into_inner() {
        [] => Ok(out),
        _ => Err(Undecodable::Malformed),
    }
}

/// Frame by frame, and block by block, which are at most 128 KiB.
fn zstd(mut message: &[u8]) -> Result<Vec<u8>, Undecodable> {
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
            return Err(Undecodable::Malformed);
        }
    }
    Ok(out)
}

/// Never more than a message may have, whatever it was made from.
fn read(decoder: &mut impl Read, out: &mut Vec<u8>) -> Result<(), Undecodable> {
    let left = (MAX_MESSAGE + 1).saturating_sub(out.len());
    decoder.take(left as u64).read_to_end(out)?;
    if out.len() > MAX_MESSAGE {
        return Err(Undecodable::TooLarge);
    }
    Ok(())
}

impl From<io::Error> for Undecodable {
    fn from(_: io::Error) -> Self {
        Self::Malformed
    }
}

impl From<FrameDecoderError> for Undecodable {
    fn from(error: FrameDecoderError) -> Self {
        match error {
            FrameDecoderError::WindowSizeTooBig { .. } => Self::TooLarge,
            _ => Self::Malformed,
        }
    }
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
