//! Bodies that pass through unchanged, and bodies that the injector writes.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, Full};
use proto::{Reason, Refusal};

use super::{
    coalesce::CoalescingBody, echo::MaskedBody, received_body::ReceivedBody, sse_endpoint::SseEndpointBody,
    upload::UploadState,
};
use crate::{header_rules, registry::Entry, upstream::Body};

pub(super) fn empty() -> Body {
    full(Bytes::new())
}

pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Returns a request body that passes unchanged, except for trailers that the server `entry` must not get.
pub(super) fn request(body: ReceivedBody, entry: Arc<Entry>, state: UploadState) -> Body {
    let clean = move |trailers: &mut HeaderMap| {
        header_rules::clean_request_trailers(trailers, &entry.server.spec.injections);
    };
    CoalescingBody::new(body, clean)
        .map_err(move |error| state.fail_incomplete(error))
        .boxed_unsync()
}

/// Returns a response body that passes unchanged, except for trailers that the program must not get.
pub(super) fn response(body: MaskedBody) -> Body {
    CoalescingBody::new(body, header_rules::clean_response_trailers).boxed_unsync()
}

/// Returns an event stream in which `rewrite` replaces the URLs of MCP endpoints.
pub(super) fn event_stream(
    body: MaskedBody,
    rewrite: impl Fn(&str) -> Option<String> + Unpin + Send + 'static,
) -> Body {
    let events = SseEndpointBody::new(body, rewrite);
    CoalescingBody::new(events, header_rules::clean_response_trailers).boxed_unsync()
}

/// Checks that a body may be changed: it is not compressed as a whole, and no digest or signature covers its bytes.
pub(super) fn check_is_rewritable(headers: &HeaderMap) -> Result<(), Refusal> {
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

/// Returns true when the only content type of `headers` satisfies `is_essence`, which gets `type/subtype` in lower case,
/// and has no other character set than UTF-8.
pub(super) fn is_type(headers: &HeaderMap, is_essence: impl FnOnce(&str) -> bool) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(only)), None) = (types.next().map(|value| value.to_str()), types.next()) else {
        return false;
    };
    let mut parts = only.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    is_essence(&essence)
        && parts.all(|parameter| {
            parameter.split_once('=').is_none_or(|(name, value)| {
                !name.trim().eq_ignore_ascii_case("charset")
                    || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
            })
        })
}
