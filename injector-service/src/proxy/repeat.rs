//! A request's body that can be read a second time, so that a request which the upstream did not process can be sent
//! again.
//!
//! The bytes that were read are kept until the upstream has answered, up to a limit. They are the bytes that the program
//! sent: secrets are decrypted and put in anew when the request is sent again.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{buffer_budget::Reservation, drain::DrainingBody};
use crate::upstream::BodyError;

/// Gives out readers of one body, each of which reads the body from its beginning. Dropping it frees the kept bytes.
pub(super) struct Repeat(Arc<Mutex<Shared>>);

/// Reads the body. Fails once [`Repeat::again`] has made a newer reader.
pub(super) struct Reader {
    shared: Arc<Mutex<Shared>>,
    number: usize,
    /// Kept bytes that the reader has not given out. None once it reads from the sender.
    kept: Option<Bytes>,
}

struct Shared {
    body: DrainingBody,
    /// The number of the newest reader.
    reader: usize,
    /// None when something that was read was not kept.
    kept: Option<Kept>,
}

/// Everything that was read of a body.
struct Kept {
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    held: Reservation,
    limit: usize,
}

impl Kept {
    /// Keeps the frame, if the limit and the budget allow that.
    fn push(mut self, frame: &Frame<Bytes>) -> Option<Self> {
        if let Some(data) = frame.data_ref() {
            if self.bytes.len() + data.len() > self.limit || !self.held.grow_optional(data.len()) {
                return None;
            }
            // Copied: the frame may be a small part of a large buffer.
            self.bytes.extend_from_slice(data);
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        Some(self)
    }
}

impl Repeat {
    /// Keeps up to `limit` bytes of the body, counted in `held`. Returns the first reader, too.
    pub(super) fn new(body: DrainingBody, limit: usize, held: Reservation) -> (Self, Reader) {
        let shared = Arc::new(Mutex::new(Shared {
            body,
            reader: 0,
            kept: Some(Kept {
                bytes: Vec::new(),
                trailers: None,
                held,
                limit,
            }),
        }));
        let reader = Reader {
            shared: shared.clone(),
            number: 0,
            kept: None,
        };
        (Self(shared), reader)
    }

    /// Returns a reader that begins anew, or None when not everything that was read was kept.
    pub(super) fn again(&self) -> Option<Reader> {
        let mut shared = lock(&self.0);
        let kept = Bytes::copy_from_slice(&shared.kept.as_ref()?.bytes);
        shared.reader += 1;
        Some(Reader {
            shared: self.0.clone(),
            number: shared.reader,
            kept: Some(kept),
        })
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        lock(&self.0).kept = None;
    }
}

impl Shared {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.kept = match (self.kept.take(), &frame) {
            (Some(kept), Some(Ok(frame))) => kept.push(frame),
            (kept, None) => kept,
            (_, Some(_)) => None,
        };
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn trailers(&self) -> Option<&HeaderMap> {
        self.kept.as_ref().and_then(|kept| kept.trailers.as_ref())
    }
}

impl Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut shared = lock(&this.shared);
        if shared.reader != this.number {
            return Poll::Ready(Some(Err("the request is sent again".into())));
        }
        if let Some(kept) = this.kept.take() {
            // Trailers were the last frame, so they are given out after the bytes, and nothing follows them.
            if let Some(trailers) = shared.trailers().cloned() {
                if kept.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                this.kept = Some(Bytes::new());
            }
            if !kept.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(kept))));
            }
        }
        shared.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        let given = match &self.kept {
            Some(kept) => kept.is_empty() && shared.trailers().is_none(),
            None => true,
        };
        given && shared.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.len() as u64);
        let rest = lock(&self.shared).body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept);
        }
        hint
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
