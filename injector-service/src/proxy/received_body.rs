//! A body as it is received, which ends well only when its sender ended it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Version, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use proto::Refusal;

use super::{
    buffer_budget::{BufferBudget, Reservation},
    drain::DrainingBody,
    repeat::{Reader, Repeat},
    watchdog::ActiveCall,
};
use crate::upstream::{BodyError, StreamSlot};

/// The body of a request or of a response.
///
/// hyper takes `NO_ERROR` for a good end of a body of HTTP/2 whatever is still to come: when its stream is reset so, and
/// when the connection is given up because the peer does not answer pings any more. What came so far would then be passed
/// on as if it was everything.
pub(super) struct ReceivedBody {
    body: Source,
    http2: bool,
    /// The bytes that h2 may read ahead of the consumer, counted in the budget until the body has ended.
    read_ahead: Option<Reservation>,
    /// Free for another call once this has ended.
    _slot: Option<Arc<StreamSlot>>,
}

enum Source {
    Sender(DrainingBody),
    Repeat(Reader),
}

impl Source {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Sender(body) => Pin::new(body)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::from))),
            Self::Repeat(reader) => Pin::new(reader).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Sender(body) => body.is_end_stream(),
            Self::Repeat(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Sender(body) => body.size_hint(),
            Self::Repeat(reader) => reader.size_hint(),
        }
    }
}

impl ReceivedBody {
    /// The body of a request with this head.
    pub(super) fn request(body: Incoming, head: &Parts, call: &ActiveCall) -> Self {
        let body = match head.version {
            // Over HTTP/2 the end of one stream leaves the others alone.
            Version::HTTP_2 => DrainingBody::passing(body),
            _ if body.is_end_stream() => DrainingBody::passing(body),
            _ => DrainingBody::to_its_end(body, call.unread(), head.headers.contains_key(header::EXPECT)),
        };
        Self::new(body, head.version)
    }

    /// The body of an answer with a head of this version.
    pub(super) fn answer(body: Incoming, version: Version) -> Self {
        Self::new(DrainingBody::passing(body), version)
    }

    fn new(body: DrainingBody, version: Version) -> Self {
        Self {
            body: Source::Sender(body),
            http2: version == Version::HTTP_2,
            read_ahead: None,
            _slot: None,
        }
    }

    /// Counts in `budget` the bytes of the body that h2 may read ahead: at most `window`, the size of the stream's
    /// window.
    pub(super) fn count_read_ahead(&mut self, budget: &BufferBudget, window: u32) -> Result<(), Refusal> {
        if !self.http2 || self.body.is_end_stream() {
            return Ok(());
        }
        let announced = self.body.size_hint().upper().unwrap_or(u64::MAX);
        let mut held = budget.none();
        held.add(usize::try_from(announced.min(window.into())).unwrap_or(usize::MAX))?;
        self.read_ahead = Some(held);
        Ok(())
    }

    /// Keeps up to `limit` bytes of what is read of a request's body, counted in `held`, so that [`Received::again`] can
    /// return the body once more.
    pub(super) fn repeatable(self, limit: usize, held: Reservation) -> (Self, Option<Repeat>) {
        let Source::Sender(body) = self.body else {
            return (self, None);
        };
        let (repeat, reader) = Repeat::new(body, limit, held);
        let body = Source::Repeat(reader);
        (Self { body, ..self }, Some(repeat))
    }

    /// Returns the body from its beginning, or None when not everything that was read of it was kept.
    pub(super) fn again(repeat: &Repeat, version: Version) -> Option<Self> {
        Some(Self {
            body: Source::Repeat(repeat.again()?),
            http2: version == Version::HTTP_2,
            read_ahead: None,
            _slot: None,
        })
    }

    /// The same, of an answer that takes this place.
    pub(super) fn on(self, slot: Option<Arc<StreamSlot>>) -> Self {
        Self { _slot: slot, ..self }
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(self.body.poll_frame(context));
        if self.body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.read_ahead = None;
        }
        Poll::Ready(match frame {
            Some(frame) => Some(frame),
            None if self.http2 && !self.body.is_end_stream() => {
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
