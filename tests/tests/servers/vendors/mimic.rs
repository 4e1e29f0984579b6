//! Upstreams that check a credential as a vendor does.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use e2e::Seen;
use http::{Request, Response};
use http_body_util::Full;

use super::table::Vendor;

/// A part of a request that a vendor compares. `{NAME}` in a text stands for the value of the secret `NAME`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Credential {
    /// The only field of this name.
    Header(&'static str, &'static str),
    /// The username and the password of `Authorization: Basic`.
    Basic(&'static str, &'static str),
    /// The only parameter of this name.
    Query(&'static str, &'static str),
    /// The beginning of the path, after percent-decoding.
    Path(&'static str),
}

/// Returns a value as the vendor issues it. The values have the characters that a place may have to encode.
pub(super) fn value_of(secret: &str) -> String {
    match secret {
        "TELEGRAM_BOT_TOKEN" => "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw".to_owned(),
        "DISCORD_BOT_TOKEN" => "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs".to_owned(),
        "ELASTIC_API_KEY" => "VnVhQ2ZHY0JDZGJrUW0tZTVhT3g6dWkybHAyYXhUTm1zeWFrdzl0dk5udw==".to_owned(),
        "ATLASSIAN_EMAIL" | "ZENDESK_EMAIL" => "jane.doe+agent@example.com".to_owned(),
        "ATLASSIAN_API_TOKEN" => "ATATT3xFfGF0-1_2=4F1A0B7C".to_owned(),
        "EXA_API_KEY" => "93b180fe-b949-451c-afd0-47c6bcca335f".to_owned(),
        "AIRTABLE_TOKEN" => "patEXAMPLE0000000.9c1f0e6b".to_owned(),
        other => format!(
            "{}_0123456789-abcdefghij",
            other.to_ascii_lowercase().replace('_', "-")
        ),
    }
}

/// Replaces each `{NAME}` in `text`.
fn filled(text: &str, value: impl Fn(&str) -> String) -> String {
    let mut pieces = text.split('{');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |filled, piece| {
        let (name, rest) = piece.split_once('}').unwrap();
        filled + &value(name) + rest
    })
}

/// Returns a request as a program that holds the secrets would send it.
pub(super) fn request(
    target: &str,
    credentials: &[Credential],
    value: impl Fn(&str) -> String + Copy,
) -> http::request::Builder {
    let mut target = target.to_owned();
    let mut headers = Vec::new();
    for credential in credentials {
        match *credential {
            Credential::Header(name, text) => headers.push((name, filled(text, value))),
            Credential::Basic(username, password) => {
                let pair = format!("{}:{}", filled(username, value), filled(password, value));
                headers.push(("authorization", format!("Basic {}", BASE64_STANDARD.encode(pair))));
            }
            Credential::Query(name, text) => {
                let separator = if target.contains('?') { '&' } else { '?' };
                target = format!("{target}{separator}{name}={}", filled(text, value));
            }
            Credential::Path(text) => target = format!("{}{target}", filled(text, value)),
        }
    }
    headers
        .into_iter()
        .fold(Request::get(target), |request, (name, value)| {
            request.header(name, value)
        })
}

impl Vendor {
    /// Answers `accepted` to a request with the credentials, and refuses others as the vendor does.
    pub(super) fn answer(&self, seen: &Seen) -> Response<Full<Bytes>> {
        let accepted = self.credentials.iter().all(|credential| credential.is_in(seen));
        let answer = if accepted {
            Response::builder().status(200).body(Full::from("accepted"))
        } else {
            Response::builder()
                .status(self.refusal)
                .header("content-type", "application/json")
                .body(Full::from(self.body))
        };
        answer.unwrap()
    }
}

impl Credential {
    fn is_in(&self, seen: &Seen) -> bool {
        let only_header = |name: &str| {
            let values: Vec<_> = seen.headers.get_all(name).iter().collect();
            match values.as_slice() {
                [value] => value.to_str().ok().map(str::to_owned),
                _ => None,
            }
        };
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        match *self {
            Self::Header(name, text) => only_header(name) == Some(filled(text, value_of)),
            Self::Basic(username, password) => {
                let decoded = only_header("authorization")
                    .and_then(|value| BASE64_STANDARD.decode(value.strip_prefix("Basic ")?).ok());
                let expected = format!("{}:{}", filled(username, value_of), filled(password, value_of));
                decoded == Some(expected.into_bytes())
            }
            Self::Query(name, text) => {
                let given: Vec<_> = query
                    .split('&')
                    .filter_map(|parameter| parameter.split_once('='))
                    .filter(|(given, _)| *given == name)
                    .map(|(_, value)| decoded(value))
                    .collect();
                given == [filled(text, value_of)]
            }
            Self::Path(text) => decoded(path).starts_with(&format!("{}/", filled(text, value_of))),
        }
    }
}

/// Decodes `%3A` and its kind.
fn decoded(text: &str) -> String {
    let mut pieces = text.split('%');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |decoded, piece| {
        let (hex, rest) = piece.split_at(2);
        decoded + &char::from(u8::from_str_radix(hex, 16).unwrap()).to_string() + rest
    })
}
