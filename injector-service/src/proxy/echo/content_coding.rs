//! Decodes compressed bodies, because values can be found only in the decoded text.
//!
//! | coding | decoder | window |
//! |---|---|---|
//! | gzip, deflate | `tower-http` | 32 KiB, always |
//! | br | `brotli.rs` | up to 16 MiB |
//! | zstd | `zstd.rs` | up to 8 MiB |
//!
//! A body states the size of its window, and a few bytes may stand for a large text. So the memory of the decoders with a
//! larger window is taken from the budget for bodies, and a larger window than the standard permits is refused.

mod brotli;
mod decoded_body;
mod frame_header;
mod zstd;

use std::future::ready;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use proto::{Reason, Refusal};
use tower::{ServiceExt as _, service_fn};
use tower_http::decompression::Decompression;

use self::{brotli::BrotliDecoder, decoded_body::DecodedBody, zstd::ZstdDecoder};
use crate::{
    proxy::buffer_budget::BufferBudget,
    upstream::{Body, BodyError},
};

#[derive(Clone, Copy)]
enum Coding {
    Gzip,
    /// The zlib format (RFC 1950).
    Deflate,
    Brotli,
    Zstd,
}

/// Returns the decoded body, and removes the fields of `headers` that describe the encoded one.
pub(super) fn decode<B>(body: B, headers: &mut HeaderMap, budget: &BufferBudget) -> Result<Body, Refusal>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static,
{
    let Some(coding) = coding(headers)? else {
        return Ok(body.boxed_unsync());
    };
    let decoded = match coding {
        Coding::Gzip => inflate(body, "gzip")?,
        Coding::Deflate => inflate(body, "deflate")?,
        Coding::Brotli => DecodedBody::new(body, BrotliDecoder::new(budget)?).boxed_unsync(),
        Coding::Zstd => DecodedBody::new(body, ZstdDecoder::new(budget)?).boxed_unsync(),
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
    Ok(decoded)
}

fn inflate<B>(body: B, coding: &'static str) -> Result<Body, Refusal>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Send + 'static,
{
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
    match decoded {
        Some(Ok(decoded)) => Ok(decoded.into_body().boxed_unsync()),
        Some(Err(_)) | None => Err(Refusal::new(Reason::Internal, "a body could not be decoded")),
    }
}

/// Returns the coding of a body, or `None` for a body that is not encoded.
fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Refusal> {
    let mut codings = headers
        .get_all(header::CONTENT_ENCODING)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|coding| coding.trim_ascii().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != b"identity");
    match (codings.next().as_deref(), codings.next()) {
        (None, _) => Ok(None),
        (Some(b"gzip" | b"x-gzip"), None) => Ok(Some(Coding::Gzip)),
        (Some(b"deflate"), None) => Ok(Some(Coding::Deflate)),
        (Some(b"br"), None) => Ok(Some(Coding::Brotli)),
        (Some(b"zstd"), None) => Ok(Some(Coding::Zstd)),
        (Some(_), _) => Err(Refusal::new(
            Reason::UpstreamEncodingUnsupported,
            "the upstream encoded its answer, although it was asked for a plain one, in a way in which values cannot \
             be masked; gzip, deflate, br and zstd are supported, one at a time",
        )),
    }
}

#[cfg(test)]
mod tests;
