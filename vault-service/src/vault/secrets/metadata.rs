//! The public description of a secret or of one of its versions.

use std::time::SystemTime;

use prost_types::Timestamp;
use proto::{SecretName, Uid, WorkspaceName};

use crate::{
    crypto::record::Expiry,
    vault::{
        VaultError,
        labels::Labels,
        stored::{self, StoredMetadata},
        use_counts::LastUse,
    },
};

/// Everything that may be shown of a secret, or of one of its versions; never the value.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretMetadata {
    pub workspace: WorkspaceName,
    pub name: SecretName,
    /// Distinguishes the secret from an earlier, deleted secret of the same name.
    pub uid: Uid,
    pub version: u64,
    /// Time of the first put of the secret.
    pub create_time: Timestamp,
    /// Time of the put or restore that made this version.
    pub update_time: Timestamp,
    /// Origins that the value may be sent to; empty means any origin.
    pub upstream_origins: Vec<String>,
    pub labels: Labels,
    pub expiry: Option<Expiry>,
    pub expired: bool,
    /// `None` when the secret was never decrypted, and in the answer to a write.
    pub last_use: Option<LastUse>,
}

impl SecretMetadata {
    pub(super) fn new(
        workspace: &WorkspaceName,
        name: &SecretName,
        record: StoredMetadata,
        now: SystemTime,
    ) -> Result<Self, VaultError> {
        let StoredMetadata {
            uid,
            version,
            create_time,
            update_time,
            upstream_origins,
            expires_at,
            labels,
            kept_from: _,
            last_version: _,
        } = record;
        let uid = stored::uid(&uid).ok_or(VaultError::Corrupt(None))?;
        let expiry = Expiry::from_seconds(expires_at);
        Ok(Self {
            workspace: workspace.clone(),
            name: name.clone(),
            uid,
            version,
            create_time,
            update_time,
            upstream_origins,
            labels: Labels::stored(labels),
            expiry,
            expired: expiry.is_some_and(|expiry| expiry.has_passed(now)),
            last_use: None,
        })
    }
}
