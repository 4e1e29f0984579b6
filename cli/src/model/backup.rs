//! A restored backup, as `--output json` prints it.

use proto::vault::v1::RestoreBackupResponse;
use serde::Serialize;

use crate::output::time;

#[derive(Debug, Serialize)]
pub(crate) struct RestoredBackup {
    pub vault_uid: String,
    pub replaced_vault_uid: String,
    pub backup_time: String,
    pub workspaces: u64,
    pub secrets: u64,
    pub versions: u64,
    /// Names of deleted secrets, whose version numbers are not used again.
    pub deleted_secrets: u64,
}

impl RestoredBackup {
    pub(crate) fn of(restored: RestoreBackupResponse) -> Self {
        let RestoreBackupResponse {
            vault_uid,
            replaced_vault_uid,
            backup_time,
            workspaces,
            secrets,
            versions,
            deleted_secrets,
        } = restored;
        Self {
            vault_uid,
            replaced_vault_uid,
            backup_time: time(backup_time),
            workspaces,
            secrets,
            versions,
            deleted_secrets,
        }
    }
}
