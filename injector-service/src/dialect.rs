//! The protocol of a call: gRPC, or any other HTTP.

use http::{HeaderMap, header};

/// The protocol of a call. gRPC has rules of its own: for binary metadata, for deadlines, and for errors, which it
/// sends as a status in trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Any HTTP but gRPC. gRPC-Web belongs here, because a proxy needs no rule for it.
    Http,
    /// gRPC.
    Grpc,
}

impl Dialect {
    /// Returns the dialect of a request, which its `Content-Type` names.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        const GRPC: &[u8] = b"application/grpc";
        let content_type = headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.as_bytes().split_at_checked(GRPC.len()));
        match content_type {
            // Media types do not distinguish upper and lower case (RFC 9110, section 8.3.1).
            Some((start, [] | [b'+' | b';', ..])) if start.eq_ignore_ascii_case(GRPC) => Self::Grpc,
            Some(_) | None => Self::Http,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_content_type_of_a_request_tells_grpc() {
        for (value, expected) in [
            ("application/grpc", Dialect::Grpc),
            ("application/grpc+proto", Dialect::Grpc),
            ("Application/GRPC", Dialect::Grpc),
            ("application/grpc;x=y", Dialect::Grpc),
            ("application/grpc-web", Dialect::Http),
            ("application/grpc-web+proto", Dialect::Http),
            ("application/json", Dialect::Http),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(Dialect::of(&headers), expected, "{value}");
        }
    }
}
