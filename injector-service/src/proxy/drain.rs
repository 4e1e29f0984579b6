//! The rest of a request's body that nobody wants any more: the upstream has answered without it, or the call was refused.
//!
//! Closed with unread bytes in it, a connection over HTTP/1.1 is reset, and the sender sees that instead of the answer. So
//! the rest is taken, up to a limit, beside the answer; and what comes later still is taken when the connection is
//! closed (`Watched` in `activity.rs`).

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{runtime::Handle, time::timeout};

use super::watchdog::UnreadBody;

/// How much of the rest is taken, and for how long.
const DISCARDED: (usize, Duration) = (16 * 1024 * 1024, Duration::from_secs(5));

/// A body whose rest is taken when it is dropped, if it is a request's over HTTP/1.1.
pub(super) struct DrainingBody {
    /// None once the rest is taken elsewhere.
    body: Option<Incoming>,
    unread: Option<UnreadBody>,
    /// False while the sender waits to be told to continue.
    is_sent: bool,
}

impl DrainingBody {
    /// A body of which nothing has to be taken.
    pub(super) fn passing(body: Incoming) -> Self {
        Self {
            body: Some(body),
            unread: None,
            is_sent: true,
        }
    }

    /// A request's body, which is sent already unless its sender `expects` to be told to.
    pub(super) fn to_its_end(body: Incoming, unread: UnreadBody, expects: bool) -> Self {
        Self {
            body: Some(body),
            unread: Some(unread),
            is_sent: !expects,
        }
    }

    fn note_end(&mut self) {
        if self.is_end_stream()
            && let Some(unread) = self.unread.take()
        {
            unread.came_to_its_end();
        }
    }
}

impl Body for DrainingBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(context);
        self.is_sent = true;
        let frame = ready!(polled);
        match frame {
            Some(Ok(_)) => self.note_end(),
            Some(Err(_)) | None => {
                if let Some(unread) = self.unread.take() {
                    unread.came_to_its_end();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for DrainingBody {
    fn drop(&mut self) {
        if let (Some(body), Some(unread), true) = (self.body.take(), self.unread.take(), self.is_sent)
            && let Ok(runtime) = Handle::try_current()
        {
            // What comes later is cut off.
            runtime.spawn(timeout(DISCARDED.1, discard(body, unread)));
        }
    }
}

async fn discard(mut body: Incoming, unread: UnreadBody) {
    let mut left = DISCARDED.0;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(less) => left = less,
            None => return,
        }
    }
    unread.came_to_its_end();
}
