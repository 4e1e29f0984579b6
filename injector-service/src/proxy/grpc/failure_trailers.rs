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
    proxy::{answer, body::Fault, record::Afterwards},
    upstream::{Body, BodyError},
};

/// How a call ends whose request breaks off after the answer has begun.
pub(in crate::proxy) struct FailureTrailers {
    pub(in crate::proxy) fault: Fault,
    pub(in crate::proxy) afterwards: Arc<Afterwards>,
    /// Whether trailers reach the downstream for certain: only in HTTP/2.
    pub(in crate::proxy) trailers: bool,
}

impl FailureTrailers {
    /// The response's body, which breaks off with the request: then it ends in a status that says why.
    pub(in crate::proxy) fn of(self, body: Body) -> Body {
        Ended {
            body,
            ending: self,
            told: false,
        }
        .boxed_unsync()
    }

    fn tell(&self, refusal: &Refusal, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        self.afterwards.broken_off(refusal);
        if self.trailers {
            Ok(Frame::trailers(answer::trailers(refusal)))
        } else {
            Err(error)
        }
    }
}

struct Ended {
    body: Body,
    ending: FailureTrailers,
    told: bool,
}

impl http_body::Body for Ended {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.told {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match (frame, self.ending.fault.found()) {
            (Some(Err(error)), Some(refusal)) => {
                self.told = true;
                Some(self.ending.tell(&refusal, error))
            }
            (frame, _) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.told || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
