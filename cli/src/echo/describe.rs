//! A request in words that show no secret: places by their names, and values as fingerprints.

use std::collections::BTreeMap;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, CONTENT_TYPE, COOKIE},
    request::Parts,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Header fields that clients and proxies write themselves. Every other field may carry a secret.
const SHOWN: [HeaderName; 15] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::USER_AGENT,
    header::VIA,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
];

/// Returns the places of a request with what they hold: header fields by their names, `:path` and `:authority`, `?NAME` for a
/// parameter of the query, the JSON Pointer for a text in a JSON body, and `form NAME` for a field of a form. The path is in
/// clear, and so are header fields that no secret goes into, and names. A part of a query or of a form without `=` is a value
/// without a name.
pub(super) fn describe(head: &Parts, body: &[u8]) -> BTreeMap<String, String> {
    let mut shown = Description::default();
    for (name, value) in &head.headers {
        shown.add(name.to_string(), header_text(name, value));
    }
    shown.add(":path".to_owned(), head.uri.path().to_owned());
    // HTTP/2 sends the authority instead of `Host`.
    if let Some(authority) = head.uri.authority() {
        shown.add(":authority".to_owned(), authority.to_string());
    }
    let query = head.uri.query().unwrap_or_default();
    shown.add_pairs("?", query.as_bytes());
    if has_type(&head.headers, "application/x-www-form-urlencoded") {
        shown.add_pairs("form ", body);
    } else if let Ok(json) = serde_json::from_slice(body) {
        shown.add_json(String::new(), &json);
    }
    shown.0
}

/// Returns `sha256:` and the first half of the digest of a value.
#[must_use]
pub(crate) fn fingerprint(value: &[u8]) -> String {
    let digest = Sha256::digest(value);
    let half: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{half}…")
}

#[derive(Default)]
struct Description(BTreeMap<String, String>);

impl Description {
    /// Adds a text to a place, which may have several.
    fn add(&mut self, place: String, text: String) {
        self.0
            .entry(place)
            .and_modify(|before| *before = format!("{before}, {text}"))
            .or_insert(text);
    }

    /// Adds the pairs of a query or of a form. A body of another type that is sent as a form, such as JSON, has no names that can be
    /// shown: the text before its first `=` may be a value.
    fn add_pairs(&mut self, place: &str, encoded: &[u8]) {
        for part in encoded
            .split(|byte| *byte == b'&')
            .filter(|part| !part.is_empty())
        {
            for (name, value) in form_urlencoded::parse(part) {
                match part.contains(&b'=') && is_name(&name) {
                    true => self.add(format!("{place}{name}"), fingerprint(value.as_bytes())),
                    false => self.add(place.trim_end().to_owned(), fingerprint(part)),
                }
            }
        }
    }

    /// Adds each text of a JSON value. Its nesting is limited by `serde_json`.
    fn add_json(&mut self, pointer: String, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => self.add(pointer, value.to_string()),
            Value::String(text) => self.add(pointer, fingerprint(text.as_bytes())),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.add_json(format!("{pointer}/{index}"), item);
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    self.add_json(format!("{pointer}/{name}"), member);
                }
            }
        }
    }
}

/// Returns true for a text that names a field in a usual way.
fn is_name(text: &str) -> bool {
    let is_usual =
        |scalar: char| scalar.is_ascii_alphanumeric() || matches!(scalar, '_' | '-' | '.' | '[' | ']' | ':');
    !text.is_empty() && text.len() <= 64 && text.chars().all(is_usual)
}

fn header_text(name: &HeaderName, value: &HeaderValue) -> String {
    if SHOWN.contains(name) {
        return String::from_utf8_lossy(value.as_bytes()).into_owned();
    }
    if *name == COOKIE {
        return cookies(&String::from_utf8_lossy(value.as_bytes()));
    }
    fingerprint(value.as_bytes())
}

fn cookies(field: &str) -> String {
    let pairs = field.split("; ").map(|pair| match pair.split_once('=') {
        Some((name, value)) => format!("{name}={}", fingerprint(value.as_bytes())),
        None => fingerprint(pair.as_bytes()),
    });
    pairs.collect::<Vec<_>>().join("; ")
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    given.is_some_and(|given| {
        let (given, _) = given.split_once(';').unwrap_or((given, ""));
        given.trim().eq_ignore_ascii_case(wanted)
    })
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]
mod tests {
    use http::Request;

    use super::*;

    fn described(content_type: &str, body: &str) -> BTreeMap<String, String> {
        let request = Request::post("http://upstream/a/b?key=in%20clear&key=x")
            .header("content-type", content_type)
            .header("cookie", "session=in clear; theme")
            .header("x-api-key", "in clear");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let shown = describe(&head, body.as_bytes());
        let mut texts = shown.keys().chain(shown.values());
        assert!(!texts.any(|text| text.contains("in clear")), "{shown:?}");
        shown
    }

    #[test]
    fn no_value_is_shown_in_clear() {
        let of = |value: &str| fingerprint(value.as_bytes());
        let shown = described(
            "application/json",
            r#"{"a/b": {"c": ["in clear", 7, "x"]}, "d": null}"#,
        );
        assert_eq!(shown["?key"], format!("{}, {}", of("in clear"), of("x")));
        assert_eq!(
            shown["cookie"],
            format!("session={}; {}", of("in clear"), of("theme"))
        );
        assert_eq!(shown["x-api-key"], of("in clear"));
        assert_eq!(shown["content-type"], "application/json");
        assert_eq!(
            (shown[":path"].as_str(), shown[":authority"].as_str()),
            ("/a/b", "upstream")
        );
        assert_eq!(shown["/a~1b/c/0"], of("in clear"));
        assert_eq!((shown["/a~1b/c/1"].as_str(), shown["/d"].as_str()), ("7", "null"));

        let form = described(
            "application/x-www-form-urlencoded; charset=utf-8",
            "token=in+clear",
        );
        assert_eq!(form["form token"], of("in clear"));
        let json = "{\"token\": \"in clear=\"}";
        for (body, place) in [(json, "form"), ("in+clear", "form"), ("a=1&in+clear", "form a")] {
            let sent_as_form = described("application/x-www-form-urlencoded", body);
            assert!(sent_as_form.contains_key("form"), "{sent_as_form:?}");
            assert!(sent_as_form.contains_key(place), "{sent_as_form:?}");
        }
        assert!(
            described("text/plain", "in clear")
                .keys()
                .all(|place| !place.starts_with("form"))
        );
    }
}
