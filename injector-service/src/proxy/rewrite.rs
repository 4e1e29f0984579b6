//! What a response says of where things are, moved to where the downstream sees them.

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use proto::Origin;
use url::Url;

use crate::registry::server::UpstreamUrl;

/// A server that was named by the path: where it is for the downstream, and where it really is.
pub(super) struct Moved<'a> {
    /// `/{workspace}/{server}`.
    pub(super) prefix: &'a str,
    /// The server's URL.
    pub(super) upstream: &'a UpstreamUrl,
    /// The URL of the request as it was sent upstream.
    pub(super) request: &'a Uri,
}

impl Moved<'_> {
    /// Moves `Location` and `Content-Location` under the prefix.
    pub(super) fn rewrite(&self, headers: &mut HeaderMap) {
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            self.rewrite_location(headers, &name);
        }
    }

    fn rewrite_location(&self, headers: &mut HeaderMap, name: &HeaderName) {
        let Some(location) = headers.get(name) else { return };
        let moved = location
            .to_str()
            .ok()
            .and_then(|location| HeaderValue::from_str(&self.location(location)?).ok());
        match moved {
            Some(moved) => headers.insert(name.clone(), moved),
            // Not a URL; passed on, it would be read as relative to another server.
            None => headers.remove(name),
        };
    }

    /// On the server's own path under the prefix; elsewhere as an absolute URL.
    fn location(&self, location: &str) -> Option<String> {
        let target = Url::parse(&self.request.to_string()).ok()?.join(location).ok()?;
        let own = Origin::of(&target).as_ref() == Some(self.upstream.origin());
        let under = under(target.path(), self.upstream.path());
        match under {
            Some(rest) if own => {
                let query = target
                    .query()
                    .map(|query| format!("?{query}"))
                    .unwrap_or_default();
                let fragment = target
                    .fragment()
                    .map(|fragment| format!("#{fragment}"))
                    .unwrap_or_default();
                Some(format!("{}{rest}{query}{fragment}", self.prefix))
            }
            Some(_) | None => Some(target.into()),
        }
    }
}

/// What follows `base` (without a final `/`) in `path`, when `path` is at or under it.
pub(super) fn under<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(base)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(url: &str, request: &str, header: HeaderName, value: &str) -> Option<String> {
        let upstream = UpstreamUrl::parse(url).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header.clone(), value.parse().unwrap());
        Moved {
            prefix: "/w/s",
            upstream: &upstream,
            request: &request.parse().unwrap(),
        }
        .rewrite(&mut headers);
        headers
            .get(header)
            .map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_location_on_the_server_gets_the_prefix_back() {
        for (location, expected) in [
            ("https://api.example.com/v1/b?q=1#f", "/w/s/b?q=1#f"),
            ("https://API.example.com:443/v1", "/w/s"),
            ("/v1/b", "/w/s/b"),
            ("b", "/w/s/x/b"),
            ("?q", "/w/s/x/y?q"),
            ("/other", "https://api.example.com/other"),
            ("/v10/b", "https://api.example.com/v10/b"),
            ("../../../b", "https://api.example.com/b"),
            ("http://api.example.com/v1/b", "http://api.example.com/v1/b"),
            ("//elsewhere.example/b", "https://elsewhere.example/b"),
            ("https://elsewhere.example/v1/b", "https://elsewhere.example/v1/b"),
        ] {
            let request = "https://api.example.com/v1/x/y";
            let answer = moved("https://api.example.com/v1/", request, header::LOCATION, location);
            assert_eq!(answer.as_deref(), Some(expected), "{location}");
        }
        assert_eq!(
            moved(
                "https://a.example",
                "https://a.example/",
                header::LOCATION,
                "https://["
            ),
            None
        );
    }
}
