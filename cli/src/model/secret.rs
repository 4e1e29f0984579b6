//! A secret and its versions, as `--output json` prints them.

use std::collections::BTreeMap;

use proto::vault::v1::{Secret as ApiSecret, SecretVersion as ApiSecretVersion};
use serde::Serialize;

use crate::output::{second, time};

#[derive(Debug, Serialize)]
pub(crate) struct Secret {
    workspace: String,
    pub name: String,
    uid: String,
    revision: u64,
    pub create_time: String,
    pub update_time: String,
    pub version: u64,
    /// The servers to which the value may be sent; an empty list means any server.
    pub upstream_origins: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// `None` for a version that never expires.
    pub expires_at: Option<String>,
    pub expired: bool,
    /// The time when an injector last got the value.
    pub last_decrypt_time: Option<String>,
    pub last_decrypt_server: Option<String>,
    pub decrypt_count: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct SecretVersion {
    pub version: u64,
    pub create_time: String,
    /// The servers to which the value may be sent; an empty list means any server.
    pub upstream_origins: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// `None` for a version that never expires.
    pub expires_at: Option<String>,
    pub expired: bool,
}

impl Secret {
    pub(crate) fn of(secret: ApiSecret) -> Self {
        let ApiSecret {
            workspace,
            name,
            uid,
            revision,
            create_time,
            update_time,
            version,
            upstream_origins,
            labels,
            expires_at,
            expired,
            last_decrypt_time,
            last_decrypt_server,
            decrypt_count,
        } = secret;
        Self {
            workspace,
            name,
            uid,
            revision,
            create_time: time(create_time),
            update_time: time(update_time),
            version,
            upstream_origins,
            labels,
            expires_at: expires_at.map(|at| time(Some(at))),
            expired,
            last_decrypt_server: last_decrypt_time.is_some().then_some(last_decrypt_server),
            last_decrypt_time: last_decrypt_time.map(|at| time(Some(at))),
            decrypt_count,
        }
    }
}

impl SecretVersion {
    pub(crate) fn of(version: ApiSecretVersion) -> Self {
        let ApiSecretVersion {
            version,
            create_time,
            upstream_origins,
            labels,
            expires_at,
            expired,
        } = version;
        Self {
            version,
            create_time: time(create_time),
            upstream_origins,
            labels,
            expires_at: expires_at.map(|at| time(Some(at))),
            expired,
        }
    }

    /// Returns a row of a table: version, created, expires, labels, only to.
    pub(crate) fn row(&self) -> [String; 5] {
        let Self {
            version,
            create_time,
            upstream_origins,
            labels,
            expires_at,
            expired,
        } = self;
        let expires = expires(expires_at.as_deref(), *expired);
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        [
            version.to_string(),
            second(create_time),
            expires,
            labels.join(","),
            upstream_origins.join(", "),
        ]
    }
}

/// Returns the time when a value expires, or `expired`. Returns an empty text for a value that never expires.
pub(crate) fn expires(expires_at: Option<&str>, expired: bool) -> String {
    match expires_at {
        Some(_) if expired => "expired".to_owned(),
        Some(at) => at.to_owned(),
        None => String::new(),
    }
}
