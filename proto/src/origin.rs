//! Origins (RFC 6454) and patterns of origins, which bind a value to the servers that it may be sent to.

use std::fmt;

use url::{Host, Url};

/// The destination of a request: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: Host<String>,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The text is not an origin, or not a pattern of origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// The text is not a URL with the scheme `http` or `https`.
    #[error("an origin is http:// or https:// and a host, with a port when it is not the scheme's own")]
    NotAnOrigin,
    /// The URL has more than an origin.
    #[error("an origin has no path, query, fragment or user")]
    MoreThanAnOrigin,
    /// `*` stands elsewhere than as the whole first label before a name of two labels or more.
    #[error("a wildcard is `*.` before a domain of at least two labels, such as https://*.example.com")]
    Wildcard,
    /// The text is longer than any origin.
    #[error("an origin has at most 300 characters")]
    TooLong,
}

impl Origin {
    /// Returns the origin of a URL; `None` when its scheme is neither `http` nor `https`.
    pub fn of(url: &Url) -> Option<Self> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let host = match url.host()? {
            Host::Domain(name) => Host::Domain(name.trim_end_matches('.').to_owned()),
            Host::Ipv4(ip) => Host::Ipv4(ip),
            Host::Ipv6(ip) => Host::Ipv6(ip),
        };
        Some(Self {
            scheme,
            host,
            port: url.port().unwrap_or_else(|| scheme.default_port()),
        })
    }

    fn parse(text: &str) -> Result<Self, OriginError> {
        if text.len() > 300 {
            return Err(OriginError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| OriginError::NotAnOrigin)?;
        let origin = Self::of(&url).ok_or(OriginError::NotAnOrigin)?;
        let bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && !text.contains(['@', '\\', '\t', '\n', '\r']);
        if bare {
            Ok(origin)
        } else {
            Err(OriginError::MoreThanAnOrigin)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.default_port() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

/// A pattern of origins. Without a wildcard it matches one origin. `https://*.example.com` matches every subdomain of
/// `example.com` at any depth, but not `example.com` itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginPattern {
    origin: Origin,
    wildcard: bool,
    text: Box<str>,
}

impl OriginPattern {
    /// Reads a pattern: `https://api.github.com`, `https://*.example.com`, `http://127.0.0.1:8080`.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let (plain, wildcard) = match text.split_once("://*.") {
            Some((scheme, rest)) => (format!("{scheme}://{rest}"), true),
            None => (text.to_owned(), false),
        };
        if plain.contains('*') {
            return Err(OriginError::Wildcard);
        }
        let origin = Origin::parse(&plain)?;
        let several_labels = matches!(&origin.host, Host::Domain(name) if name.contains('.'));
        if wildcard && !several_labels {
            return Err(OriginError::Wildcard);
        }
        let canonical = origin.to_string();
        let text = if wildcard {
            canonical.replacen("://", "://*.", 1)
        } else {
            canonical
        };
        Ok(Self {
            origin,
            wildcard,
            text: text.into(),
        })
    }

    /// Returns the canonical spelling of the pattern.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns true when the pattern matches `origin`.
    pub fn matches(&self, origin: &Origin) -> bool {
        if !self.wildcard {
            return self.origin == *origin;
        }
        let (Host::Domain(suffix), Host::Domain(name)) = (&self.origin.host, &origin.host) else {
            return false;
        };
        self.origin.scheme == origin.scheme
            && self.origin.port == origin.port
            && name
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }

    /// Returns true when this pattern matches every origin that `other` matches.
    fn contains(&self, other: &Self) -> bool {
        if !other.wildcard {
            return self.matches(&other.origin);
        }
        self.wildcard && (self.origin == other.origin || self.matches(&other.origin))
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns true when a value that is bound to `patterns` may be sent to `origin`: one of the patterns matches, or there are
/// none.
pub fn allows(patterns: &[OriginPattern], origin: &Origin) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(origin))
}

/// Returns patterns of the origins that both lists allow; an empty list allows all origins. Returns `None` when the lists
/// have no origin in common.
pub fn common(one: &[OriginPattern], other: &[OriginPattern]) -> Option<Vec<OriginPattern>> {
    match (one, other) {
        (all, []) | ([], all) => Some(all.to_vec()),
        (one, other) => {
            let mut common = within(one, other);
            for pattern in within(other, one) {
                if !common.contains(&pattern) {
                    common.push(pattern);
                }
            }
            (!common.is_empty()).then_some(common)
        }
    }
}

/// Returns the elements of `patterns` that a pattern of `outer` contains.
fn within(patterns: &[OriginPattern], outer: &[OriginPattern]) -> Vec<OriginPattern> {
    let contained = |pattern: &&OriginPattern| outer.iter().any(|outer| outer.contains(pattern));
    patterns.iter().filter(contained).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Origin::of(&Url::parse(url).unwrap()).unwrap()
    }

    fn list_of(texts: &[&str]) -> Vec<OriginPattern> {
        texts
            .iter()
            .map(|text| OriginPattern::parse(text).unwrap())
            .collect()
    }

    #[test]
    fn patterns_have_one_spelling() {
        for (given, canonical) in [
            ("https://api.github.com", "https://api.github.com"),
            ("HTTPS://API.GitHub.com:443/", "https://api.github.com"),
            ("https://api.github.com.", "https://api.github.com"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:80", "http://[::1]"),
            ("https://*.Example.com", "https://*.example.com"),
            ("https://b\u{fc}cher.example", "https://xn--bcher-kva.example"),
        ] {
            assert_eq!(OriginPattern::parse(given).unwrap().as_str(), canonical);
        }
    }

    #[test]
    fn a_text_that_is_not_an_origin_is_refused() {
        for text in [
            "",
            "api.github.com",
            "ftp://x.example",
            "https://",
            "https://x.example/path",
            "https://x.example?q",
            "https://x.example#f",
            "https://u@x.example",
            "https://u:p@x.example",
            "https://*",
            "https://*.com",
            "https://*.*.example.com",
            "https://a.*.example.com",
            "https://a*.example.com",
            "*://x.example",
            "https://*.127.0.0.1",
            "https://x.example:99999",
            "https://@x.example",
            "https://x\n.example",
        ] {
            assert!(OriginPattern::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            OriginPattern::parse(&format!("https://{}", "x".repeat(1 << 20))),
            Err(OriginError::TooLong)
        );
    }

    #[test]
    fn a_pattern_matches_its_own_origins_only() {
        for (pattern, url, matches) in [
            ("https://api.github.com", "https://api.github.com/user", true),
            ("https://api.github.com", "https://api.github.com:443/", true),
            ("https://api.github.com", "https://api.github.com./", true),
            ("https://api.github.com", "http://api.github.com", false),
            ("https://api.github.com", "https://api.github.com:8443", false),
            ("https://api.github.com", "https://evil.api.github.com", false),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://evilexample.com", false),
            ("https://*.example.com", "https://a.example.com.evil.org", false),
            ("https://*.example.com", "http://a.example.com", false),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/x", true),
            ("http://127.0.0.1:8080", "http://localhost:8080/x", false),
        ] {
            assert_eq!(
                OriginPattern::parse(pattern).unwrap().matches(&origin(url)),
                matches,
                "{pattern} {url}"
            );
        }
    }

    #[test]
    fn common_origins_are_those_that_both_lists_allow() {
        let (any, a, b) = (
            "https://*.example.com",
            "https://a.example.com",
            "https://b.example.com",
        );
        let deep = "https://*.deep.example.com";
        for (one, other, both) in [
            (&[][..], &[][..], Some(&[][..])),
            (&[], &[a], Some(&[a])),
            (&[a, b], &[b, "https://c.example.com"], Some(&[b])),
            (&[any], &[a], Some(&[a])),
            (&[any], &[deep], Some(&[deep])),
            (&[any], &[any], Some(&[any])),
            (
                &[any, "https://a.example.org"],
                &[a, "https://*.example.org"],
                Some(&["https://a.example.org", a]),
            ),
            (&[a], &[b], None),
            (&[any], &["https://example.com"], None),
            (&[any], &["https://*.example.com:8443"], None),
            (&[any], &["http://*.example.com"], None),
            (&[a], &["http://a.example.com"], None),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let mut found = common(&list_of(one), &list_of(other));
                let mut expected = both.map(list_of);
                for list in [&mut found, &mut expected].into_iter().flatten() {
                    list.sort_by(|one, other| one.as_str().cmp(other.as_str()));
                }
                assert_eq!(found, expected, "{one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn a_value_without_patterns_may_be_sent_anywhere() {
        assert!(allows(&[], &origin("http://anywhere.example")));
        let only = [OriginPattern::parse("https://a.example.com").unwrap()];
        assert!(!allows(&only, &origin("https://b.example.com")));
    }
}
