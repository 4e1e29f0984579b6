//! Forms of requests, with fields put into them.

use http::HeaderMap;
use proto::{Reason, Refusal};

use super::{
    body::{self, is_type},
    buffered_body::WholeBody,
};
use crate::{inject::form::FormFields, upstream::Body};

/// Returns the form with `fields` in it.
pub(super) fn with_fields(form: WholeBody, fields: &FormFields) -> Result<Body, Refusal> {
    form.rewrite(|form| Ok(fields.put_into(form)))
}

/// Checks that `headers` describe a form that fields can be put into.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    if !is_form(headers) {
        return Err(Refusal::new(
            Reason::BodyTypeUnsupported,
            "this server gets its secrets in a form: Content-Type must be application/x-www-form-urlencoded, in UTF-8",
        ));
    }
    body::check_is_rewritable(headers)
}

pub(super) fn is_form(headers: &HeaderMap) -> bool {
    is_type(headers, |essence| essence == "application/x-www-form-urlencoded")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn reason(pairs: &[(&'static str, &'static str)]) -> Option<Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check_type(&headers).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn only_forms_in_utf8_are_rewritten() {
        for content_type in [
            "application/x-www-form-urlencoded",
            "Application/X-WWW-Form-Urlencoded; charset=UTF-8",
            "application/x-www-form-urlencoded;charset=\"utf-8\"",
        ] {
            assert_eq!(reason(&[("content-type", content_type)]), None, "{content_type}");
        }
        for content_type in [
            "application/x-www-form-urlencoded; charset=utf-16",
            "application/x-www-form-urlencodedx",
            "multipart/form-data; boundary=x",
            "application/json",
            "text/plain",
            "",
        ] {
            assert_eq!(
                reason(&[("content-type", content_type)]),
                Some(Reason::BodyTypeUnsupported),
                "{content_type}"
            );
        }
        assert_eq!(reason(&[]), Some(Reason::BodyTypeUnsupported));
        let form = ("content-type", "application/x-www-form-urlencoded");
        assert_eq!(reason(&[form, form]), Some(Reason::BodyTypeUnsupported));
        assert_eq!(
            reason(&[form, ("content-encoding", "gzip")]),
            Some(Reason::BodyTypeUnsupported)
        );
        assert_eq!(reason(&[form, ("content-digest", "x")]), Some(Reason::BodySigned));
    }
}
