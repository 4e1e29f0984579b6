//! The answer of the demo upstream (`aerostack echo`), which lists what the upstream received, with fingerprints in place of
//! the values of secrets.

use std::collections::BTreeMap;

use maud::{Markup, html};
use proto::injector::v1::{Injection, Server, injection::Placement};

use super::{place::injections_of, url::UrlParts};
use crate::{output::printable, template::secrets_of};

/// The beginning of a fingerprint.
const FINGERPRINT: &str = "sha256:";

/// Draws the request that the demo upstream received, if `body` is the answer of one. The demo runs on this machine, so the
/// answer of another server, which could pose as the demo, is shown as it is.
pub(super) fn received(server: &Server, method: &str, body: &[u8]) -> Option<Markup> {
    if !UrlParts::of(&server.url).is_loopback() {
        return None;
    }
    let fields: BTreeMap<String, String> = serde_json::from_slice(body).ok()?;
    let path = fields.get(":path")?;
    let injected = injected_headers(server);
    let headers = fields.iter().filter(|(name, _)| !name.starts_with(':'));
    Some(html! {
        pre.request {
            span.line { (method) " " (printable(path)) } "\n"
            @for (name, value) in headers {
                @let secrets = injected.get(&name.to_ascii_lowercase());
                span.line { (printable(name)) ": " (value_of(&printable(value), secrets.map(String::as_str))) } "\n"
            }
        }
        @if fields.values().any(|value| value.starts_with(FINGERPRINT)) {
            p.help {
                "The demo server answers with what it received. It cannot tell what is secret, so it shows a " em { "fingerprint" }
                " (" code { "sha256:…" } ") in place of every value that could be: in the query, in the body, and in header fields of "
                "programs. "
                @if !injected.is_empty() {
                    "A value with " code { "from" } " is a secret that the injector has put in. Your call did not contain it."
                }
            }
        }
    })
}

fn value_of(value: &str, secrets: Option<&str>) -> Markup {
    html! {
        @match secrets {
            Some(secrets) => span.blank.sent { (value) span.mark { " from " (secrets) } },
            None => (value),
        }
    }
}

/// Returns the headers that the injections write, each with the names of its secrets.
fn injected_headers(server: &Server) -> BTreeMap<String, String> {
    let header = |injection: &Injection| {
        let name = match &injection.placement {
            Some(Placement::Header(header)) => header.name.to_ascii_lowercase(),
            Some(Placement::Basic(_)) => "authorization".to_owned(),
            Some(Placement::Cookie(_)) => "cookie".to_owned(),
            _ => return None,
        };
        Some((name, secrets_of(injection).join(", ")))
    };
    injections_of(server).iter().filter_map(header).collect()
}

#[cfg(test)]
mod tests {
    use proto::injector::v1::AuthType;

    use super::*;

    #[test]
    fn the_demo_upstreams_answer_is_drawn_as_a_request() {
        let server = Server {
            url: "http://127.0.0.1:7100".to_owned(),
            auth_type: AuthType::Bearer.into(),
            inject_secrets: vec!["TOKEN".to_owned()],
            ..Default::default()
        };
        let body = br#"{":path": "/hello", "authorization": "sha256:0011", "accept": "*/*"}"#;
        let drawn = received(&server, "GET", body).unwrap().into_string();
        assert!(
            drawn.contains("GET /hello") && drawn.contains("accept: */*"),
            "{drawn}"
        );
        assert!(
            drawn.contains("sha256:0011<span class=\"mark\"> from TOKEN</span>"),
            "{drawn}"
        );
        for other in ["{}", "[]", "{\":path\": 1}", "text"] {
            assert!(received(&server, "GET", other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn another_server_cannot_pose_as_the_demo() {
        let body = "{\":path\": \"/\", \"a\": \"x\\u202ey\\nz\"}";
        let at = |url: &str| {
            let url = url.to_owned();
            received(
                &Server {
                    url,
                    ..Default::default()
                },
                "GET",
                body.as_bytes(),
            )
        };
        for url in [
            "https://a.example",
            "http://127.a.example",
            "http://localhost.a.example",
        ] {
            assert!(at(url).is_none(), "{url}");
        }
        for url in ["http://127.0.0.1:80/x", "http://localhost", "http://[::1]:80"] {
            let drawn = at(url).unwrap().into_string();
            assert!(drawn.contains("a: x\\u{202e}y\\nz"), "{drawn}");
        }
    }
}
