//! Joins small pieces of a body, and cleans its trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::upstream::{BodyError, FramePoll};

/// Pieces with fewer bytes are joined.
const SMALL: usize = 1024;
/// Approximate size at which joined pieces are passed on.
const MAX_JOINED: usize = 16 * 1024;

/// A body whose small pieces are joined if they are available at the same time, and whose trailers are cleaned by
/// `clean`.
///
/// Each piece becomes an HTTP/2 frame or a chunk of its own, and many receivers close a connection that has very many
/// tiny frames, because such frames can be an attack.
pub(super) struct CoalescingBody<B, F> {
    body: B,
    clean: F,
    /// The frame that was received after joined pieces, and has to follow them.
    next: Option<Result<Frame<Bytes>, BodyError>>,
}

impl<B, F> CoalescingBody<B, F> {
    pub(super) fn new(body: B, clean: F) -> Self {
        Self {
            body,
            clean,
            next: None,
        }
    }
}

impl<B, F> CoalescingBody<B, F>
where
    B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Unpin,
    F: Fn(&mut HeaderMap),
{
    fn poll_inner(&mut self, context: &mut Context<'_>) -> FramePoll {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame.map_err(Into::into)?;
            if let Some(trailers) = frame.trailers_mut() {
                (self.clean)(trailers);
            }
            Ok(frame)
        }))
    }

    /// Appends the available small pieces to a first small piece.
    fn join_available(&mut self, first: Bytes, context: &mut Context<'_>) -> Bytes {
        let mut joined = BytesMut::new();
        while joined.len() < MAX_JOINED && !self.body.is_end_stream() {
            let Poll::Ready(Some(frame)) = self.poll_inner(context) else {
                break;
            };
            match frame.as_ref().ok().and_then(Frame::data_ref) {
                Some(more) if more.len() < SMALL => {
                    if joined.is_empty() {
                        joined.reserve(MAX_JOINED + SMALL);
                        joined.extend_from_slice(&first);
                    }
                    joined.extend_from_slice(more);
                }
                _ => {
                    self.next = Some(frame);
                    break;
                }
            }
        }
        if joined.is_empty() { first } else { joined.freeze() }
    }
}

impl<B, F> http_body::Body for CoalescingBody<B, F>
where
    B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Unpin,
    F: Fn(&mut HeaderMap) + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        let this = &mut *self;
        if let Some(next) = this.next.take() {
            return Poll::Ready(Some(next));
        }
        let frame = ready!(this.poll_inner(context));
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(first) if first.len() < SMALL => Frame::data(this.join_available(first, context)),
                Ok(data) => Frame::data(data),
                Err(frame) => frame,
            })),
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
