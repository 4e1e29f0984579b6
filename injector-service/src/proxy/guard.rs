//! Who may use the data plane at all: not a web page, under whatever name it reaches this port.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts, uri::Authority};
use proto::{Reason, Refusal};

use crate::{limits::Limits, registry::server::WebOrigin};

/// The names under which the data plane answers.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// Names beside loopback addresses and `localhost`, lower case.
    pub names: Vec<String>,
    /// What follows `{server}.{workspace}.` in names of servers, lower case.
    pub suffix: String,
    /// `https` when the data plane speaks TLS, else `http`.
    pub scheme: &'static str,
}

impl Hosts {
    /// Whether a request for `host` is meant for us. It must not be when a page's own name was made to resolve to us.
    pub(super) fn check(&self, host: &str) -> Result<(), Refusal> {
        if is_loopback(host) || self.names.iter().any(|name| name == host) || self.server(host).is_some() {
            return Ok(());
        }
        Err(Refusal::new(
            Reason::HostNotServed,
            "this host is not served here; ask for localhost or a configured host",
        ))
    }

    /// `{server}.{workspace}.{suffix}`, taken apart.
    pub(super) fn server<'a>(&self, host: &'a str) -> Option<(&'a str, &'a str)> {
        let (server, workspace) = host
            .strip_suffix(&self.suffix)?
            .strip_suffix('.')?
            .split_once('.')?;
        (!workspace.contains('.') && !server.is_empty() && !workspace.is_empty())
            .then_some((workspace, server))
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// The one host that a request is for, with its port. HTTP/1.1 demands exactly one `Host`, equal to the target's.
pub(super) fn authority(parts: &Parts) -> Result<Authority, Refusal> {
    let wrong = |what: &str| Refusal::new(Reason::HostInvalid, what);
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            Some(parse(host).ok_or_else(|| wrong("Host is not a host and an optional port"))?)
        }
        (None, _) => None,
        (Some(_), Some(_)) => return Err(wrong("Host is given more than once")),
    };
    match (parts.uri.authority(), header) {
        (Some(target), _) if target.as_str().contains('@') => Err(wrong("the target must not name a user")),
        (Some(target), Some(header)) if !same(target, &header) => {
            Err(wrong("Host and the request's target name different hosts"))
        }
        (Some(host), _) => Ok(host.clone()),
        (None, Some(host)) => Ok(host),
        (None, None) => Err(wrong("Host is required")),
    }
}

fn parse(host: &HeaderValue) -> Option<Authority> {
    let host = Authority::try_from(host.as_bytes()).ok()?;
    (!host.as_str().contains('@') && !host.host().is_empty() && has_no_other_port(&host)).then_some(host)
}

/// What follows the host is a port, or nothing.
fn has_no_other_port(host: &Authority) -> bool {
    host.port().is_some() || host.as_str().len() == host.host().len()
}

fn same(one: &Authority, other: &Authority) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

/// That a head is no larger than may be.
pub(super) fn size(parts: &Parts, limits: &Limits) -> Result<(), Refusal> {
    let target = parts
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if target > limits.max_uri_size {
        return Err(Refusal::new(
            Reason::UriTooLong,
            format!(
                "the target has {target} bytes, {} at most are taken",
                limits.max_uri_size
            ),
        ));
    }
    let fields = parts.headers.len();
    let bytes: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if fields > limits.max_headers || bytes > limits.max_headers_size {
        return Err(Refusal::new(
            Reason::HeadersTooLarge,
            format!(
                "the request has {fields} header fields of {bytes} bytes, {} of {} at most are taken",
                limits.max_headers, limits.max_headers_size
            ),
        ));
    }
    Ok(())
}

/// Only methods that ask for something of the upstream.
pub(super) fn method(method: &Method) -> Result<(), Refusal> {
    let refused = matches!(*method, Method::CONNECT | Method::TRACE) || method.as_str() == "PRI";
    let ordinary = method
        .as_str()
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_');
    if refused || !ordinary {
        return Err(Refusal::new(
            Reason::MethodRefused,
            "this method is not forwarded",
        ));
    }
    Ok(())
}

/// `100-continue` is kept by answering 100 when the body is first read; nothing else is known.
pub(super) fn expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    let kept = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(kept) {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::ExpectationFailed,
        "the only expectation that is met is 100-continue",
    ))
}

/// What a browser says of where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sender {
    /// It is no browser's, or the user's own doing.
    NotAPage,
    /// A page of an origin that the server allows.
    AllowedPage(String),
}

/// Whether the request was made by a web page, and may be. `allowed` is none for a server that does not exist.
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
                .any(|(name, value)| is_of_a_browser(name, value, host)) =>
        {
            Err(refused())
        }
        (None, _) => Ok(Sender::NotAPage),
    }
}

/// Returns true when a browser sends this header and other programs do not. A navigation to a typed URL counts as well,
/// because the page behind the URL may have redirected to the injector.
///
/// Browsers send `Sec-Fetch-Site` and related headers with every request, but over plain HTTP only to trustworthy hosts
/// (Fetch Metadata, section 2). A request for an image from any other host has no header that only browsers send, but
/// no page can change the `User-Agent` of a request without a preflight.
fn is_of_a_browser(name: &HeaderName, value: &HeaderValue, host: &str) -> bool {
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
    is_loopback(host) || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_is_for_exactly_one_host() {
        for (uri, hosts, authority_of) in [
            ("/", &["LocalHost:7100"][..], Some("LocalHost:7100")),
            ("/", &["[::1]:7100"], Some("[::1]:7100")),
            ("http://127.0.0.1:1/", &[], Some("127.0.0.1:1")),
            ("http://a:1/", &["A:1"], Some("a:1")),
            ("/", &[], None),
            ("/", &["a", "a"], None),
            ("/", &[""], None),
            ("/", &["u@a"], None),
            ("/", &["a b"], None),
            ("/", &["a/b"], None),
            ("/", &["a:x"], None),
            ("/", &["a:99999"], None),
            ("/", &["a:"], None),
            ("http://u@a/", &[], None),
            ("http://a/", &["b"], None),
            ("http://a:1/", &["a:2"], None),
        ] {
            assert_eq!(
                authority(&parts(uri, hosts)).ok().as_ref().map(Authority::as_str),
                authority_of,
                "{uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn foreign_hosts_are_not_served() {
        let hosts = Hosts {
            names: vec!["injector.internal".into()],
            suffix: "localhost".into(),
            scheme: "http",
        };
        for (host, served) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("[::1]", true),
            ("injector.internal", true),
            ("github.dev-tools.localhost", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
            ("a.localhost", false),
            ("a.b.c.localhost", false),
            (".b.localhost", false),
            ("evillocalhost", false),
        ] {
            assert_eq!(hosts.check(host).is_ok(), served, "{host}");
        }
        assert_eq!(
            hosts.server("github.dev-tools.localhost"),
            Some(("dev-tools", "github"))
        );
    }

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
        assert_eq!(sender(&[], &[]), Some(Sender::NotAPage));
        // Node.js sends this header by itself.
        assert_eq!(sender(&[("sec-fetch-mode", "cors")], &[]), Some(Sender::NotAPage));
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
    fn to_a_host_that_is_not_loopback_by_itself_a_browser_is_known_by_its_name() {
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

    #[test]
    fn methods_that_do_not_ask_the_upstream_are_refused() {
        for (name, taken) in [
            ("GET", true),
            ("DELETE", true),
            ("PROPFIND", true),
            ("M-SEARCH", true),
            ("CONNECT", false),
            ("TRACE", false),
            ("get", false),
            ("PRI", false),
        ] {
            assert_eq!(method(&name.parse().unwrap()).is_ok(), taken, "{name}");
        }
    }
}
