//! The URL of an upstream.

use http::{
    Uri,
    uri::{Authority, PathAndQuery},
};
use proto::{Origin, SecretName};
use url::{Host, Url};

use super::url_variables::{UrlQuery, VariableError, path_parts, secrets, text_of};
use crate::{
    address::is_loopback,
    template::{Part, Template},
};

/// The URL of an upstream: scheme, host, port, the path under which everything is sent, and parameters that every query
/// gets. `${NAME}` stands for the value of a secret, in the path and in the values of parameters.
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
    /// The parts of `path`.
    path_parts: Vec<Part>,
    query: UrlQuery,
}

/// The reason why a text is not the URL of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it is not a URL; write https://HOST[:PORT][/PATH]")]
    NotAUrl,
    #[error("its scheme must be https or http")]
    Scheme,
    #[error("it must not contain a user or password")]
    Userinfo,
    #[error("it must not have a fragment")]
    Fragment,
    #[error("it ends with a `?` that no query follows")]
    EmptyQuery,
    #[error("a secret may stand in its path and in the values of its query, and nowhere else")]
    VariablePlace,
    #[error("{0}")]
    Variable(#[from] VariableError),
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
        if authority.contains('$') {
            return Err(UrlError::VariablePlace);
        }
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (path, query) = match path.split_once('?') {
            Some((_, "")) => return Err(UrlError::EmptyQuery),
            Some((path, query)) => (path, UrlQuery::parse(query)?),
            None => (path, UrlQuery::default()),
        };
        // Requests carry the path as it was written, so no server may read it as another path.
        if text.contains('\\') || text.chars().any(char::is_control) || crate::path::has_dot_segment(path) {
            return Err(UrlError::Path);
        }
        let host = url.host().ok_or(UrlError::NotAUrl)?.to_owned();
        let path_parts = path_parts(path, url.path())?;
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
            path: text_of(&path_parts),
            path_parts,
            query,
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

    /// Returns the path without trailing `/`; empty for the root. A secret in the path is `${NAME}`.
    pub fn path(&self) -> &str {
        self.path.trim_end_matches('/')
    }

    /// Returns the path with its trailing `/`, and with the places of the secrets in it.
    pub(crate) fn path_parts(&self) -> &[Part] {
        &self.path_parts
    }

    /// Returns the secrets in the path, each once, in the order in which the path first names them.
    pub(crate) fn path_secrets(&self) -> Vec<&SecretName> {
        secrets(&self.path_parts)
    }

    /// Returns the parameters of the query that contain no secret, as they were written and without `?`.
    pub(crate) fn fixed_query(&self) -> &str {
        self.query.fixed()
    }

    /// Returns the parameters of the query whose values contain secrets: the decoded name and the decoded value of each.
    pub(crate) fn query_injections(&self) -> &[(String, Template)] {
        self.query.injections()
    }

    /// Returns true when the URL contains a secret.
    pub(crate) fn has_variables(&self) -> bool {
        !self.path_secrets().is_empty() || !self.query_injections().is_empty()
    }

    /// Returns the part of `path` after the path of this URL, or `None` when `path` is not at or under that path. In
    /// `path`, every value of a secret is masked: a run of `*` stands for it.
    pub(crate) fn strip_path<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut rest = path;
        let mut is_after_secret = false;
        let last = self.path_parts.len().checked_sub(1)?;
        for (at, part) in self.path_parts.iter().enumerate() {
            match part {
                Part::Text(text) => {
                    let text = if at == last {
                        text.trim_end_matches('/')
                    } else {
                        text
                    };
                    // The asterisks of the text count as part of the value before them.
                    let text = if is_after_secret {
                        text.trim_start_matches('*')
                    } else {
                        text
                    };
                    rest = rest.strip_prefix(text)?;
                    is_after_secret = false;
                }
                Part::Secret(_) if is_after_secret => {}
                Part::Secret(_) => {
                    let after = rest.trim_start_matches('*');
                    if after.len() == rest.len() {
                        return None;
                    }
                    rest = after;
                    is_after_secret = true;
                }
            }
        }
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// Returns true for a loopback address, `localhost` and names under it.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Returns the URI of a request to this upstream with the path and query `target`.
    pub(crate) fn with_target(&self, target: PathAndQuery) -> Result<Uri, http::Error> {
        let scheme = if self.tls { "https" } else { "http" };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.clone())
            .path_and_query(target)
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
            ("https://api.example.com/?", UrlError::EmptyQuery),
            ("https://api.example.com/#f", UrlError::Fragment),
            ("https://api.example.com/?a=b#f", UrlError::Fragment),
            ("https://${HOST}/", UrlError::VariablePlace),
            ("https://${SUB}.example.com/", UrlError::VariablePlace),
            ("https://api.example.com:${PORT}/", UrlError::NotAUrl),
            ("${SCHEME}://api.example.com/", UrlError::NotAUrl),
            ("https://api.example.com/a/../b", UrlError::Path),
            ("https://api.example.com/a/%2e%2E/b", UrlError::Path),
            ("https://api.example.com/a\\b", UrlError::Path),
            ("https://api.exa\nmple.com/", UrlError::Path),
        ] {
            assert_eq!(UpstreamUrl::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_uri_has_the_authority_without_the_default_port() {
        for (url, uri) in [
            ("https://api.example.com", "https://api.example.com/a?b"),
            ("https://api.example.com:443/v1/", "https://api.example.com/a?b"),
            (
                "https://api.example.com:8443/v1",
                "https://api.example.com:8443/a?b",
            ),
            ("http://[::1]:80/x", "http://[::1]/a?b"),
            ("http://127.0.0.1:9?c=d", "http://127.0.0.1:9/a?b"),
        ] {
            let url = UpstreamUrl::parse(url).unwrap();
            let target = PathAndQuery::from_static("/a?b");
            assert_eq!(url.with_target(target).unwrap().to_string(), uri);
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
