//! The metadata of a secret in a document.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::{OriginPattern, SecretName, vault::v1 as api};
use serde::{Deserialize, Serialize};
use vault_service::vault::Labels;

use super::error::SecretError;

/// The metadata of a secret, as a document states them. Two values compare equal when they mean the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SecretMetadata {
    #[serde(serialize_with = "name_as_text")]
    pub(crate) name: SecretName,
    /// Ordered, because the order has no meaning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) upstream_origins: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Whole seconds, as the vault keeps them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<Timestamp>,
}

/// An entry of `secrets` before it is checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSecret {
    name: String,
    #[serde(default)]
    upstream_origins: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    expires_at: Option<String>,
}

impl RawSecret {
    pub(super) fn parse(self) -> Result<SecretMetadata, SecretError> {
        let Self {
            name,
            upstream_origins,
            labels,
            expires_at,
        } = self;
        let origins = (1..).zip(upstream_origins).map(|(number, origin)| {
            let parsed = OriginPattern::parse(&origin).map_err(|_| SecretError::Origin(number))?;
            Ok(parsed.as_str().to_owned())
        });
        // By the vault's rules, which also keep control characters away from the terminal.
        Labels::parse(labels.clone()).map_err(SecretError::labels)?;
        let expires_at = expires_at.map(|text| parse_time(&text).ok_or(SecretError::ExpiresAt));
        Ok(SecretMetadata {
            name: SecretName::parse(&name).map_err(SecretError::Name)?,
            upstream_origins: ordered(origins.collect::<Result<_, _>>()?),
            labels,
            expires_at: expires_at.transpose()?,
        })
    }
}

impl SecretMetadata {
    /// Returns the metadata of a secret that the vault answered with, or `None` for a name that is none.
    pub(super) fn of_wire(secret: api::Secret) -> Option<Self> {
        let api::Secret {
            workspace: _,
            name,
            uid: _,
            revision: _,
            create_time: _,
            update_time: _,
            version: _,
            upstream_origins,
            labels,
            expires_at,
            expired: _,
            last_decrypt_time: _,
            last_decrypt_server: _,
            decrypt_count: _,
        } = secret;
        Some(Self {
            name: SecretName::parse(&name).ok()?,
            upstream_origins: ordered(upstream_origins),
            labels,
            expires_at: match expires_at {
                Some(time) => Some(Timestamp::from_second(time.seconds).ok()?),
                None => None,
            },
        })
    }
}

/// Parses a time, and drops fractions of a second as the vault does.
fn parse_time(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    Timestamp::from_second(time.as_second()).ok()
}

fn ordered(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts.dedup();
    texts
}

fn name_as_text<S: serde::Serializer>(name: &SecretName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}
