//! Checks a head, and determines the length of its body.

use http::Uri;
use httparse::{EMPTY_HEADER, Header, Request, Status};
use proto::{Reason, Refusal};

/// Longest target that `http::Uri` can represent.
const MAX_TARGET: usize = 65_534;
/// Longest name that `http::HeaderName` can represent.
const MAX_NAME: usize = 65_535;
/// Longest body that hyper can count.
const MAX_BODY: u64 = u64::MAX - 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CheckedHead {
    pub(super) body: BodyLength,
    pub(super) may_upgrade: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLength {
    Bytes(u64),
    Chunked,
}

/// Checks the first line of a head, or the part of this line that has arrived.
pub(super) fn check_beginning(line: &[u8]) -> Result<(), Refusal> {
    Request::new(&mut []).parse(line).map(drop).map_err(not_http)
}

pub(super) fn check(head: &[u8], fields: usize) -> Result<CheckedHead, Refusal> {
    let mut fields = vec![EMPTY_HEADER; fields];
    let mut request = Request::new(&mut fields);
    match request.parse(head).map_err(not_http)? {
        Status::Complete(length) if length == head.len() => {}
        Status::Complete(_) | Status::Partial => return Err(malformed("its head ends in two places")),
    }
    let target = request.path.unwrap_or_default();
    if target.len() > MAX_TARGET {
        let message = format!(
            "the target has {} bytes, more than any setting allows",
            target.len()
        );
        return Err(Refusal::new(Reason::UriTooLong, message));
    }
    if Uri::try_from(target).is_err() {
        return Err(malformed("its target is not a URI"));
    }
    if request.headers.iter().any(|field| field.name.len() > MAX_NAME) {
        let message = "a header field has a longer name than any setting allows";
        return Err(Refusal::new(Reason::HeadersTooLarge, message));
    }
    Ok(CheckedHead {
        body: body_length(request.headers, request.version == Some(0))?,
        may_upgrade: named(request.headers, "upgrade").next().is_some(),
    })
}

/// Returns the length of a body. Only one field may state the length (RFC 9112, section 6.3).
fn body_length(fields: &[Header<'_>], is_http_1_0: bool) -> Result<BodyLength, Refusal> {
    let mut codings = named(fields, "transfer-encoding");
    let length = content_length(fields)?;
    let Some(coding) = codings.next() else {
        return Ok(BodyLength::Bytes(length.unwrap_or(0)));
    };
    if is_http_1_0 {
        return Err(malformed("HTTP/1.0 has no Transfer-Encoding"));
    }
    if length.is_some() {
        return Err(malformed("it has both Content-Length and Transfer-Encoding"));
    }
    if codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
        return Err(Refusal::new(
            Reason::TransferCodingUnsupported,
            "the only Transfer-Encoding that is taken is chunked, once; nothing was sent",
        ));
    }
    Ok(BodyLength::Chunked)
}

fn content_length(fields: &[Header<'_>]) -> Result<Option<u64>, Refusal> {
    let mut found = None;
    for value in named(fields, "content-length") {
        let length = parse_length(value).ok_or_else(|| malformed("its Content-Length is not a length"))?;
        if found.is_some_and(|found| found != length) {
            return Err(malformed("it has two Content-Length that differ"));
        }
        found = Some(length);
    }
    Ok(found)
}

/// Parses a `Content-Length`, which consists of digits only (RFC 9110, section 8.6).
fn parse_length(length: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(length).ok()?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let length = digits.parse().ok().filter(|_| is_number)?;
    (length <= MAX_BODY).then_some(length)
}

fn named<'f>(fields: &'f [Header<'_>], name: &'static str) -> impl Iterator<Item = &'f [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value)
}

fn not_http(error: httparse::Error) -> Refusal {
    malformed(error)
}

/// Returns the refusal of a request that servers could read in different ways.
pub(super) fn malformed(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        Reason::RequestMalformed,
        format!("the request is not valid HTTP/1.1: {what}; it was not forwarded"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(lines: &[&str]) -> Result<CheckedHead, Reason> {
        let head = format!("POST / HTTP/1.1\r\n{}\r\n", lines.concat());
        check(head.as_bytes(), lines.len()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn a_body_has_one_length() {
        let with_body = |body| {
            Ok(CheckedHead {
                body,
                may_upgrade: false,
            })
        };
        let (chunked, other) = ("Transfer-Encoding: Chunked\r\n", "Transfer-Encoding: gzip\r\n");
        let (two, three) = ("Content-Length: 2\r\n", "content-length: 3\r\n");
        for (lines, expected) in [
            (&[][..], with_body(BodyLength::Bytes(0))),
            (&["X: y\r\n"], with_body(BodyLength::Bytes(0))),
            (&[two], with_body(BodyLength::Bytes(2))),
            (&["Content-Length: 002\r\n", two], with_body(BodyLength::Bytes(2))),
            (&[chunked], with_body(BodyLength::Chunked)),
            (&[two, three], Err(Reason::RequestMalformed)),
            (&["Content-Length: 2, 2\r\n"], Err(Reason::RequestMalformed)),
            (&["Content-Length:\r\n"], Err(Reason::RequestMalformed)),
            (&["Content-Length: +2\r\n"], Err(Reason::RequestMalformed)),
            (
                &["Content-Length: 18446744073709551615\r\n"],
                Err(Reason::RequestMalformed),
            ),
            (&[chunked, two], Err(Reason::RequestMalformed)),
            (&[two, chunked], Err(Reason::RequestMalformed)),
            (&[other], Err(Reason::TransferCodingUnsupported)),
            (&[other, chunked], Err(Reason::TransferCodingUnsupported)),
            (&[chunked, chunked], Err(Reason::TransferCodingUnsupported)),
            (
                &["Transfer-Encoding:\r\n"],
                Err(Reason::TransferCodingUnsupported),
            ),
        ] {
            assert_eq!(checked(lines), expected, "{lines:?}");
        }
        assert!(checked(&["Upgrade: x\r\n"]).unwrap().may_upgrade);
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(check(old, 1).unwrap_err().reason, Reason::RequestMalformed);
    }

    #[test]
    fn a_first_line_is_refused_at_its_first_wrong_byte() {
        for line in ["", "G", "GET", "GET /a", "GET / HTTP/1.1\r\n"] {
            assert!(check_beginning(line.as_bytes()).is_ok(), "{line:?}");
        }
        for line in ["\u{16}\u{3}\u{1}", "GET /\r\n", "GET / HTTP/2.0\r\n", "(: y\r\n"] {
            assert!(check_beginning(line.as_bytes()).is_err(), "{line:?}");
        }
    }
}
