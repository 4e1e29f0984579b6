//! The body of a request or response as it is received. The body ends without an error only when its sender ended it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Version, header, request::Parts};
use http_body::{Body, SizeHint};
use http_body_util::Either;
use hyper::body::Incoming;
use proto::Refusal;

use super::{
    buffer_budget::{BufferBudget, Reservation},
    drain::DrainingBody,
    replay::{ReplayBody, ReplayBuffer},
    watchdog::ActiveCall,
};
use crate::upstream::{AnswerConnection, BodyError, FramePoll};

/// A body over HTTP/1.1 or HTTP/2.
///
/// hyper takes `NO_ERROR` for the regular end of an HTTP/2 body even when more was to come: when the peer resets the
/// stream with this code, and when hyper closes the connection because the peer does not answer pings. `ReceivedBody`
/// reports an error then, so that an incomplete body is not passed on as complete.
pub(super) struct ReceivedBody {
    body: Either<DrainingBody, ReplayBody>,
    is_http2: bool,
    /// Bytes that h2 may read ahead of the consumer, until the body has ended.
    read_ahead: Option<Reservation>,
    _connection: Option<Arc<AnswerConnection>>,
}

impl ReceivedBody {
    pub(super) fn request(body: Incoming, head: &Parts, call: &ActiveCall) -> Self {
        // In HTTP/2 an early end of one stream does not disturb the others.
        let body = if head.version == Version::HTTP_2 || body.is_end_stream() {
            DrainingBody::without_draining(body)
        } else {
            DrainingBody::new(body, call.begin_body(), head.headers.contains_key(header::EXPECT))
        };
        Self::new(Either::Left(body), head.version)
    }

    pub(super) fn response(body: Incoming, version: Version, connection: Arc<AnswerConnection>) -> Self {
        let body = Either::Left(DrainingBody::without_draining(body));
        Self {
            _connection: Some(connection),
            ..Self::new(body, version)
        }
    }

    fn new(body: Either<DrainingBody, ReplayBody>, version: Version) -> Self {
        Self {
            body,
            is_http2: version == Version::HTTP_2,
            read_ahead: None,
            _connection: None,
        }
    }

    /// Reserves the bytes of the body that h2 may read ahead: at most `window`, the size of the stream's window.
    pub(super) fn reserve_read_ahead(&mut self, budget: &BufferBudget, window: u32) -> Result<(), Refusal> {
        if !self.is_http2 || self.body.is_end_stream() {
            return Ok(());
        }
        let announced = self.body.size_hint().upper().unwrap_or(u64::MAX);
        let mut reservation = budget.empty_reservation();
        reservation.grow(usize::try_from(announced.min(window.into())).unwrap_or(usize::MAX))?;
        self.read_ahead = Some(reservation);
        Ok(())
    }

    /// Returns the body of a request, and a buffer of up to `limit` bytes from which [`ReceivedBody::replay`] returns
    /// the body once more. The bytes are counted in `reservation`.
    pub(super) fn replayable(self, limit: usize, reservation: Reservation) -> (Self, Option<ReplayBuffer>) {
        let Either::Left(body) = self.body else {
            return (self, None);
        };
        let (buffer, first) = ReplayBuffer::new(body, limit, reservation);
        let body = Either::Right(first);
        (Self { body, ..self }, Some(buffer))
    }

    /// Returns the body from its beginning, or None when something that was read is not in the buffer.
    pub(super) fn replay(buffer: &ReplayBuffer, version: Version) -> Option<Self> {
        Some(Self::new(Either::Right(buffer.replay()?), version))
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if self.body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.read_ahead = None;
        }
        Poll::Ready(match frame {
            Some(frame) => Some(frame),
            None if self.is_http2 && !self.body.is_end_stream() => {
                Some(Err("the stream was closed before its end".into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
