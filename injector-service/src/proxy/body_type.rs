//! The types of bodies that secrets can be put into.

use http::{HeaderMap, header};
use proto::{Reason, Refusal};

/// The types of bodies in which a server gets its secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyTypes {
    Json,
    Form,
    JsonAndForm,
}

impl BodyTypes {
    /// Checks that `headers` describe a body that secrets can be put into: a body of one of these types, which is not
    /// compressed as a whole, and whose bytes no digest or signature covers.
    pub(super) fn check(self, headers: &HeaderMap) -> Result<(), Refusal> {
        let (is_accepted, expected) = match self {
            Self::Json => (
                is_json(headers),
                "a JSON body: Content-Type must be application/json or end in +json, in UTF-8",
            ),
            Self::Form => (
                is_form(headers),
                "a form: Content-Type must be application/x-www-form-urlencoded, in UTF-8",
            ),
            Self::JsonAndForm => (
                is_json(headers) || is_form(headers),
                "a JSON body or a form: Content-Type must be application/json, end in +json, or be \
                 application/x-www-form-urlencoded, in UTF-8",
            ),
        };
        match is_accepted {
            true => check_is_rewritable(headers),
            false => Err(Refusal::new(
                Reason::BodyTypeUnsupported,
                format!("this server gets its secrets in {expected}"),
            )),
        }
    }
}

/// Checks that a body may be changed: it is not compressed as a whole, and no digest or signature covers its bytes.
pub(super) fn check_is_rewritable(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if !encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::new(
            Reason::BodyTypeUnsupported,
            "this server gets its secrets in the body, which must not be compressed",
        ));
    }
    let signed = [
        "content-md5",
        "digest",
        "content-digest",
        "repr-digest",
        "signature",
        "signature-input",
    ];
    if signed.iter().any(|name| headers.contains_key(*name)) {
        return Err(Refusal::new(
            Reason::BodySigned,
            "this server gets its secrets in the body, so a digest or signature of the body could not hold",
        ));
    }
    Ok(())
}

pub(super) fn is_form(headers: &HeaderMap) -> bool {
    is_type(headers, |essence| essence == "application/x-www-form-urlencoded")
}

fn is_json(headers: &HeaderMap) -> bool {
    is_type(headers, |essence| {
        let subtype = essence.split_once('/').map(|(_, subtype)| subtype);
        essence == "application/json" || subtype.is_some_and(is_json_subtype)
    })
}

/// Returns true for `problem+json` and other suffixed types, but not for `grpc-web+json`, whose JSON has frames around
/// it.
fn is_json_subtype(subtype: &str) -> bool {
    subtype.len() > 5 && subtype.ends_with("+json") && !subtype.starts_with("grpc")
}

/// Returns true when the only content type of `headers` satisfies `is_essence`, which gets `type/subtype` in lower case,
/// and has no other character set than UTF-8.
fn is_type(headers: &HeaderMap, is_essence: impl FnOnce(&str) -> bool) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(only)), None) = (types.next().map(|value| value.to_str()), types.next()) else {
        return false;
    };
    let mut parts = only.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    is_essence(&essence)
        && parts.all(|parameter| {
            parameter.split_once('=').is_none_or(|(name, value)| {
                !name.trim().eq_ignore_ascii_case("charset")
                    || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
            })
        })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(types: BodyTypes, pairs: &[(&'static str, &'static str)]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        types.check(&headers)
    }

    fn reason(types: BodyTypes, pairs: &[(&'static str, &'static str)]) -> Option<Reason> {
        check(types, pairs).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn only_json_and_forms_in_utf8_are_rewritten() {
        for (content_type, is_json, is_form) in [
            ("application/json", true, false),
            ("Application/JSON; charset=utf-8", true, false),
            ("application/json;charset=\"UTF-8\"", true, false),
            ("application/problem+json", true, false),
            ("application/json; version=1", true, false),
            ("application/x-www-form-urlencoded", false, true),
            ("Application/X-WWW-Form-Urlencoded; charset=UTF-8", false, true),
            ("application/x-www-form-urlencoded;charset=\"utf-8\"", false, true),
            ("text/plain", false, false),
            ("application/json; charset=utf-16", false, false),
            ("application/x-www-form-urlencoded; charset=utf-16", false, false),
            ("application/x-www-form-urlencodedx", false, false),
            ("multipart/form-data; boundary=x", false, false),
            ("application/jsonx", false, false),
            ("+json", false, false),
            ("application/+json", false, false),
            ("application/grpc-web", false, false),
            ("application/grpc-web+json", false, false),
            ("", false, false),
        ] {
            for (types, is_accepted) in [
                (BodyTypes::Json, is_json),
                (BodyTypes::Form, is_form),
                (BodyTypes::JsonAndForm, is_json || is_form),
            ] {
                let reason = reason(types, &[("content-type", content_type)]);
                let expected = (!is_accepted).then_some(Reason::BodyTypeUnsupported);
                assert_eq!(reason, expected, "{types:?} {content_type}");
            }
        }
    }

    #[test]
    fn a_body_has_exactly_one_type() {
        for (types, header) in [
            (BodyTypes::Json, ("content-type", "application/json")),
            (
                BodyTypes::Form,
                ("content-type", "application/x-www-form-urlencoded"),
            ),
        ] {
            for headers in [&[][..], &[header, header]] {
                assert_eq!(reason(types, headers), Some(Reason::BodyTypeUnsupported));
                assert_eq!(
                    reason(BodyTypes::JsonAndForm, headers),
                    Some(Reason::BodyTypeUnsupported)
                );
            }
        }
    }

    #[test]
    fn compressed_and_signed_bodies_are_not_rewritten() {
        for (types, header) in [
            (BodyTypes::Json, ("content-type", "application/json")),
            (
                BodyTypes::Form,
                ("content-type", "application/x-www-form-urlencoded"),
            ),
        ] {
            assert_eq!(reason(types, &[header, ("content-encoding", "identity")]), None);
            for encoding in ["gzip", "br", "identity, gzip", "x"] {
                assert_eq!(
                    reason(types, &[header, ("content-encoding", encoding)]),
                    Some(Reason::BodyTypeUnsupported)
                );
            }
            for name in ["content-md5", "digest", "content-digest", "signature"] {
                assert_eq!(reason(types, &[header, (name, "x")]), Some(Reason::BodySigned));
            }
        }
    }

    #[test]
    fn a_refusal_names_every_type_that_the_server_takes() {
        for (types, named) in [
            (BodyTypes::Json, &["application/json", "+json"][..]),
            (BodyTypes::Form, &["application/x-www-form-urlencoded"]),
            (
                BodyTypes::JsonAndForm,
                &["application/json", "+json", "application/x-www-form-urlencoded"],
            ),
        ] {
            let message = check(types, &[("content-type", "text/plain")])
                .unwrap_err()
                .message;
            for name in ["application/json", "+json", "application/x-www-form-urlencoded"] {
                assert_eq!(message.contains(name), named.contains(&name), "{message}");
            }
        }
    }
}
