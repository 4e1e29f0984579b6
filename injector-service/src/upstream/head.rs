//! The size of an answer's head, which is limited by settings.
//!
//! hyper and h2 allow more than the settings do, so that most heads that are too large are refused here, with the setting
//! that they pass.

use std::error::Error;

use http::HeaderMap;
use proto::{Reason, Refusal};

use crate::limits::UpstreamLimits;

/// How much more hyper and h2 allow.
const BEYOND: usize = 4;
/// What HTTP/2 counts for each field beside its name and its value (RFC 9113, section 6.5.2). HTTP/1.1 writes less.
const FIELD: usize = 32;
/// The least that hyper's buffer may have.
const LEAST_BUFFER: usize = 8 * 1024;

/// The number of header fields that hyper takes.
pub(super) fn fields(limits: UpstreamLimits) -> usize {
    limits.max_headers * BEYOND
}

/// The size of hyper's buffer for a head over HTTP/1.1, which bodies are read into, too: so it is hardly larger than the
/// head.
pub(super) fn buffer(limits: UpstreamLimits) -> usize {
    let size = limits.max_headers_size + limits.max_headers * FIELD;
    (size + size / 2).max(LEAST_BUFFER)
}

/// The size of a head that h2 takes, as HTTP/2 counts it.
pub(super) fn list_size(limits: UpstreamLimits) -> u32 {
    let size = limits.max_headers_size + limits.max_headers * FIELD;
    u32::try_from(size * BEYOND).unwrap_or(u32::MAX)
}

/// Checks an answer's head against the settings.
pub(super) fn check(headers: &HeaderMap, limits: UpstreamLimits) -> Result<(), Refusal> {
    let fields = headers.len();
    if fields > limits.max_headers {
        let message = format!(
            "the upstream's answer has {fields} header fields, {} at most are taken; see --upstream-max-headers",
            limits.max_headers
        );
        return Err(Refusal::new(Reason::UpstreamHeadTooLarge, message));
    }
    let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| name.as_str().len() + value.len();
    let bytes: usize = headers.iter().map(size).sum();
    if bytes > limits.max_headers_size {
        let message = format!(
            "the upstream's answer has header fields of {bytes} bytes, {} at most are taken; see \
             --upstream-max-headers-size",
            limits.max_headers_size
        );
        return Err(Refusal::new(Reason::UpstreamHeadTooLarge, message));
    }
    Ok(())
}

/// The refusal for an error of hyper's, when the error is that an answer's head is much too large.
pub(super) fn too_large(error: &(dyn Error + 'static)) -> Option<Refusal> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(hyper::Error::is_parse_too_large) {
            let message = "the upstream's answer has too many header fields, or too large ones; see \
                           --upstream-max-headers and --upstream-max-headers-size";
            return Some(Refusal::new(Reason::UpstreamHeadTooLarge, message));
        }
        cause = error.source();
    }
    None
}
