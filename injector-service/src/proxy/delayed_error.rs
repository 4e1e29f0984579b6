//! The body of a response that delivers everything that was received before an error.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

const DELAY: Duration = Duration::from_millis(20);

/// A body that reports an error [`DELAY`] late. When a body fails, hyper and h2 drop the bytes that they have not
/// written, even the response's head. The delay gives them time to write these bytes.
pub(super) struct DelayedErrorBody<B: Body> {
    body: B,
    error: Option<(B::Error, Pin<Box<Sleep>>)>,
}

impl<B: Body> DelayedErrorBody<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, error: None }
    }
}

impl<B: Body<Data = Bytes, Error: Unpin> + Unpin> Body for DelayedErrorBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.error.is_none() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Err(error)) => self.error = Some((error, Box::pin(sleep(DELAY)))),
                frame => return Poll::Ready(frame),
            }
        }
        if let Some((_, timer)) = &mut self.error {
            ready!(timer.as_mut().poll(context));
        }
        Poll::Ready(self.error.take().map(|(error, _)| Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.error.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
