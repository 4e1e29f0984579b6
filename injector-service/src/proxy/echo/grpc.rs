//! The framing of gRPC messages: a flag, the length, and the message. A compressed message is passed on uncompressed.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use proto::{Reason, Refusal};

use super::payload::MaskedPayload;
use crate::{
    inject::protobuf::MAX_MESSAGE,
    proxy::{
        buffer_budget::Reservation,
        grpc::encoding::{DecodeError, Encoding},
    },
};

const PREFIX: usize = 5;

/// The position in a stream of messages.
pub(in crate::proxy) struct GrpcFraming {
    /// The bytes of the next prefix that were received.
    prefix: BytesMut,
    /// The bytes of the current message that were not received.
    remaining: usize,
    encoding: Encoding,
    /// The bytes of the current message, if it is compressed.
    compressed: Option<Vec<u8>>,
    /// Holds the bytes of a compressed message.
    reservation: Reservation,
}

impl GrpcFraming {
    /// Returns the framing of messages that may be compressed in `encoding`.
    pub(super) fn new(encoding: Encoding, reservation: Reservation) -> Self {
        Self {
            prefix: BytesMut::new(),
            remaining: 0,
            encoding,
            compressed: None,
            reservation,
        }
    }

    pub(super) fn is_between_messages(&self) -> bool {
        self.prefix.is_empty() && self.compressed.is_none()
    }

    pub(super) fn push(&mut self, mut piece: Bytes, payload: &mut MaskedPayload) -> Result<(), Refusal> {
        while !piece.is_empty() {
            if self.remaining == 0 {
                self.push_prefix(&mut piece, payload)?;
                continue;
            }
            let part = piece.split_to(self.remaining.min(piece.len()));
            self.remaining -= part.len();
            match &mut self.compressed {
                None => payload.push(part)?,
                Some(compressed) => {
                    self.reservation.grow(part.len())?;
                    compressed.extend_from_slice(&part);
                }
            }
            if self.remaining == 0 {
                self.end_message(payload)?;
            }
        }
        Ok(())
    }

    fn push_prefix(&mut self, piece: &mut Bytes, payload: &mut MaskedPayload) -> Result<(), Refusal> {
        let missing = PREFIX - self.prefix.len();
        self.prefix
            .extend_from_slice(&piece.split_to(missing.min(piece.len())));
        if self.prefix.len() < PREFIX {
            return Ok(());
        }
        let prefix = self.prefix.split().freeze();
        let mut fields = prefix.clone();
        let is_compressed = fields.get_u8() & 1 != 0;
        self.remaining = usize::try_from(fields.get_u32()).unwrap_or(usize::MAX);
        if !is_compressed {
            payload.push_framing(prefix);
            return Ok(());
        }
        if self.remaining > MAX_MESSAGE {
            return Err(not_decoded(DecodeError::TooLarge));
        }
        self.compressed = Some(Vec::new());
        match self.remaining {
            0 => self.end_message(payload),
            _ => Ok(()),
        }
    }

    fn end_message(&mut self, payload: &mut MaskedPayload) -> Result<(), Refusal> {
        if let Some(compressed) = self.compressed.take() {
            let message = self.encoding.decompress(&compressed).map_err(not_decoded)?;
            self.reservation.grow(message.len())?;
            payload.push_framing(prefix(message.len()));
            payload.push(message.into())?;
            self.reservation.shrink_to(0);
        }
        // No value goes on in the next message.
        payload.release_tail();
        Ok(())
    }
}

/// Returns the prefix of an uncompressed message.
fn prefix(len: usize) -> Bytes {
    let mut prefix = BytesMut::with_capacity(PREFIX);
    prefix.put_u8(0);
    prefix.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    prefix.freeze()
}

fn not_decoded(error: DecodeError) -> Refusal {
    let (reason, cause) = match error {
        DecodeError::NotNamed => (
            Reason::UpstreamProtocol,
            "and no grpc-encoding says how it is compressed".to_owned(),
        ),
        DecodeError::Unknown => (
            Reason::UpstreamEncodingUnsupported,
            "in an encoding in which values cannot be masked; gzip, deflate and zstd are supported"
                .to_owned(),
        ),
        DecodeError::TooLarge => (
            Reason::UpstreamEncodingUnsupported,
            format!("and has more than {MAX_MESSAGE} bytes, so that values in it cannot be masked"),
        ),
        DecodeError::Malformed => (
            Reason::UpstreamProtocol,
            "and is not what its grpc-encoding says".to_owned(),
        ),
    };
    let message = format!("the upstream compressed a message, although it was asked not to, {cause}");
    Refusal::new(reason, message)
}
