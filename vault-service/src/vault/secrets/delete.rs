//! Deleting a secret.

use std::time::SystemTime;

use proto::{SecretName, Uid, WorkspaceName};

use super::{
    current::{CurrentVersion, remove_versions},
    numbering,
    write_version::check_version,
};
use crate::{
    authz::WritePermit,
    store::{Batch, Store},
    vault::{
        VaultError, Writer, blocking, deletions,
        stored::{self, Kind},
        workspace,
    },
};

impl Writer {
    /// Deletes a secret with all its versions. The store keeps the last version number, so that no number is used again.
    pub async fn delete_secret(
        &self,
        permit: &WritePermit,
        name: &SecretName,
        expected_version: Option<u64>,
    ) -> Result<(), VaultError> {
        let _lock = self.lock_secret(permit.workspace(), name).await;
        let _paused = self.use_counters.pause_flush().await;
        self.retry_on_conflict(async || {
            let (store, now) = (self.store.clone(), (self.clock)());
            let (workspace, secret) = (permit.workspace().clone(), name.clone());
            let prepare = move || prepare_delete(&store, &workspace, &secret, expected_version, now);
            let (uid, batch) = blocking(prepare).await?;
            self.store.commit(batch).await?;
            self.use_counters.forget(&uid, name);
            Ok(())
        })
        .await
    }
}

/// Builds the batch that deletes a secret. Returns the uid of the secret's workspace with it.
fn prepare_delete(
    store: &Store,
    workspace: &WorkspaceName,
    name: &SecretName,
    expected_version: Option<u64>,
    now: SystemTime,
) -> Result<(Uid, Batch), VaultError> {
    let workspace = workspace::find(store, workspace)?;
    let current = CurrentVersion::find(store, &workspace, name)?;
    check_version(current.version(), expected_version)?;
    let uid = workspace.uid;
    let batch = deletions::note(workspace.expect_unchanged(Batch::new()), store, &workspace, now)?;
    let batch = current
        .expect_unchanged(batch, &workspace, name)
        .delete(Kind::Metadata.key(&uid, name))
        .delete(Kind::Record.key(&uid, name))
        .delete(Kind::Use.key(&uid, name))
        .add(stored::count(&uid), -1, None);
    let batch = remove_versions(batch, &workspace, name, current.older(u64::MAX));
    let batch = numbering::reserve(batch, store, &workspace, name, current.metadata.last_version())?;
    Ok((uid, batch))
}
