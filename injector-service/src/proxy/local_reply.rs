//! Responses that the injector makes itself, without an upstream.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use proto::{CallId, Reason, Refusal};
use serde_json::json;
use tonic::Status;

use super::{body, grpc::encoding::ACCEPTED};
use crate::{dialect::Dialect, upstream::Body};

/// Carries the reason of a refusal, for programs that do not read the body.
const REASON: &str = "x-aerostack-reason";

/// The challenge that an answer 401 must have (RFC 9110, section 15.5.2). The scheme is the injector's own, so that no client
/// sends a credential of another scheme.
const CHALLENGE: &str = "Aerostack-Token";

/// Returns the answer to `GET /-/status`, which a program may poll to see whether the injector serves.
pub(super) fn status() -> Response<Body> {
    let mut response = Response::new(body::full("serving\n".into()));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Returns a refusal in the program's dialect: a trailers-only gRPC status, or `application/problem+json` (RFC 9457).
pub(super) fn refusal(refusal: &Refusal, dialect: Dialect, call_id: &CallId) -> Response<Body> {
    let mut response = match dialect {
        Dialect::Grpc => grpc_status(refusal),
        Dialect::Http => problem(refusal, call_id),
    };
    response.headers_mut().insert(REASON, reason(refusal));
    response
}

/// Returns a refusal as the trailers of a gRPC response that has begun.
pub(super) fn trailers(refusal: &Refusal) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if Status::from(refusal.clone()).add_header(&mut trailers).is_err() {
        // The message does not fit into a header. The code always does.
        let code = HeaderValue::from(refusal.reason.code() as i32);
        trailers.insert(Status::GRPC_STATUS, code);
    }
    trailers.insert(REASON, reason(refusal));
    trailers
}

fn reason(refusal: &Refusal) -> HeaderValue {
    HeaderValue::from_static(refusal.reason.name())
}

fn grpc_status(refusal: &Refusal) -> Response<Body> {
    let (mut parts, _) = Status::from(refusal.clone()).into_http::<()>().into_parts();
    if refusal.reason == Reason::MessageEncodingUnsupported {
        let accepted = HeaderValue::from_static(ACCEPTED);
        parts.headers.insert("grpc-accept-encoding", accepted);
    }
    Response::from_parts(parts, body::empty())
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
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        _ => {}
    }
    response
}
