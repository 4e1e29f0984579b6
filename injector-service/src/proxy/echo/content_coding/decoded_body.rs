//! A body that is decoded while it is received.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Frame;
use proto::{Reason, Refusal};

use crate::upstream::{BodyError, FramePoll};

/// Decodes a text that comes in pieces.
pub(super) trait Decoder {
    /// Takes bytes from the beginning of `input`, and returns the bytes that they stand for, as far as these are known. A
    /// call takes or returns at least one byte, or nothing is left to take and to return.
    fn decode(&mut self, input: &mut Bytes) -> Result<Bytes, Refusal>;

    /// Returns true when the text may end here.
    fn may_end(&self) -> bool;
}

pub(super) struct DecodedBody<B, D> {
    body: B,
    decoder: D,
    /// Received bytes that the decoder has not taken.
    input: Bytes,
    has_ended: bool,
}

impl<B, D: Decoder> DecodedBody<B, D> {
    pub(super) fn new(body: B, decoder: D) -> Self {
        Self {
            body,
            decoder,
            input: Bytes::new(),
            has_ended: false,
        }
    }

    /// Returns the next decoded bytes, or nothing when more has to be received.
    fn decode(&mut self) -> Result<Bytes, Refusal> {
        loop {
            let decoded = self.decoder.decode(&mut self.input)?;
            if !decoded.is_empty() || self.input.is_empty() {
                return Ok(decoded);
            }
        }
    }

    fn check_end(&self) -> Result<(), Refusal> {
        match self.decoder.may_end() {
            true => Ok(()),
            false => Err(Refusal::new(
                Reason::UpstreamProtocol,
                "the compressed body of the upstream's answer is not complete",
            )),
        }
    }
}

impl<B, D> DecodedBody<B, D>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
    D: Decoder,
{
    fn poll_next(&mut self, context: &mut Context<'_>) -> FramePoll {
        loop {
            let decoded = self.decode()?;
            if !decoded.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(decoded))));
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context)).transpose()?;
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => self.input = data,
                Some(Err(trailers)) => {
                    self.check_end()?;
                    return Poll::Ready(Some(Ok(trailers)));
                }
                None => {
                    self.check_end()?;
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl<B, D> http_body::Body for DecodedBody<B, D>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
    D: Decoder + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = ready!(self.poll_next(context));
        self.has_ended = !matches!(&frame, Some(Ok(frame)) if frame.is_data());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

pub(super) fn window_too_large() -> Refusal {
    Refusal::new(
        Reason::UpstreamEncodingUnsupported,
        "the upstream compressed its answer, although it was asked for a plain one, with a larger window than the \
         injector decodes: 16 MiB for br, and 8 MiB for zstd",
    )
}

/// The upstream has processed the request, so the refusal must not ask the program to send it again.
pub(super) fn no_memory() -> Refusal {
    Refusal::new(
        Reason::UpstreamEncodingUnsupported,
        "the upstream compressed its answer, although it was asked for a plain one, and no memory is left to decode it; \
         see --max-buffered-total",
    )
}

pub(super) fn malformed() -> Refusal {
    Refusal::new(
        Reason::UpstreamProtocol,
        "the body of the upstream's answer is not what its Content-Encoding says",
    )
}
