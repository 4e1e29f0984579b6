//! The size of an answer's head, which settings limit.
//!
//! hyper and h2 are given larger limits than the settings, so that most heads that are too large are refused here, with a
//! message that names the setting.

use std::error::Error;

use http::{HeaderMap, HeaderName, HeaderValue};
use proto::{Reason, Refusal};

use crate::limits::UpstreamLimits;

/// Factor by which the limits of hyper and h2 are larger than the settings.
const LIBRARY_FACTOR: usize = 4;
/// Bytes that HTTP/2 counts for each field beside its name and value (RFC 9113, section 6.5.2). HTTP/1.1 writes fewer.
const FIELD_OVERHEAD: usize = 32;
/// hyper panics when its buffer is smaller than this.
const MIN_HTTP1_BUFFER: usize = 8 * 1024;

/// Returns the number of header fields that hyper accepts over HTTP/1.1.
pub(super) fn http1_fields(limits: UpstreamLimits) -> usize {
    limits.max_headers * LIBRARY_FACTOR
}

/// Returns the size of hyper's HTTP/1.1 buffer. hyper reads bodies into the same buffer, so it is only half as large
/// again as the largest head.
pub(super) fn http1_buffer(limits: UpstreamLimits) -> usize {
    let size = limits.max_headers_size + limits.max_headers * FIELD_OVERHEAD;
    (size + size / 2).max(MIN_HTTP1_BUFFER)
}

/// Returns the size of a head that h2 accepts, as HTTP/2 counts it.
pub(super) fn http2_list_size(limits: UpstreamLimits) -> u32 {
    let size = limits.max_headers_size + limits.max_headers * FIELD_OVERHEAD;
    u32::try_from(size * LIBRARY_FACTOR).unwrap_or(u32::MAX)
}

/// Checks an answer's head against `--upstream-max-headers` and `--upstream-max-headers-size`.
pub(super) fn check(headers: &HeaderMap, limits: UpstreamLimits) -> Result<(), Refusal> {
    let fields = headers.len();
    if fields > limits.max_headers {
        return Err(too_large(format!(
            "the upstream's answer has {fields} header fields; at most {} are accepted; see --upstream-max-headers",
            limits.max_headers
        )));
    }
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let bytes: usize = headers.iter().map(size).sum();
    if bytes > limits.max_headers_size {
        return Err(too_large(format!(
            "the header fields of the upstream's answer have {bytes} bytes; at most {} are accepted; see \
             --upstream-max-headers-size",
            limits.max_headers_size
        )));
    }
    Ok(())
}

/// Returns a refusal if hyper failed because an answer's head passes even the libraries' limits.
pub(super) fn refusal(error: &(dyn Error + 'static)) -> Option<Refusal> {
    let mut causes = std::iter::successors(Some(error), |cause| Error::source(*cause));
    let is_too_large =
        |cause: &(dyn Error + 'static)| cause.downcast_ref().is_some_and(hyper::Error::is_parse_too_large);
    causes.any(is_too_large).then(|| {
        too_large(
            "the upstream's answer has too many header fields, or too large ones; see --upstream-max-headers and \
             --upstream-max-headers-size",
        )
    })
}

fn too_large(message: impl ToString) -> Refusal {
    Refusal::new(Reason::UpstreamHeadTooLarge, message)
}
