//! Reads and discards the rest of a request's body that nobody needs: the upstream has answered without it, or the call
//! was refused.
//!
//! An HTTP/1.1 connection that is closed with unread bytes is reset, and the sender sees the reset instead of the
//! response. Therefore the rest is read while the response is sent, up to a limit. `WatchedStream` reads bytes that
//! arrive even later, when it closes the connection.

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

/// Most bytes that are discarded, and the longest time for it.
const MAX_DISCARDED: usize = 16 * 1024 * 1024;
const MAX_DRAIN_TIME: Duration = Duration::from_secs(5);

/// A body whose rest is discarded when it is dropped, if the body belongs to an HTTP/1.1 request.
pub(super) struct DrainingBody {
    /// `None` once the body was dropped.
    body: Option<Incoming>,
    /// `None` when nothing has to be discarded.
    unread: Option<UnreadBody>,
    /// False while the sender waits for `100 Continue`, and so sends no body.
    is_sent: bool,
}

impl DrainingBody {
    /// Wraps a body of which nothing has to be discarded.
    pub(super) fn without_draining(body: Incoming) -> Self {
        Self {
            body: Some(body),
            unread: None,
            is_sent: true,
        }
    }

    pub(super) fn new(body: Incoming, unread: UnreadBody, expects_continue: bool) -> Self {
        Self {
            body: Some(body),
            unread: Some(unread),
            is_sent: !expects_continue,
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
        // A first poll makes hyper send `100 Continue`.
        self.is_sent = true;
        let frame = ready!(polled);
        let has_ended = !matches!(frame, Some(Ok(_))) || self.is_end_stream();
        if let Some(unread) = self.unread.take_if(|_| has_ended) {
            unread.end();
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
            runtime.spawn(timeout(MAX_DRAIN_TIME, drain(body, unread)));
        }
    }
}

async fn drain(mut body: Incoming, unread: UnreadBody) {
    let mut left = MAX_DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(less) => left = less,
            None => return,
        }
    }
    unread.end();
}
