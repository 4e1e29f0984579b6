//! Decodes compressed bodies, because values can be found only in the decoded text.

use std::future::ready;

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use proto::{Reason, Refusal};
use tower::{ServiceExt as _, service_fn};
use tower_http::decompression::Decompression;

use crate::{proxy::received_body::ReceivedBody, upstream::Body};

/// Returns the decoded body, and removes the fields of `headers` that describe the encoded one.
pub(super) fn decode(body: ReceivedBody, headers: &mut HeaderMap) -> Result<Body, Refusal> {
    let Some(coding) = coding(headers)? else {
        return Ok(body.boxed_unsync());
    };
    let mut encoded = Response::new(body);
    let coding = HeaderValue::from_static(coding);
    encoded.headers_mut().insert(header::CONTENT_ENCODING, coding);
    let mut encoded = Some(encoded);
    // `tower-http` decodes only the responses of services. This service has its response at once.
    let answer = service_fn(move |_: Request<()>| {
        let response = encoded.take().ok_or("the service is called once");
        ready(response)
    });
    let decoded = Decompression::new(answer)
        .oneshot(Request::new(()))
        .now_or_never();
    let Some(Ok(decoded)) = decoded else {
        return Err(Refusal::new(Reason::Internal, "a body could not be decoded"));
    };
    for name in [
        "content-encoding",
        "content-length",
        "content-md5",
        "content-digest",
        "digest",
        "accept-ranges",
    ] {
        headers.remove(name);
    }
    Ok(decoded.into_body().boxed_unsync())
}

/// Returns the coding of a body, as `tower-http` names it, or `None` for a body that is not encoded.
fn coding(headers: &HeaderMap) -> Result<Option<&'static str>, Refusal> {
    let mut codings = headers
        .get_all(header::CONTENT_ENCODING)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|coding| coding.trim_ascii().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != b"identity");
    match (codings.next().as_deref(), codings.next()) {
        (None, _) => Ok(None),
        (Some(b"gzip" | b"x-gzip"), None) => Ok(Some("gzip")),
        (Some(b"deflate"), None) => Ok(Some("deflate")),
        (Some(b"br"), None) => Ok(Some("br")),
        (Some(b"zstd"), None) => Ok(Some("zstd")),
        (Some(_), _) => Err(Refusal::new(
            Reason::UpstreamEncodingUnsupported,
            "the upstream encoded its answer, although it was asked for a plain one, in a way in which values cannot \
             be masked; gzip, deflate, br and zstd are supported, one at a time",
        )),
    }
}
