//! Bodies on their way through: passed on as they come, or with our member put into their JSON.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Full};
use proto::{Reason, Refusal};
use zeroize::Zeroizing;

use super::{
    buffer_budget::Reservation, coalesce::CoalescingBody, received_body::ReceivedBody,
    sse_endpoint::SseEndpointBody,
};
use crate::{
    fields,
    inject::json::{JsonError, Rewriter, SecretsObject},
    placement::AuthType,
    upstream::{Body, BodyError},
};

/// No body.
pub(super) fn empty() -> Body {
    full(Bytes::new())
}

/// A body of these bytes.
pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A request's body as it comes, without trailers that may not be sent. That it broke off is left in `fault`.
pub(super) fn request(body: ReceivedBody, auth_type: AuthType, fault: &Fault) -> Body {
    let clean = move |trailers: &mut HeaderMap| fields::clean_request_trailers(trailers, auth_type);
    let fault = fault.clone();
    CoalescingBody::new(body, clean)
        .map_err(move |error| fault.broken_off(error))
        .boxed_unsync()
}

/// A response's body as it comes.
pub(super) fn response(body: ReceivedBody) -> Body {
    CoalescingBody::new(body, fields::clean_response_trailers).boxed_unsync()
}

/// An event stream as it comes, but for the URLs that `moved` moves.
pub(super) fn events(
    body: ReceivedBody,
    moved: impl Fn(&str) -> Option<String> + Unpin + Send + 'static,
) -> Body {
    CoalescingBody::new(SseEndpointBody::new(body, moved), fields::clean_response_trailers).boxed_unsync()
}

/// A JSON body that secrets are to be put into, read as far as is needed to know what to do.
pub(super) enum Json {
    /// There is none.
    None,
    /// All of it.
    Whole(Buffered),
    /// More than is read: what was, and the rest.
    Large(Buffered, ReceivedBody),
}

/// What was read of a body, counted among what is held of all.
pub(super) struct Buffered {
    bytes: Vec<u8>,
    held: Reservation,
}

impl Buffered {
    fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        self.held.grow(data.len())?;
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// Bytes that are counted until they were sent.
struct Counted {
    bytes: Zeroizing<Vec<u8>>,
    _held: Reservation,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Json {
    /// Reads a body, whole if it has up to `most` bytes.
    pub(super) async fn read(
        mut body: ReceivedBody,
        most: usize,
        held: Reservation,
    ) -> Result<Self, Refusal> {
        if body.is_end_stream() {
            return Ok(Self::None);
        }
        let mut read = Buffered {
            bytes: Vec::new(),
            held,
        };
        while read.bytes.len() <= most {
            match body.frame().await {
                None if read.bytes.is_empty() => return Ok(Self::None),
                None => return Ok(Self::Whole(read)),
                Some(Ok(frame)) => {
                    // Trailers of a body that is rewritten no longer describe it.
                    if let Ok(data) = frame.into_data() {
                        read.push(&data)?;
                    }
                }
                Some(Err(_)) => return Err(broken_off()),
            }
        }
        Ok(Self::Large(read, body))
    }

    /// The body with `secrets` in it. What goes wrong later, while it streams, is left in `fault`.
    pub(super) fn with(
        self,
        secrets: SecretsObject,
        fault: &Fault,
        unsent: &Unsent,
    ) -> Result<Body, Refusal> {
        let mut rewriter = Rewriter::new(secrets);
        match self {
            Self::None => Ok(empty()),
            Self::Whole(Buffered { bytes, held }) => {
                let mut out = Zeroizing::new(Vec::with_capacity(bytes.len()));
                rewriter.push(&bytes, &mut out).map_err(invalid)?;
                rewriter.finish(&mut out).map_err(invalid)?;
                Ok(full(Bytes::from_owner(Counted {
                    bytes: out,
                    _held: held,
                })))
            }
            Self::Large(Buffered { bytes, held }, body) => {
                let mut first = Zeroizing::new(Vec::with_capacity(bytes.len()));
                rewriter.push(&bytes, &mut first).map_err(invalid)?;
                let first = Bytes::from_owner(Counted {
                    bytes: first,
                    _held: held,
                });
                unsent.0.store(true, Relaxed);
                Ok(Rewriting {
                    first,
                    rewriter: Some(rewriter),
                    body,
                    fault: fault.clone(),
                    unsent: unsent.clone(),
                }
                .boxed_unsync())
            }
        }
    }
}

/// Whether secrets at the end of a large body still wait to be sent.
#[derive(Clone, Default)]
pub(super) struct Unsent(Arc<AtomicBool>);

impl Unsent {
    pub(super) fn is_true(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// What a body broke on while it was sent.
#[derive(Clone, Default)]
pub(super) struct Fault(Arc<OnceLock<Refusal>>);

impl Fault {
    pub(super) fn found(&self) -> Option<Refusal> {
        self.0.get().cloned()
    }

    /// The body is not sent on.
    pub(super) fn refuse(&self, refusal: Refusal) -> BodyError {
        // Set at most once: the body ends with its first error.
        let _ = self.0.set(refusal.clone());
        refusal.into()
    }

    /// Its sender broke the body off, which is not the upstream's doing, though the exchange with it fails by that.
    pub(super) fn broken_off(&self, error: BodyError) -> BodyError {
        // Set at most once: the body ends with its first error.
        let _ = self.0.set(broken_off());
        error
    }
}

/// A body that ends too early.
pub(super) fn broken_off() -> Refusal {
    Refusal::new(Reason::BodyInvalid, "the body ended before it was whole")
}

fn invalid(error: JsonError) -> Refusal {
    Refusal::new(
        Reason::BodyInvalid,
        format!("the body must be one JSON object (RFC 8259): {error}"),
    )
}

/// That secrets can be put into a body that `headers` describe.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    if !is_json(headers) {
        return Err(Refusal::new(
            Reason::BodyTypeUnsupported,
            "this server gets its secrets in a JSON body: Content-Type must be application/json or end in +json, in UTF-8",
        ));
    }
    check_as_is(headers)
}

/// That a body can be changed: it is not encoded as a whole, and nothing vouches for its bytes.
pub(super) fn check_as_is(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if !encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::new(
            Reason::BodyTypeUnsupported,
            "this server gets its secrets in the body, which must not be compressed",
        ));
    }
    let signed = [
        "content-md5",
        "digest",
        "content-digest",
        "repr-digest",
        "signature",
        "signature-input",
    ];
    if signed.iter().any(|name| headers.contains_key(*name)) {
        return Err(Refusal::new(
            Reason::BodySigned,
            "this server gets its secrets in the body, so a digest or signature of the body could not hold",
        ));
    }
    Ok(())
}

/// `problem+json` and its like, but not `grpc-web+json`, whose JSON is framed.
fn is_json_subtype(subtype: &str) -> bool {
    subtype.len() > 5 && subtype.ends_with("+json") && !subtype.starts_with("grpc")
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(only)), None) = (types.next().map(|value| value.to_str()), types.next()) else {
        return false;
    };
    let mut parts = only.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json = essence == "application/json"
        || essence
            .split_once('/')
            .is_some_and(|(_, subtype)| is_json_subtype(subtype));
    json && parts.all(|parameter| {
        parameter.split_once('=').is_none_or(|(name, value)| {
            !name.trim().eq_ignore_ascii_case("charset")
                || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    })
}

/// A large body, rewritten as it passes. Ours comes last, after the rest was found valid; if it is not, the body ends
/// in an error, so that the upstream request is reset.
struct Rewriting {
    first: Bytes,
    rewriter: Option<Rewriter>,
    body: ReceivedBody,
    fault: Fault,
    unsent: Unsent,
}

impl http_body::Body for Rewriting {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        loop {
            let Some(mut rewriter) = self.rewriter.take() else {
                return Poll::Ready(None);
            };
            let mut out = Vec::new();
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => {
                    self.rewriter = Some(rewriter);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(self.fault.broken_off(error))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        self.rewriter = Some(rewriter);
                        continue;
                    };
                    if let Err(error) = rewriter.push(&data, &mut out) {
                        return Poll::Ready(Some(Err(self.break_off(error))));
                    }
                    self.rewriter = Some(rewriter);
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                    }
                }
                Poll::Ready(None) => {
                    return Poll::Ready(Some(match rewriter.finish(&mut out) {
                        Ok(()) => {
                            self.unsent.0.store(false, Relaxed);
                            Ok(Frame::data(Bytes::from_owner(Zeroizing::new(out))))
                        }
                        Err(error) => Err(self.break_off(error)),
                    }));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rewriter.is_none()
    }
}

impl Rewriting {
    fn break_off(&self, error: JsonError) -> BodyError {
        self.fault.refuse(invalid(error))
    }
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
    fn only_plain_json_is_rewritten() {
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
    fn encoded_and_signed_bodies_are_not_rewritten() {
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
