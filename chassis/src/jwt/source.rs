//! The ways to an issuer's key set: a file, a URL, or OpenID Connect discovery.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use http::Uri;
use serde::Deserialize;

use super::{
    bearer::{BearerToken, TokenFileError},
    fetch::{FetchError, fetch},
    key_set::{KeySet, KeySetError, MAX_KEY_SET},
    setting::{IssuerSetting, KeySource, safe_url},
};
use crate::blocking::blocking;

/// An issuer's key set could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("{0}")]
    File(String, #[source] io::Error),
    #[error("{0}")]
    Fetch(Uri, #[source] FetchError),
    #[error("the token for reading the key set")]
    Token(#[source] TokenFileError),
    #[error("the key set is not usable")]
    KeySet(#[source] KeySetError),
    #[error("{0}: it is not a discovery document")]
    Document(Uri),
    #[error("{0}: it is the document of another issuer")]
    OtherIssuer(Uri),
    #[error("{0}: its jwks_uri is neither https:// nor http:// on a loopback address")]
    JwksUri(Uri),
}

/// The members of a discovery document that matter (OpenID Connect Discovery 1.0, section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl IssuerSetting {
    /// Reads the key set.
    pub(super) async fn load(&self) -> Result<KeySet, SourceError> {
        let text = match &self.keys {
            KeySource::File(path) => read_file(path).await?,
            KeySource::Url(url) => self.get(url).await?,
            KeySource::Discovery(document) => self.get(&self.discover(document).await?).await?,
        };
        KeySet::parse(&text).map_err(SourceError::KeySet)
    }

    /// Interval between two reads of the key set, when nothing asks for an earlier one.
    pub(super) fn refresh_interval(&self) -> Duration {
        match self.keys {
            KeySource::File(_) => Duration::from_secs(1),
            KeySource::Url(_) | KeySource::Discovery(_) => Duration::from_secs(300),
        }
    }

    /// Shortest time between two reads that tokens with unknown keys, or failures, cause.
    pub(super) fn retry_interval(&self) -> Duration {
        match self.keys {
            KeySource::File(_) => Duration::from_secs(1),
            KeySource::Url(_) | KeySource::Discovery(_) => Duration::from_secs(10),
        }
    }

    async fn discover(&self, document: &Uri) -> Result<Uri, SourceError> {
        let text = self.get(document).await?;
        let Discovery { issuer, jwks_uri } =
            serde_json::from_slice(&text).map_err(|_| SourceError::Document(document.clone()))?;
        if issuer != self.url {
            return Err(SourceError::OtherIssuer(document.clone()));
        }
        safe_url(&jwks_uri).ok_or_else(|| SourceError::JwksUri(document.clone()))
    }

    async fn get(&self, url: &Uri) -> Result<Bytes, SourceError> {
        let token = match self.token.clone() {
            Some(path) => Some(
                blocking(move || BearerToken::read(&path))
                    .await
                    .map_err(SourceError::Token)?,
            ),
            None => None,
        };
        fetch(url, self.ca.as_deref(), token.as_ref())
            .await
            .map_err(|error| SourceError::Fetch(url.clone(), error))
    }
}

/// Reads a file, and one byte more than a key set may have, so that a longer file is noticed.
async fn read_file(path: &Path) -> Result<Bytes, SourceError> {
    use io::Read as _;
    let owned = path.to_owned();
    let read = blocking(move || {
        let mut text = Vec::new();
        let most = u64::try_from(MAX_KEY_SET + 1).unwrap_or(u64::MAX);
        std::fs::File::open(owned)?.take(most).read_to_end(&mut text)?;
        Ok(Bytes::from(text))
    });
    read.await
        .map_err(|error| SourceError::File(path.display().to_string(), error))
}
