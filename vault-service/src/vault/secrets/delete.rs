//! Deleting a secret.

use std::time::SystemTime;

use proto::{SecretName, Uid, WorkspaceName};

use super::{current::SecretEntries, numbering, write_version::check_version};
use crate::{
    authz::WritePermit,
    store::{Batch, Store},
    vault::{
        VaultError, Writer,
        access::with_store,
        deletions,
        stored::{self, Kind},
        workspace,
    },
};

impl Writer {
    /// Deletes a secret with all its versions. The store keeps the last version number, so that no number is used again.
    pub(crate) async fn delete_secret(
        &self,
        permit: &WritePermit,
        name: &SecretName,
        expected_version: Option<u64>,
    ) -> Result<(), VaultError> {
        let _lock = self.lock_secret(permit.workspace(), name).await;
        let _paused = self.use_counters.pause_flush().await;
        self.retry_on_conflict(async || {
            let (workspace, secret, now) = (permit.workspace().clone(), name.clone(), (self.clock)());
            let prepare =
                move |store: &Store| prepare_delete(store, &workspace, &secret, expected_version, now);
            let (uid, batch) = with_store(&self.store, prepare).await?;
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
    let secret = SecretEntries::of(store, &workspace, name);
    let current = secret.existing()?;
    check_version(current.version(), expected_version)?;
    let uid = workspace.uid;
    let batch = deletions::note(workspace.expect_unchanged(Batch::new()), store, &workspace, now)?;
    let batch = current
        .expect_unchanged(batch, secret)
        .delete(secret.key(Kind::Metadata))
        .delete(secret.key(Kind::Record))
        .delete(secret.key(Kind::Use))
        .add(stored::count(&uid), -1, None);
    let batch = secret.remove_versions(batch, current.older(u64::MAX));
    let batch = numbering::reserve(batch, secret, current.metadata.last_version())?;
    Ok((uid, batch))
}
