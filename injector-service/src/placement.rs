//! Where in a request a secret's value goes.

use std::fmt;

use http::HeaderName;
use proto::SecretName;

/// The prefix of the headers that carry secrets.
pub const SECRET_HEADER: &str = "x-mcp-secret-";

/// Where a server's secrets go, as its administrator chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// Each in a header of its own.
    SecretHeaders,
    /// The only one as a bearer token.
    Bearer,
    /// All in the JSON body.
    Skill,
}

/// Where one value goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// As the value of this header.
    Header(HeaderName),
    /// As `Authorization: Bearer {value}`.
    Bearer,
    /// As an entry of the JSON body's member `secrets`.
    BodyMember,
}

impl AuthType {
    /// Where a secret of this name goes.
    pub fn place(self, secret: &SecretName) -> Placement {
        match self {
            Self::SecretHeaders => Placement::Header(secret_header(secret)),
            Self::Bearer => Placement::Bearer,
            Self::Skill => Placement::BodyMember,
        }
    }
}

/// `GITHUB_TOKEN` as `x-mcp-secret-github-token`: names of headers go out in lower case, as HTTP/2 demands.
fn secret_header(secret: &SecretName) -> HeaderName {
    let name = format!(
        "{SECRET_HEADER}{}",
        secret.as_str().replace('_', "-").to_ascii_lowercase()
    );
    HeaderName::from_lowercase(name.as_bytes())
        .expect("a secret's name has only letters, digits and `_`, which are legal in a header's name")
}

/// What ExplainInjection says.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Bearer => f.write_str("header authorization: Bearer"),
            Self::BodyMember => f.write_str("body member secrets"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_one_header() {
        for (name, header) in [
            ("GITHUB_TOKEN", "x-mcp-secret-github-token"),
            ("_A__9_", "x-mcp-secret--a--9-"),
        ] {
            let placement = AuthType::SecretHeaders.place(&SecretName::parse(name).unwrap());
            assert_eq!(placement, Placement::Header(HeaderName::from_static(header)));
        }
    }
}
