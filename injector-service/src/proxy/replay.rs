//! A request body that can be read a second time, for a request that the upstream did not process.
//!
//! The buffer holds the bytes that the program sent, up to a limit, until the upstream has answered. It holds no
//! secrets.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{buffer_budget::Reservation, drain::DrainingBody};
use crate::upstream::{BodyError, FramePoll};

/// Makes readers of one body, each of which begins at the start of the body. Dropping the buffer frees its bytes.
pub(super) struct ReplayBuffer(Arc<Mutex<SharedReader>>);

/// A reader of the body: first of the buffer's bytes, then of the rest, which the program still sends. It fails once
/// [`ReplayBuffer::replay`] has made a newer reader.
pub(super) struct ReplayBody {
    shared: Arc<Mutex<SharedReader>>,
    number: usize,
    /// The buffer's bytes that were not given out. None once the reader reads the rest.
    buffered: Option<Bytes>,
}

struct SharedReader {
    rest: DrainingBody,
    /// The number of the newest reader.
    newest: usize,
    /// None when something that was read is not in the buffer.
    buffer: Option<Buffer>,
}

/// Everything that was read of a body.
struct Buffer {
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    reservation: Reservation,
    limit: usize,
}

impl Buffer {
    /// Adds a frame, or returns None when the limit or the budget does not allow that.
    fn push(mut self, frame: &Frame<Bytes>) -> Option<Self> {
        if let Some(data) = frame.data_ref() {
            if self.bytes.len() + data.len() > self.limit || !self.reservation.grow_optional(data.len()) {
                return None;
            }
            // Copied, because the frame may be a small part of a large buffer that it would keep alive.
            self.bytes.extend_from_slice(data);
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        Some(self)
    }
}

impl ReplayBuffer {
    /// Returns a buffer of up to `limit` bytes, which are counted in `reservation`, and the first reader.
    pub(super) fn new(rest: DrainingBody, limit: usize, reservation: Reservation) -> (Self, ReplayBody) {
        let shared = Arc::new(Mutex::new(SharedReader {
            rest,
            newest: 0,
            buffer: Some(Buffer {
                bytes: Vec::new(),
                trailers: None,
                reservation,
                limit,
            }),
        }));
        let first = ReplayBody {
            shared: shared.clone(),
            number: 0,
            buffered: None,
        };
        (Self(shared), first)
    }

    /// Returns a reader that begins at the start, or None when something that was read is not in the buffer.
    pub(super) fn replay(&self) -> Option<ReplayBody> {
        let mut shared = lock(&self.0);
        let buffered = Bytes::copy_from_slice(&shared.buffer.as_ref()?.bytes);
        shared.newest += 1;
        Some(ReplayBody {
            shared: self.0.clone(),
            number: shared.newest,
            buffered: Some(buffered),
        })
    }
}

impl Drop for ReplayBuffer {
    fn drop(&mut self) {
        lock(&self.0).buffer = None;
    }
}

impl SharedReader {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> FramePoll {
        let frame = ready!(Pin::new(&mut self.rest).poll_frame(context));
        self.buffer = match (self.buffer.take(), &frame) {
            (Some(buffer), Some(Ok(frame))) => buffer.push(frame),
            (buffer, None) => buffer,
            (_, Some(_)) => None,
        };
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn trailers(&self) -> Option<&HeaderMap> {
        self.buffer.as_ref().and_then(|buffer| buffer.trailers.as_ref())
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        let this = &mut *self;
        let mut shared = lock(&this.shared);
        if shared.newest != this.number {
            return Poll::Ready(Some(Err("the request is sent again".into())));
        }
        if let Some(buffered) = this.buffered.take() {
            // Trailers are the last frame of a body, so the program sends nothing after buffered trailers.
            if let Some(trailers) = shared.trailers().cloned() {
                if buffered.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                this.buffered = Some(Bytes::new());
            }
            if !buffered.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(buffered))));
            }
        }
        shared.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        let is_buffer_given_out = match &self.buffered {
            Some(buffered) => buffered.is_empty() && shared.trailers().is_none(),
            None => true,
        };
        is_buffer_given_out && shared.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let buffered = self.buffered.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let rest = lock(&self.shared).rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + buffered);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + buffered);
        }
        hint
    }
}

fn lock(shared: &Mutex<SharedReader>) -> MutexGuard<'_, SharedReader> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
