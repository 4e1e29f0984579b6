//! Answers that break: as much of them arrives as there was.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// How long an error is kept back.
const WRITTEN: Duration = Duration::from_millis(20);

/// A body whose error waits for what came before it to be written. hyper and h2 drop what they have not written when a
/// body breaks, the answer's head among it.
pub(super) struct DelayedErrorBody<B: Body> {
    body: B,
    broken: Option<(B::Error, Pin<Box<Sleep>>)>,
}

impl<B: Body> DelayedErrorBody<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, broken: None }
    }
}

impl<B: Body<Data = Bytes, Error: Unpin> + Unpin> Body for DelayedErrorBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.broken.is_none() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Err(error)) => self.broken = Some((error, Box::pin(sleep(WRITTEN)))),
                frame => return Poll::Ready(frame),
            }
        }
        if let Some((_, written)) = &mut self.broken {
            ready!(written.as_mut().poll(context));
        }
        Poll::Ready(self.broken.take().map(|(error, _)| Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
