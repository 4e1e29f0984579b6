//! The URL of an upstream.

use http::{Uri, uri::Authority};
use proto::Origin;
use url::{Host, Url};

use crate::address::is_loopback;

/// The URL of an upstream: scheme, host, port, and the path under which everything is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    text: String,
    origin: Origin,
    host: Host<String>,
    port: u16,
    tls: bool,
    /// The value of `Host` and `:authority`, without the default port of the scheme.
    authority: Authority,
    /// The path as it was written; `/` for the root.
    path: String,
}

/// The reason why a text is not the URL of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it is not a URL; write https://HOST[:PORT][/PATH]")]
    NotAUrl,
    #[error("its scheme must be https or http")]
    Scheme,
    #[error("it must not contain a user or password")]
    Userinfo,
    #[error("it must not have a query or fragment")]
    Query,
    /// The path is one that a client or a server may rewrite.
    #[error("its path must not have dot segments, backslashes or control characters")]
    Path,
    #[error("it has more than 2048 characters")]
    TooLong,
}

impl UpstreamUrl {
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > 2048 {
            return Err(UrlError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| UrlError::NotAUrl)?;
        let origin = Origin::of(&url).ok_or(UrlError::Scheme)?;
        let after_scheme = text.split_once("://").ok_or(UrlError::NotAUrl)?.1;
        let (authority, path) = match after_scheme.find(['/', '?', '#']) {
            Some(at) => after_scheme.split_at(at),
            None => (after_scheme, ""),
        };
        if authority.contains('@') {
            return Err(UrlError::Userinfo);
        }
        if text.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        // Requests carry the path as it was written, so no server may read it as another path.
        if text.contains('\\') || text.chars().any(char::is_control) || crate::path::has_dot_segment(path) {
            return Err(UrlError::Path);
        }
        let host = url.host().ok_or(UrlError::NotAUrl)?.to_owned();
        let path = url.path().to_owned();
        let tls = url.scheme() == "https";
        let port = url.port_or_known_default().ok_or(UrlError::NotAUrl)?;
        let named = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        let authority = named.parse().map_err(|_| UrlError::NotAUrl)?;
        Ok(Self {
            text: text.to_owned(),
            origin,
            host,
            port,
            tls,
            authority,
            path,
        })
    }

    /// Returns the URL as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn host(&self) -> &Host<String> {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns the value of `Host` and `:authority`.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns the path without trailing `/`; empty for the root.
    pub fn path(&self) -> &str {
        self.path.trim_end_matches('/')
    }

    /// Returns true for a loopback address, `localhost` and names under it.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Returns the URI of a request: `document`, the server's path, then `rest` with its query, byte for byte. `document` is
    /// the path of a well-known document about the server (RFC 8414, section 3), or empty. `rest` is empty or begins with `/`
    /// or `?`. The server's path keeps its trailing `/` when nothing else belongs to the path of the URI.
    pub fn request_uri(&self, document: &str, rest: &str) -> Result<Uri, http::Error> {
        let path = if rest.starts_with('/') || !document.is_empty() {
            self.path()
        } else {
            &self.path
        };
        let scheme = if self.tls { "https" } else { "http" };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.clone())
            .path_and_query(format!("{document}{path}{rest}"))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_urls_than_http_with_a_host_and_a_path_are_refused() {
        for (text, error) in [
            ("", UrlError::NotAUrl),
            ("api.example.com", UrlError::NotAUrl),
            ("ftp://api.example.com", UrlError::Scheme),
            ("https://u@api.example.com", UrlError::Userinfo),
            ("https://u:p@api.example.com", UrlError::Userinfo),
            ("https://@api.example.com", UrlError::Userinfo),
            ("https://api.example.com/?", UrlError::Query),
            ("https://api.example.com/x?y=z", UrlError::Query),
            ("https://api.example.com/#f", UrlError::Query),
            ("https://api.example.com/a/../b", UrlError::Path),
            ("https://api.example.com/a/%2e%2E/b", UrlError::Path),
            ("https://api.example.com/a\\b", UrlError::Path),
            ("https://api.exa\nmple.com/", UrlError::Path),
        ] {
            assert_eq!(UpstreamUrl::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_rest_of_a_request_is_copied_byte_for_byte() {
        for (url, rest, uri) in [
            ("https://api.example.com", "", "https://api.example.com/"),
            (
                "https://api.example.com/",
                "/a//b;c=%2F?q=%20&r",
                "https://api.example.com/a//b;c=%2F?q=%20&r",
            ),
            ("https://api.example.com/v1", "", "https://api.example.com/v1"),
            (
                "https://api.example.com:443/v1/",
                "",
                "https://api.example.com/v1/",
            ),
            (
                "https://api.example.com/v1/",
                "?q=/",
                "https://api.example.com/v1/?q=/",
            ),
            ("https://api.example.com/v1/", "/", "https://api.example.com/v1/"),
            (
                "https://api.example.com/v1/",
                "/a",
                "https://api.example.com/v1/a",
            ),
            (
                "https://api.example.com:8443/v1",
                "/",
                "https://api.example.com:8443/v1/",
            ),
            ("http://[::1]:80/x", "?q", "http://[::1]/x?q"),
            ("http://127.0.0.1:9", "?q", "http://127.0.0.1:9/?q"),
        ] {
            let url = UpstreamUrl::parse(url).unwrap();
            assert_eq!(url.request_uri("", rest).unwrap().to_string(), uri);
        }
    }

    #[test]
    fn the_path_of_a_document_comes_before_the_servers() {
        for (url, rest, uri) in [
            ("https://a.example/", "", "https://a.example/.well-known/x"),
            (
                "https://a.example/mcp/",
                "?q",
                "https://a.example/.well-known/x/mcp?q",
            ),
            (
                "https://a.example/mcp",
                "/a",
                "https://a.example/.well-known/x/mcp/a",
            ),
        ] {
            let url = UpstreamUrl::parse(url).unwrap();
            assert_eq!(url.request_uri("/.well-known/x", rest).unwrap().to_string(), uri);
        }
    }

    #[test]
    fn loopback_is_recognized_by_name_and_address() {
        for (url, loopback) in [
            ("http://127.0.0.1", true),
            ("http://127.9.9.9:1", true),
            ("http://[::1]", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://localhost:1", true),
            ("http://a.localhost", true),
            ("http://localhost.example.com", false),
            ("http://10.0.0.1", false),
            ("http://notlocalhost", false),
        ] {
            assert_eq!(UpstreamUrl::parse(url).unwrap().is_loopback(), loopback, "{url}");
        }
    }
}
