//! The framing of gRPC messages: a flag, the length, and the message.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use bytes::{Buf as _, Bytes, BytesMut};
use proto::{Reason, Refusal};

use super::payload::MaskedPayload;

const PREFIX: usize = 5;

/// The position in a stream of messages.
#[derive(Default)]
pub(in crate::proxy) struct GrpcFraming {
    /// The bytes of the next prefix that were received.
    prefix: BytesMut,
    /// The bytes of the current message that were not received.
    remaining: usize,
}

impl GrpcFraming {
    pub(super) fn push(&mut self, mut piece: Bytes, payload: &mut MaskedPayload) -> Result<(), Refusal> {
        while !piece.is_empty() {
            if self.remaining == 0 {
                self.push_prefix(&mut piece, payload)?;
                continue;
            }
            let message = piece.split_to(self.remaining.min(piece.len()));
            self.remaining -= message.len();
            payload.push(message)?;
            if self.remaining == 0 {
                // No value goes on in the next message.
                payload.release_tail();
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
        if fields.get_u8() & 1 != 0 {
            let message = "the upstream compressed a message, although it was asked for uncompressed messages, in \
                           which values can be masked";
            return Err(Refusal::new(Reason::UpstreamEncodingUnsupported, message));
        }
        self.remaining = usize::try_from(fields.get_u32()).unwrap_or(usize::MAX);
        payload.push_framing(prefix);
        Ok(())
    }
}
