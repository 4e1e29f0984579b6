//! The URL of a server, for people.

/// The parts of a URL that the injector has accepted, or that a person is typing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UrlParts<'u> {
    /// `https` or `http`, in lower case however the URL writes it; empty for a text that is no URL.
    pub(super) scheme: &'u str,
    pub(super) authority: &'u str,
    /// Begins with `/`, or is empty.
    pub(super) path: &'u str,
    pub(super) query: &'u str,
}

impl<'u> UrlParts<'u> {
    pub(super) fn of(url: &'u str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let known = ["https", "http"]
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(scheme));
        let scheme = known.unwrap_or(scheme);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        Self {
            scheme,
            authority,
            path,
            query,
        }
    }

    /// Returns the origin to which a secret of the server is bound best.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Returns true for a parameter that stands in the URL itself.
    pub(super) fn has_parameter(&self, name: &str) -> bool {
        form_urlencoded::parse(self.query.as_bytes()).any(|(given, _)| given == name)
    }

    /// Returns the URL without the content of its query.
    pub(super) fn short(&self) -> String {
        let Self {
            scheme,
            authority,
            path,
            query,
        } = self;
        let query = if query.is_empty() { "" } else { "?…" };
        format!("{scheme}://{authority}{path}{query}")
    }

    /// Returns true when secrets would cross a network in cleartext.
    pub(super) fn is_cleartext(&self) -> bool {
        self.scheme == "http" && !self.is_loopback()
    }

    /// Returns true for a server on the injector's own machine.
    pub(super) fn is_loopback(&self) -> bool {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            Some(_) | None => self.authority,
        };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let address = address
            .parse()
            .map(|address: std::net::IpAddr| address.is_loopback());
        host.eq_ignore_ascii_case("localhost") || address.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_its_parts() {
        let url = UrlParts::of("https://a.example:8443/v1/${T}/?key=${K}&x=1");
        assert_eq!((url.authority, url.path), ("a.example:8443", "/v1/${T}/"));
        assert!(url.has_parameter("key") && !url.has_parameter("${K}"));
        assert_eq!(url.origin(), "https://a.example:8443");
        assert_eq!(url.short(), "https://a.example:8443/v1/${T}/?…");
        assert_eq!(UrlParts::of("https://a").short(), "https://a");
        assert_eq!(UrlParts::of("Https://a").origin(), "https://a");
        for (url, is_cleartext) in [
            ("http://127.0.0.1:80", false),
            ("http://[::1]:80", false),
            ("http://[::1]", false),
            ("http://127.a.example", true),
            ("http://localhost", false),
            ("http://a.example", true),
            ("Http://a.example", true),
            ("HTTP://LocalHost:80", false),
            ("https://a.example", false),
        ] {
            assert_eq!(UrlParts::of(url).is_cleartext(), is_cleartext, "{url}");
        }
    }
}
