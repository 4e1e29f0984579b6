//! The header fields of an HTTP/1.1 request that delimit its body (RFC 9112, section 6.3).

use http::{HeaderValue, Method, Request, header};
use http_body::Body;

/// Sets `content-length` or `transfer-encoding` to match the body. hyper by itself sends a GET or HEAD request without its
/// body when the length is not known.
pub(super) fn set_fields<B: Body>(request: &mut Request<B>) {
    let (empty, length) = (request.body().is_end_stream(), request.body().size_hint().exact());
    let length = match (empty, length) {
        // Some servers answer 411 when a request with such a method has no length.
        (true, _) if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) => Some(Some(0)),
        (true, _) => None,
        (false, length) => Some(length),
    };
    let headers = request.headers_mut();
    match length {
        Some(Some(length)) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
        Some(None) => drop(headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
        None => {}
    }
    // `te` is a field of the connection (RFC 9110, section 10.1.4), so `connection` has to list it.
    if headers.contains_key(header::TE) {
        headers.append(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, Empty, Full, StreamBody};

    use super::*;

    fn fields(method: Method, body: impl Body) -> Vec<(String, String)> {
        let mut request = Request::builder().method(method).body(body).unwrap();
        set_fields(&mut request);
        let headers: &HeaderMap = request.headers();
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    #[test]
    fn the_body_is_delimited_whatever_the_method() {
        let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE] {
            let whole = Full::new(Bytes::from_static(b"{}"));
            assert_eq!(
                fields(method.clone(), whole),
                pair("content-length", "2"),
                "{method}"
            );
            let frames = futures_util::stream::empty::<Result<Frame<Bytes>, std::io::Error>>();
            let unknown = StreamBody::new(frames).boxed_unsync();
            assert_eq!(
                fields(method.clone(), unknown),
                pair("transfer-encoding", "chunked"),
                "{method}"
            );
        }
        let empty = Empty::<Bytes>::new;
        assert_eq!(fields(Method::POST, empty()), pair("content-length", "0"));
        assert_eq!(fields(Method::GET, empty()), []);
    }
}
