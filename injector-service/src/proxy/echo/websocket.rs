//! The framing of the WebSocket protocol (RFC 6455, section 5.2), in the direction from the server to the client.

use bytes::{Bytes, BytesMut};
use proto::{Reason, Refusal};

use super::payload::MaskedPayload;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const IS_MASKED: u8 = 0x80;
/// Opcodes from here on are those of control frames.
const FIRST_CONTROL: u8 = 8;
const MAX_CONTROL_PAYLOAD: usize = 125;

/// The position in a stream of frames.
#[derive(Default)]
pub(in crate::proxy) struct WebSocketFraming {
    /// The bytes of the next header that were received.
    header: BytesMut,
    frame: Option<Frame>,
}

/// The frame whose payload is being received.
struct Frame {
    /// The bytes of the payload that were not received.
    remaining: u64,
    kind: FrameKind,
}

enum FrameKind {
    /// A part of a message.
    Data { is_last: bool },
    /// The payload of a control frame, as far as it was received. It is searched as a whole.
    Control(BytesMut),
}

impl WebSocketFraming {
    pub(super) fn push(&mut self, mut piece: Bytes, payload: &mut MaskedPayload) -> Result<(), Refusal> {
        while !piece.is_empty() {
            match self.frame.take() {
                None => self.push_header(&mut piece, payload)?,
                Some(frame) => self.push_payload(frame, &mut piece, payload)?,
            }
        }
        Ok(())
    }

    fn push_header(&mut self, piece: &mut Bytes, payload: &mut MaskedPayload) -> Result<(), Refusal> {
        self.header.extend_from_slice(&piece.split_to(1));
        let Some(remaining) = payload_len(&self.header)? else {
            return Ok(());
        };
        let header = self.header.split().freeze();
        let first = header.first().copied().unwrap_or_default();
        let kind = if first & 0xf < FIRST_CONTROL {
            FrameKind::Data {
                is_last: first & FIN != 0,
            }
        } else if remaining > MAX_CONTROL_PAYLOAD as u64 {
            return Err(malformed());
        } else {
            FrameKind::Control(BytesMut::new())
        };
        payload.push_framing(header);
        let frame = Frame { remaining, kind };
        if remaining == 0 {
            self.end(frame.kind, payload)
        } else {
            self.frame = Some(frame);
            Ok(())
        }
    }

    fn push_payload(
        &mut self,
        mut frame: Frame,
        piece: &mut Bytes,
        payload: &mut MaskedPayload,
    ) -> Result<(), Refusal> {
        let remaining = usize::try_from(frame.remaining).unwrap_or(usize::MAX);
        let part = piece.split_to(remaining.min(piece.len()));
        frame.remaining -= part.len() as u64;
        match &mut frame.kind {
            FrameKind::Data { .. } => payload.push(part)?,
            FrameKind::Control(received) => received.extend_from_slice(&part),
        }
        if frame.remaining == 0 {
            self.end(frame.kind, payload)
        } else {
            self.frame = Some(frame);
            Ok(())
        }
    }

    fn end(&mut self, kind: FrameKind, payload: &mut MaskedPayload) -> Result<(), Refusal> {
        match kind {
            FrameKind::Data { is_last: true } => payload.release_tail(),
            FrameKind::Data { is_last: false } => {}
            FrameKind::Control(received) => {
                let masked = payload.masked(received.freeze())?;
                payload.push_framing(masked);
            }
        }
        Ok(())
    }
}

/// Returns the length of the payload, or `None` when the header is not complete.
fn payload_len(header: &[u8]) -> Result<Option<u64>, Refusal> {
    let [first, second, length @ ..] = header else {
        return Ok(None);
    };
    // Extensions were not agreed on, and servers do not mask.
    if first & RESERVED != 0 || second & IS_MASKED != 0 {
        return Err(malformed());
    }
    Ok(match (second, length) {
        (126, &[a, b]) => Some(u16::from_be_bytes([a, b]).into()),
        (127, &[a, b, c, d, e, f, g, h]) => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        (126 | 127, _) => None,
        (length, _) => Some((*length).into()),
    })
}

fn malformed() -> Refusal {
    let message =
        "the upstream sent a WebSocket frame that is malformed, or of an extension that was not agreed on";
    Refusal::new(Reason::UpstreamProtocol, message)
}
