//! Web pages, which may call the injector only where a server allows their origin. Any page that a user visits can send
//! requests to a loopback port, so the injector recognizes requests of browsers by their headers.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::{Reason, Refusal};

use super::hosts;
use crate::registry::server::WebOrigin;

/// Returns the origin of the web page that sent a request for `host`, or None for a program that is no browser. Refuses
/// a page whose origin is not among `allowed`.
pub(super) fn page_origin(
    headers: &HeaderMap,
    host: &str,
    allowed: &[WebOrigin],
) -> Result<Option<String>, Refusal> {
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
            .map(|allowed| Some(allowed.as_str().to_owned()))
            .ok_or_else(refused),
        (Some(_), Some(_)) => Err(refused()),
        (None, _)
            if headers
                .iter()
                .any(|(name, value)| is_of_browser(name, value, host)) =>
        {
            Err(refused())
        }
        (None, _) => Ok(None),
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
        let page_origin = |pairs: &[(&'static str, &'static str)], allowed: &[WebOrigin]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            super::page_origin(&headers, "localhost", allowed).ok()
        };
        assert_eq!(page_origin(&[], &[]), Some(None));
        // Node.js sends this header by itself.
        assert_eq!(page_origin(&[("sec-fetch-mode", "cors")], &[]), Some(None));
        let page = Some(Some("https://app.example".to_owned()));
        assert_eq!(
            page_origin(
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
            assert_eq!(page_origin(pairs, &[]), None, "{pairs:?}");
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
            assert_eq!(page_origin(pairs, &allowed), None, "{pairs:?}");
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
            assert_eq!(page_origin(&headers, host, &[]).is_ok(), taken, "{host}");
        }
        let mut program = HeaderMap::new();
        program.append("user-agent", HeaderValue::from_static("curl/8.5.0"));
        assert!(page_origin(&program, "injector.internal", &[]).is_ok());
    }
}
