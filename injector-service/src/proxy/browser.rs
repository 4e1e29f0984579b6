//! Web pages, which may call the injector only where a server allows their origin. Any page that a user visits can send
//! requests to a loopback port, so the injector recognizes requests of browsers by their headers.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::{Reason, Refusal};

use super::hosts;
use crate::registry::server::WebOrigin;

/// The kind of program that sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sender {
    NotABrowser,
    /// A web page whose origin, which is in the variant, the server allows.
    AllowedPage(String),
}

/// Returns the sender of a request for `host`, or refuses a web page whose origin is not among `allowed`.
pub(super) fn sender(headers: &HeaderMap, host: &str, allowed: &[WebOrigin]) -> Result<Sender, Refusal> {
    let refused = || {
        Refusal::new(
            Reason::BrowserRefused,
            "web pages may not call this; see allowed_origins of the server",
        )
    };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) => allowed
            .iter()
            .find(|allowed| allowed.as_str().as_bytes() == origin.as_bytes())
            .map(|allowed| Sender::AllowedPage(allowed.as_str().to_owned()))
            .ok_or_else(refused),
        (Some(_), Some(_)) => Err(refused()),
        (None, _)
            if headers
                .iter()
                .any(|(name, value)| is_of_browser(name, value, host)) =>
        {
            Err(refused())
        }
        (None, _) => Ok(Sender::NotABrowser),
    }
}

/// Returns true when a browser sends this header and other programs do not. A navigation to a typed URL counts as well,
/// because the page behind the URL may have redirected to the injector.
///
/// Browsers send `Sec-Fetch-Site` and related headers with every request, but over plain HTTP only to trustworthy hosts
/// (Fetch Metadata, section 2). A request for an image from any other host has no header that only browsers send, but
/// no page can change the `User-Agent` of a request without a preflight.
fn is_of_browser(name: &HeaderName, value: &HeaderValue, host: &str) -> bool {
    match name.as_str() {
        // Node.js itself sends `sec-fetch-mode: cors`. A browser that sends this value sends `Sec-Fetch-Site`, too.
        "sec-fetch-mode" => value.as_bytes() != b"cors",
        "upgrade-insecure-requests" => true,
        "user-agent" => value.as_bytes().starts_with(b"Mozilla/") && !is_trustworthy(host),
        name => name.starts_with("sec-fetch-"),
    }
}

/// Returns true when browsers treat plain HTTP to `host` as trustworthy (Secure Contexts, section 3.1).
fn is_trustworthy(host: &str) -> bool {
    hosts::is_loopback(host) || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_call_only_where_its_origin_is_allowed() {
        let allowed = [WebOrigin::parse("https://app.example").unwrap()];
        let sender = |pairs: &[(&'static str, &'static str)], allowed: &[WebOrigin]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            super::sender(&headers, "localhost", allowed).ok()
        };
        assert_eq!(sender(&[], &[]), Some(Sender::NotABrowser));
        // Node.js sends this header by itself.
        assert_eq!(
            sender(&[("sec-fetch-mode", "cors")], &[]),
            Some(Sender::NotABrowser)
        );
        let page = Some(Sender::AllowedPage("https://app.example".to_owned()));
        assert_eq!(
            sender(
                &[
                    ("origin", "https://app.example"),
                    ("sec-fetch-site", "cross-site")
                ],
                &allowed
            ),
            page
        );
        for pairs in [
            &[("origin", "https://app.example")][..],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-mode", "navigate")],
            &[("sec-fetch-mode", "cors"), ("sec-fetch-mode", "no-cors")],
            &[("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
            &[("sec-fetch-anything", "")],
            &[("upgrade-insecure-requests", "1")],
        ] {
            assert_eq!(sender(pairs, &[]), None, "{pairs:?}");
        }
        for pairs in [
            &[("origin", "https://app.example.evil")][..],
            &[("origin", "https://APP.example")],
            &[("origin", "null")],
            &[
                ("origin", "https://app.example"),
                ("origin", "https://app.example"),
            ],
            &[("sec-fetch-site", "same-site")],
        ] {
            assert_eq!(sender(pairs, &allowed), None, "{pairs:?}");
        }
    }

    #[test]
    fn the_user_agent_tells_a_browser_on_hosts_that_are_not_trustworthy() {
        let mut headers = HeaderMap::new();
        headers.append("user-agent", HeaderValue::from_static("Mozilla/5.0 (X11; Linux)"));
        for (host, taken) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("github.dev.localhost", true),
            ("injector.internal", false),
            ("github.dev.internal", false),
        ] {
            assert_eq!(sender(&headers, host, &[]).is_ok(), taken, "{host}");
        }
        let mut program = HeaderMap::new();
        program.append("user-agent", HeaderValue::from_static("curl/8.5.0"));
        assert!(sender(&program, "injector.internal", &[]).is_ok());
    }
}
