//! The checks of a request's head that do not depend on the server.

use http::{HeaderMap, HeaderValue, Method, header, request::Parts, uri::Authority};
use proto::{Reason, Refusal};

use crate::{
    limits::Limits,
    proxy::{Proxy, hosts, received_body::ReceivedBody},
};

/// A request with an acceptable size, method and host.
pub(super) struct CheckedRequest {
    pub(super) parts: Parts,
    pub(super) body: ReceivedBody,
    /// The host and port that the request is for, as the program wrote them.
    pub(super) authority: Authority,
    /// The host of `authority`, in lower case.
    pub(super) host: String,
}

impl CheckedRequest {
    pub(super) fn new(parts: Parts, body: ReceivedBody, proxy: &Proxy) -> Result<Self, Refusal> {
        check_size(&parts, &proxy.limits)?;
        check_method(&parts.method)?;
        let authority = hosts::authority(&parts)?;
        let host = authority.host().to_ascii_lowercase();
        proxy.hosts.check(&host)?;
        check_expectation(&parts.headers)?;
        Ok(Self {
            parts,
            body,
            authority,
            host,
        })
    }
}

fn check_size(parts: &Parts, limits: &Limits) -> Result<(), Refusal> {
    let target = parts
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if target > limits.max_uri_size {
        return Err(Refusal::new(
            Reason::UriTooLong,
            format!(
                "the target has {target} bytes; at most {} bytes are accepted",
                limits.max_uri_size
            ),
        ));
    }
    let fields = parts.headers.len();
    let bytes: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if fields > limits.max_headers || bytes > limits.max_headers_size {
        return Err(Refusal::new(
            Reason::HeadersTooLarge,
            format!(
                "the request has {fields} header fields with {bytes} bytes; at most {} fields and {} bytes are accepted",
                limits.max_headers, limits.max_headers_size
            ),
        ));
    }
    Ok(())
}

/// Refuses methods that do not ask the upstream for a resource, and names that are not upper case, which some servers
/// would read as the standard method of that name.
fn check_method(method: &Method) -> Result<(), Refusal> {
    let is_refused = matches!(*method, Method::CONNECT | Method::TRACE) || method.as_str() == "PRI";
    let is_ordinary = method
        .as_str()
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_');
    if is_refused || !is_ordinary {
        return Err(Refusal::new(
            Reason::MethodRefused,
            "this method is not forwarded",
        ));
    }
    Ok(())
}

/// Refuses expectations other than `100-continue`. hyper answers 100 when the body is first read.
fn check_expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_met = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(is_met) {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::ExpectationFailed,
        "Expect may only be 100-continue",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_are_not_for_the_upstream_are_refused() {
        for (name, taken) in [
            ("GET", true),
            ("DELETE", true),
            ("PROPFIND", true),
            ("M-SEARCH", true),
            ("CONNECT", false),
            ("TRACE", false),
            ("get", false),
            ("PRI", false),
        ] {
            assert_eq!(check_method(&name.parse().unwrap()).is_ok(), taken, "{name}");
        }
    }
}
