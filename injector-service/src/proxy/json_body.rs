//! JSON bodies of requests, with secrets put into them: as the member `secrets`, or at JSON Pointers.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt as _;
use proto::{Reason, Refusal};
use zeroize::Zeroizing;

use super::{
    body::{self, is_type},
    buffered_body::{BufferedBody, BufferedBytes, ReservedBytes, WholeBody},
    received_body::ReceivedBody,
    upload::UploadState,
};
use crate::{
    inject::json::{JsonError, JsonMembers, Rewriter, SecretsObject, insert_members},
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

/// Returns the body with `members` at their pointers.
pub(super) fn with_members(body: WholeBody, members: &JsonMembers) -> Result<Body, Refusal> {
    body.rewrite(|body| {
        insert_members(body, members).map_err(|error| Refusal::new(Reason::BodyInvalid, error))
    })
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

/// Checks that `headers` describe a body that secrets can be put into.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    if !is_json(headers) {
        return Err(Refusal::new(
            Reason::BodyTypeUnsupported,
            "this server gets its secrets in a JSON body: Content-Type must be application/json or end in +json, in UTF-8",
        ));
    }
    body::check_is_rewritable(headers)
}

/// Returns true for `problem+json` and other suffixed types, but not for `grpc-web+json`, whose JSON has frames around
/// it.
fn is_json_subtype(subtype: &str) -> bool {
    subtype.len() > 5 && subtype.ends_with("+json") && !subtype.starts_with("grpc")
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    is_type(headers, |essence| {
        let subtype = essence.split_once('/').map(|(_, subtype)| subtype);
        essence == "application/json" || subtype.is_some_and(is_json_subtype)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn reason(pairs: &[(&'static str, &'static str)]) -> Option<Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check_type(&headers).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn only_json_in_utf8_is_rewritten() {
        for content_type in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/problem+json",
            "application/json; version=1",
        ] {
            assert_eq!(reason(&[("content-type", content_type)]), None, "{content_type}");
        }
        for content_type in [
            "text/plain",
            "application/json; charset=utf-16",
            "multipart/form-data",
            "application/jsonx",
            "+json",
            "application/+json",
            "application/grpc-web",
            "application/grpc-web+json",
            "application/x-www-form-urlencoded",
            "",
        ] {
            assert_eq!(
                reason(&[("content-type", content_type)]),
                Some(Reason::BodyTypeUnsupported),
                "{content_type}"
            );
        }
        assert_eq!(reason(&[]), Some(Reason::BodyTypeUnsupported));
        let twice = [
            ("content-type", "application/json"),
            ("content-type", "application/json"),
        ];
        assert_eq!(reason(&twice), Some(Reason::BodyTypeUnsupported));
    }

    #[test]
    fn compressed_and_signed_bodies_are_not_rewritten() {
        let json = ("content-type", "application/json");
        assert_eq!(reason(&[json, ("content-encoding", "identity")]), None);
        for encoding in ["gzip", "br", "identity, gzip", "x"] {
            assert_eq!(
                reason(&[json, ("content-encoding", encoding)]),
                Some(Reason::BodyTypeUnsupported)
            );
        }
        for name in ["content-md5", "digest", "content-digest", "signature"] {
            assert_eq!(reason(&[json, (name, "x")]), Some(Reason::BodySigned));
        }
    }
}
