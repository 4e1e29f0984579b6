//! A stream of payloads and their framing, in which the payloads are masked.

use bytes::Bytes;
use proto::Refusal;

use super::{EchoFilter, grpc::GrpcFraming, payload::MaskedPayload, websocket::WebSocketFraming};
use crate::proxy::{buffer_budget::Reservation, grpc::encoding::Encoding};

/// The bytes of a stream that are not payload.
pub(in crate::proxy) enum Framing {
    None,
    Grpc(GrpcFraming),
    WebSocket(WebSocketFraming),
}

/// Masks the payloads of a stream that comes in pieces.
pub(in crate::proxy) struct MaskedStream {
    framing: Framing,
    payload: MaskedPayload,
}

impl Framing {
    /// Messages may be compressed in `encoding`. The reservation holds the bytes of compressed messages.
    pub(super) fn grpc(encoding: Encoding, reservation: Reservation) -> Self {
        Self::Grpc(GrpcFraming::new(encoding, reservation))
    }

    pub(in crate::proxy) fn web_socket() -> Self {
        Self::WebSocket(WebSocketFraming::default())
    }
}

impl MaskedStream {
    pub(in crate::proxy) fn new(filter: EchoFilter, framing: Framing) -> Self {
        let payload = MaskedPayload::new(filter);
        Self { framing, payload }
    }

    /// Takes the next piece, and returns the bytes that can be given out. After an error, nothing may be given out.
    pub(in crate::proxy) fn push(&mut self, piece: Bytes) -> Result<Bytes, Refusal> {
        match &mut self.framing {
            Framing::None => self.payload.push(piece)?,
            Framing::Grpc(framing) => framing.push(piece, &mut self.payload)?,
            Framing::WebSocket(framing) => framing.push(piece, &mut self.payload)?,
        }
        Ok(self.payload.take_output())
    }

    /// Gives out the last bytes, unless a value has almost certainly begun in them.
    pub(in crate::proxy) fn release_tail(&mut self) -> Bytes {
        self.payload.release_tail();
        self.payload.take_output()
    }

    /// Gives out all bytes.
    pub(in crate::proxy) fn release_all(&mut self) -> Bytes {
        self.payload.release_all();
        self.payload.take_output()
    }

    pub(in crate::proxy) fn log_broken_off(&self, refusal: &Refusal) {
        self.payload.log_broken_off(refusal);
    }

    /// Returns false inside a gRPC message of which bytes are not given out yet, apart from those that [`Self::holds_bytes`]
    /// reports.
    pub(super) fn is_between_messages(&self) -> bool {
        match &self.framing {
            Framing::None | Framing::WebSocket(_) => true,
            Framing::Grpc(framing) => framing.is_between_messages(),
        }
    }

    pub(in crate::proxy) fn holds_bytes(&self) -> bool {
        self.payload.holds_bytes()
    }
}
