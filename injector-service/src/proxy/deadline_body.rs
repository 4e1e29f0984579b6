//! The body of a response that ends at the call's deadline.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use proto::{Reason, Refusal};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{body, local_reply, stream_timeout, watchdog::ActiveCall};
use crate::upstream::{Body, BodyError, FramePoll};

/// A response body that ends at the latest at its deadline. The call ends when the body is dropped.
pub(super) struct DeadlineBody {
    body: Body,
    timer: Option<Pin<Box<Sleep>>>,
    at_deadline: AtDeadline,
    _call: ActiveCall,
}

/// The end of a response that is not complete at its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtDeadline {
    /// An error, which resets the stream or closes the connection.
    Abort,
    /// Trailers with gRPC's `DEADLINE_EXCEEDED`.
    GrpcTrailers,
}

impl DeadlineBody {
    pub(super) fn new(
        body: Body,
        deadline: Option<Instant>,
        at_deadline: AtDeadline,
        call: ActiveCall,
    ) -> Self {
        let deadline = deadline.filter(|_| !body.is_end_stream());
        Self {
            timer: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            body,
            at_deadline,
            _call: call,
        }
    }

    /// Drops the upstream's body, and returns the last frame.
    fn expire(&mut self) -> Result<Frame<Bytes>, BodyError> {
        self.timer = None;
        self.body = body::empty();
        let refusal = Refusal::new(Reason::DeadlineExceeded, "the call lasted longer than it may");
        match self.at_deadline {
            AtDeadline::Abort => Err(refusal.into()),
            AtDeadline::GrpcTrailers => Ok(Frame::trailers(local_reply::trailers(&refusal))),
        }
    }
}

impl http_body::Body for DeadlineBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(self.expire()));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        stream_timeout::record_body_poll(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
