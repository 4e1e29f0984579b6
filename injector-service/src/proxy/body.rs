//! Bodies that pass through unchanged, and bodies that the injector writes.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};

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
