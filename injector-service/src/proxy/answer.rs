//! Answers of our own.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use proto::{CallId, Reason, Refusal};
use serde_json::json;
use tonic::Status;

use super::{body, grpc::encoding::ACCEPTED};
use crate::{dialect::Dialect, upstream::Body};

/// The header that says why.
const REASON_HEADER: &str = "x-aerostack-reason";
/// The header that names the call, in every answer.
const CALL_ID_HEADER: &str = "x-aerostack-call-id";
/// The header that names the call to the upstream. Envoy, nginx and most web frameworks log this one.
const REQUEST_ID_HEADER: &str = "x-request-id";

/// Adds the call's id to an answer, for the program.
pub(super) fn identify(headers: &mut HeaderMap, call_id: &CallId) {
    headers.insert(CALL_ID_HEADER, header_value(call_id));
}

/// Adds the call's id to a request, for the upstream, unless the program sent an id already.
pub(super) fn identify_upstream(headers: &mut HeaderMap, call_id: &CallId) {
    headers
        .entry(REQUEST_ID_HEADER)
        .or_insert_with(|| header_value(call_id));
}

fn header_value(call_id: &CallId) -> HeaderValue {
    let value = HeaderValue::from_str(call_id.as_str());
    let mut value = value.expect("a call id has letters, digits, '-', '_' and '.' only");
    // HPACK never indexes a sensitive value. An indexed id would only displace other headers from the table.
    value.set_sensitive(true);
    value
}

/// The answer to who asks whether the injector serves.
pub(super) fn status() -> Response<Body> {
    let mut response = Response::new(body::full("serving\n".into()));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// A refusal in the words of who asked: a trailers-only gRPC status, or `application/problem+json` (RFC 9457).
pub(super) fn refusal(refusal: &Refusal, dialect: Dialect, call_id: &CallId) -> Response<Body> {
    let mut response = match dialect {
        Dialect::Grpc => {
            let (mut parts, _) = Status::from(refusal.clone()).into_http::<()>().into_parts();
            if refusal.reason == Reason::MessageEncodingUnsupported {
                parts
                    .headers
                    .insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED));
            }
            Response::from_parts(parts, body::empty())
        }
        Dialect::Http => problem(refusal, call_id),
    };
    response
        .headers_mut()
        .insert(REASON_HEADER, HeaderValue::from_static(refusal.reason.name()));
    response
}

/// A refusal as the end of a gRPC answer that has begun.
pub(super) fn trailers(refusal: &Refusal) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if Status::from(refusal.clone()).add_header(&mut trailers).is_err() {
        // What it says could not be told; that it failed always can.
        trailers.insert(
            Status::GRPC_STATUS,
            HeaderValue::from(refusal.reason.code() as i32),
        );
    }
    trailers.insert(REASON_HEADER, HeaderValue::from_static(refusal.reason.name()));
    trailers
}

fn problem(refusal: &Refusal, call_id: &CallId) -> Response<Body> {
    let status = refusal.reason.http_status();
    let problem = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": refusal.message,
        "reason": refusal.reason.name(),
        "call_id": call_id.as_str(),
    });
    let mut response = Response::new(body::full(problem.to_string().into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Lets a page of this origin read an answer with these headers, all of the headers included. Without a list a page may
/// read only a few (Fetch, section 3.3.3).
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

/// What a browser asks before a page of an allowed origin may call: whatever that page asks for, it may.
pub(super) fn preflight(asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for (question, answer) in [
        (
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_ALLOW_METHODS,
        ),
        (
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
        ),
    ] {
        if let Some(value) = asked.get(question) {
            headers.insert(answer, value.clone());
        }
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_may_call_may_read_all_headers_but_cookies() {
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
