//! The length of an upstream's response. A response whose length is ambiguous is refused (RFC 9112, section 6.3).

use http::{HeaderMap, HeaderValue, StatusCode, header};
use proto::{Reason, Refusal};

/// Checks that the headers of a response give one length, and leaves at most one `Content-Length` in them.
///
/// hyper prefers `Transfer-Encoding` to `Content-Length`, and reads a body with an unknown transfer coding until the
/// connection ends. The program could find another end of such a response (response splitting).
pub(super) fn check(status: StatusCode, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let ambiguous = || {
        Refusal::new(
            Reason::UpstreamProtocol,
            "the upstream's answer tells its length in more than one way, or in none that is known",
        )
    };
    let length = length(headers).ok_or_else(ambiguous)?;
    if is_chunked(headers).ok_or_else(ambiguous)? && length.is_some() {
        return Err(ambiguous());
    }
    headers.remove(header::CONTENT_LENGTH);
    // A response that cannot have a body must not announce a length (RFC 9110, section 8.6).
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
    if let Some(length) = length.filter(|_| !bodiless) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// Returns the value of `Content-Length`, which may be repeated, or None when the values differ or are not lengths.
fn length(headers: &HeaderMap) -> Option<Option<u64>> {
    let values = headers.get_all(header::CONTENT_LENGTH).into_iter();
    let mut lengths = values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(parse);
    let Some(first) = lengths.next() else {
        return Some(None);
    };
    lengths.all(|length| length == first).then_some(Some(first?))
}

/// Parses digits alone (RFC 9110, section 8.6), without the spaces around an element of a list.
fn parse(length: &[u8]) -> Option<u64> {
    let length = length.trim_ascii();
    let digits = length.iter().all(u8::is_ascii_digit);
    str::from_utf8(length).ok().filter(|_| digits)?.parse().ok()
}

/// Returns true when the body is chunked, or None when the body has another coding or more than one.
fn is_chunked(headers: &HeaderMap) -> Option<bool> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Some(false),
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked").then_some(true),
        (Some(_), Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(status: u16, pairs: &[(&'static str, &'static str)]) -> Option<Option<String>> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check(StatusCode::from_u16(status).unwrap(), &mut headers).ok()?;
        let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
        assert!(lengths.len() < 2);
        Some(lengths.first().map(|length| length.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_response_has_one_length() {
        let length = |value| ("content-length", value);
        let coding = |value| ("transfer-encoding", value);
        let told = |length: &str| Some(Some(length.to_owned()));
        for (pairs, expected) in [
            (&[][..], Some(None)),
            (&[length("5")], told("5")),
            (&[length("05")], told("5")),
            (&[length("5"), length("5")], told("5")),
            (&[length("5 , 5,\t5")], told("5")),
            (&[coding("Chunked")], Some(None)),
            (&[length("5"), length("6")], None),
            (&[length("5, 6")], None),
            (&[length("")], None),
            (&[length("5,")], None),
            (&[length("+5")], None),
            (&[length("18446744073709551616")], None),
            (&[length("5"), coding("chunked")], None),
            (&[coding("chunked"), coding("chunked")], None),
            (&[coding("gzip, chunked")], None),
            (&[coding("identity")], None),
            (&[coding("")], None),
        ] {
            assert_eq!(checked(200, pairs), expected, "{pairs:?}");
            let bodiless = expected.as_ref().map(|_| None);
            for status in [101, 103, 204] {
                assert_eq!(checked(status, pairs), bodiless, "{status} {pairs:?}");
            }
            assert_eq!(checked(304, pairs), expected, "{pairs:?}");
        }
    }
}
