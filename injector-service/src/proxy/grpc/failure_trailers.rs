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
    proxy::{call_record::MessageRecord, local_reply, upload::UploadState},
    upstream::{Body, BodyError, FramePoll},
};

/// Tells a gRPC client why its call failed when the request is aborted after the response has begun.
pub(in crate::proxy) struct FailureTrailers {
    pub(in crate::proxy) upload: UploadState,
    pub(in crate::proxy) record: Arc<MessageRecord>,
    /// True when trailers always reach the client: over HTTP/2 only.
    pub(in crate::proxy) trailers: bool,
}

impl FailureTrailers {
    /// Wraps the body of the response. When the body fails because the request has failed, the returned body ends with
    /// trailers that contain the refusal's status, if the client can receive trailers.
    pub(in crate::proxy) fn wrap(self, body: Body) -> Body {
        FailureTrailersBody {
            body,
            failure: self,
            has_failed: false,
        }
        .boxed_unsync()
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
        Poll::Ready(match (frame, self.failure.upload.failure()) {
            (Some(Err(error)), Some(refusal)) => {
                self.has_failed = true;
                Some(self.failure.last_frame(&refusal, error))
            }
            (frame, _) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_failed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
