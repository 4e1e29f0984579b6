//! Web origins, in the serialization of browsers.

use proto::Origin;
use url::Url;

/// A web origin as browsers write it in the header `Origin`, such as `https://app.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a web origin as browsers write it, such as https://app.example.com")]
pub struct NotAWebOrigin;

impl WebOrigin {
    /// Parses an origin, and refuses every spelling that a browser would not send, such as one with a default port.
    pub fn parse(text: &str) -> Result<Self, NotAWebOrigin> {
        let url = Url::parse(text).map_err(|_| NotAWebOrigin)?;
        let origin = Origin::of(&url).ok_or(NotAWebOrigin)?.to_string();
        if origin == text {
            Ok(Self(origin))
        } else {
            Err(NotAWebOrigin)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true for an origin such as `https://*.example.com`, which no web page has: `*` is no wildcard here.
    pub(crate) fn has_wildcard(&self) -> bool {
        self.0.contains('*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_origin_is_spelled_as_browsers_spell_it() {
        assert!(WebOrigin::parse("https://app.example.com").is_ok());
        assert!(WebOrigin::parse("http://localhost:3000").is_ok());
        for text in [
            "null",
            "*",
            "https://app.example.com/",
            "https://App.example.com",
            "https://app.example.com:443",
        ] {
            assert!(WebOrigin::parse(text).is_err(), "{text}");
        }
    }
}
