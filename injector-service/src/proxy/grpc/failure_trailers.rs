use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use proto::Refusal;

use crate::{
    proxy::{call_record::LaterRecord, local_reply, upload::UploadState},
    upstream::{Body, BodyError, FramePoll},
};

/// Counts a call that the injector breaks off after the response has begun, and tells a gRPC client the reason. The
/// injector does this when it cannot send the request to its end, and when the response may not be passed on.
pub(in crate::proxy) struct FailureTrailers {
    pub(in crate::proxy) upload: UploadState,
    pub(in crate::proxy) record: Arc<LaterRecord>,
    /// True for a gRPC client that trailers always reach: over HTTP/2 only.
    pub(in crate::proxy) trailers: bool,
}

impl FailureTrailers {
    /// Wraps the body of the response. When the body fails with a refusal, or because the request has failed with one, the
    /// returned body ends with trailers that contain the refusal's status, if the client can receive trailers.
    pub(in crate::proxy) fn wrap(self, body: Body) -> Body {
        FailureTrailersBody {
            body,
            failure: self,
            has_failed: false,
        }
        .boxed_unsync()
    }

    /// Returns the refusal that made the body fail, unless the upstream is the cause.
    fn refusal(&self, error: &BodyError) -> Option<Refusal> {
        self.upload.failure().or_else(|| error.downcast_ref().cloned())
    }

    fn last_frame(&self, refusal: &Refusal, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        self.record.log_broken_off(refusal);
        if self.trailers {
            Ok(Frame::trailers(local_reply::trailers(refusal)))
        } else {
            Err(error)
        }
    }
}

struct FailureTrailersBody {
    body: Body,
    failure: FailureTrailers,
    has_failed: bool,
}

impl http_body::Body for FailureTrailersBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        if self.has_failed {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match frame {
            Some(Err(error)) => Some(match self.failure.refusal(&error) {
                Some(refusal) => {
                    self.has_failed = true;
                    self.failure.last_frame(&refusal, error)
                }
                None => Err(error),
            }),
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_failed || self.body.is_end_stream()
    }

    /// With trailers, the length is not known: the body may end before its last byte.
    fn size_hint(&self) -> SizeHint {
        match self.failure.trailers {
            true => SizeHint::default(),
            false => self.body.size_hint(),
        }
    }
}
