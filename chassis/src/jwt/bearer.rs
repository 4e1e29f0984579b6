//! Bearer tokens in files (RFC 6750), such as the projected tokens of Kubernetes' service accounts.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use proto::Principal;
use zeroize::Zeroizing;

use super::{claims::Claims, jws::MAX_TOKEN};

/// A bearer token. It prints as `BearerToken(..)`.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(Zeroizing<String>);

/// The identity that a token claims. A client reads it from its own token, which nobody has verified there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedIdentity {
    /// The issuer and the subject.
    pub principal: Principal,
    /// The last moment at which the token is valid.
    pub not_after: SystemTime,
}

/// The file of a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file could not be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The file has no token that fits into a header.
    #[error("{path}: it does not hold one token of 1 byte to 16 KiB", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
}

impl BearerToken {
    /// Reads the token in a file. White space around the token does not count.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        use io::Read as _;
        let read = |source| TokenFileError::Read {
            path: path.to_owned(),
            source,
        };
        let form = || TokenFileError::Form {
            path: path.to_owned(),
        };
        let mut text = Zeroizing::new(String::new());
        let most = u64::try_from(MAX_TOKEN + 64).unwrap_or(u64::MAX);
        let mut file = std::fs::File::open(path).map_err(read)?.take(most);
        file.read_to_string(&mut text)
            .map_err(|source| match source.kind() {
                io::ErrorKind::InvalidData => form(),
                _ => read(source),
            })?;
        Self::parse(text.trim()).ok_or_else(form)
    }

    /// Accepts visible ASCII characters only, which a header can hold.
    pub fn parse(token: &str) -> Option<Self> {
        let is_token =
            (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| Self(Zeroizing::new(token.to_owned())))
    }

    /// Returns the value of the header `authorization`, marked as sensitive.
    pub fn header(&self) -> HeaderValue {
        let value = Zeroizing::new(format!("Bearer {}", *self.0));
        let mut value = HeaderValue::from_str(&value).expect("a token has only visible ASCII characters");
        value.set_sensitive(true);
        value
    }

    /// Returns the identity that the token claims, if it is a JSON Web Token.
    pub fn claimed_identity(&self) -> Option<ClaimedIdentity> {
        let payload = self.0.split('.').nth(1)?;
        let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        Some(ClaimedIdentity {
            principal: Principal::jwt(&claims.iss, &claims.sub)?,
            not_after: claims.not_after()?,
        })
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{super::test_keys::TestKey, *};

    #[test]
    fn a_token_is_one_word_that_fits_into_a_header_and_is_never_printed() {
        for wrong in [
            "",
            "two words",
            "line\nbreak",
            "caf\u{e9}",
            &"x".repeat(MAX_TOKEN + 1),
        ] {
            assert!(BearerToken::parse(wrong).is_none(), "{wrong:?}");
        }
        let token = BearerToken::parse("a.b.c").unwrap();
        assert_eq!(token.header(), "Bearer a.b.c");
        assert!(token.header().is_sensitive());
        assert_eq!(
            format!("{token:?} {:?}", token.header()),
            "BearerToken(..) Sensitive"
        );
    }

    #[test]
    fn a_client_reads_its_identity_and_expiry_from_its_own_token() {
        let claims = json!({"iss": "https://i.example", "sub": "s", "aud": [], "exp": 2_000_000_000});
        let token = BearerToken::parse(&TestKey::p256().token("a", &claims)).unwrap();
        let claimed = token.claimed_identity().unwrap();
        assert_eq!(claimed.principal.to_string(), "jwt:https://i.example#s");
        let exp = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        assert!(claimed.not_after < exp && claimed.not_after > exp - Duration::from_secs(1));
        assert_eq!(BearerToken::parse("opaque").unwrap().claimed_identity(), None);
    }
}
