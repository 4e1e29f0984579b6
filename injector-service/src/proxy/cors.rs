//! CORS (Fetch, section 3.3): the permissions for web pages whose origin a server allows.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::body;
use crate::upstream::Body;

/// Lets a page of `origin` read a response with all its headers. Without the list of headers, a page may read only a
/// few (Fetch, section 3.3.3).
pub(super) fn allow(headers: &mut HeaderMap, origin: &str) {
    let names: Vec<_> = headers
        .keys()
        .filter(|name| **name != header::SET_COOKIE && !name.as_str().starts_with("access-control-"))
        .map(HeaderName::as_str)
        .collect();
    let exposed = names.join(", ");
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, &exposed),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}

pub(super) fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns the answer to a preflight of a page whose origin is allowed. It permits every method and header that the
/// page asks for.
pub(super) fn preflight(request: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for (requested, allowed) in [
        (
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_ALLOW_METHODS,
        ),
        (
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
        ),
    ] {
        if let Some(value) = request.get(requested) {
            headers.insert(allowed, value.clone());
        }
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowed_page_may_read_all_headers_but_cookies() {
        let mut headers = HeaderMap::new();
        for name in ["etag", "set-cookie", "mcp-session-id", "access-control-max-age"] {
            headers.append(name, HeaderValue::from_static("1"));
        }
        allow(&mut headers, "https://app.example");
        assert_eq!(headers["access-control-allow-origin"], "https://app.example");
        assert_eq!(headers["access-control-expose-headers"], "etag, mcp-session-id");
        assert_eq!(headers["vary"], "Origin");
    }
}
