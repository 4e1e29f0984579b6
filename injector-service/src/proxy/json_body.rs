//! JSON bodies of requests, with secrets put into them as the member `secrets`.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use proto::{Reason, Refusal};
use zeroize::Zeroizing;

use super::{
    body,
    buffered_body::{BufferedBody, BufferedBytes, ReservedBytes},
    received_body::ReceivedBody,
    upload::UploadState,
};
use crate::{
    inject::json::{JsonError, Rewriter, SecretsObject},
    upstream::{Body, BodyError, FramePoll},
};

/// Returns the body with `secrets` as its member `secrets`. A large body that turns out to be invalid while it streams
/// fails in `state`.
pub(super) fn with_secrets(
    body: BufferedBody,
    secrets: SecretsObject,
    state: &UploadState,
) -> Result<Body, Refusal> {
    let mut rewriter = Rewriter::new(secrets);
    match body {
        BufferedBody::Absent => Ok(body::empty()),
        BufferedBody::Whole(buffer) => {
            let mut whole = rewrite(buffer, &mut rewriter)?;
            rewriter.finish(&mut whole.bytes).map_err(invalid)?;
            Ok(body::full(Bytes::from_owner(whole)))
        }
        BufferedBody::Large(buffer, rest) => {
            let start = Bytes::from_owner(rewrite(buffer, &mut rewriter)?);
            state.set_secrets_pending(true);
            Ok(LargeJsonBody {
                start,
                rewriter: Some(rewriter),
                rest,
                state: state.clone(),
            }
            .boxed_unsync())
        }
    }
}

fn rewrite(buffer: BufferedBytes, rewriter: &mut Rewriter) -> Result<ReservedBytes, Refusal> {
    buffer.rewrite(|bytes| {
        let mut out = Zeroizing::new(Vec::with_capacity(bytes.len()));
        rewriter.push(bytes, &mut out).map_err(invalid)?;
        Ok(out)
    })
}

/// A large body that is rewritten while it streams. The secrets come last, after the whole body was found valid. An
/// invalid body ends in an error, which resets the upstream request.
struct LargeJsonBody {
    start: Bytes,
    /// None once the secrets were sent or the body has failed.
    rewriter: Option<Rewriter>,
    rest: ReceivedBody,
    state: UploadState,
}

impl http_body::Body for LargeJsonBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        if !self.start.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.start)))));
        }
        loop {
            let Some(mut rewriter) = self.rewriter.take() else {
                return Poll::Ready(None);
            };
            match Pin::new(&mut self.rest).poll_frame(context) {
                Poll::Pending => {
                    self.rewriter = Some(rewriter);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(self.state.fail_incomplete(error))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let mut out = Vec::new();
                    if let Ok(data) = frame.into_data()
                        && let Err(error) = rewriter.push(&data, &mut out)
                    {
                        return Poll::Ready(Some(Err(self.state.fail(invalid(error)))));
                    }
                    self.rewriter = Some(rewriter);
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Some(self.end(rewriter))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.start.is_empty() && self.rewriter.is_none()
    }
}

impl LargeJsonBody {
    /// Returns the last frame, which has the secrets.
    fn end(&self, rewriter: Rewriter) -> Result<Frame<Bytes>, BodyError> {
        let mut out = Vec::new();
        rewriter
            .finish(&mut out)
            .map_err(|error| self.state.fail(invalid(error)))?;
        self.state.set_secrets_pending(false);
        Ok(Frame::data(Bytes::from_owner(Zeroizing::new(out))))
    }
}

fn invalid(error: JsonError) -> Refusal {
    Refusal::new(
        Reason::BodyInvalid,
        format!("the body must be one JSON object (RFC 8259): {error}"),
    )
}
