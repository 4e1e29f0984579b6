//! The hold on the store during a restore, which fails all other writes, and its recovery after a crash.

use crate::{
    store::{Batch, CommitError, EXCLUSIVE_WRITER, Store},
    vault::{
        VaultError,
        access::with_store,
        deletions, meta,
        stored::{DELETIONS, DESTROYED, META, STORE_KEY_ROTATION, WORKSPACES},
    },
};

/// Value at [`EXCLUSIVE_WRITER`] while the restore checks that the store is empty.
const CHECKING: &[u8] = b"looking";
/// Value at [`EXCLUSIVE_WRITER`] while the restore writes. All entries except those of [`is_of_one_store`] are then from the backup, or
/// left over from deleted workspaces.
pub(in crate::vault) const RESTORING: &[u8] = b"filling";

const PAGE: usize = 1000;

/// Releases the hold of a restore that a crash interrupted: the store becomes what it was before the restore, or empty.
pub(in crate::vault) async fn recover(store: &Store) -> Result<(), VaultError> {
    let hold = with_store(store, |store| store.read(EXCLUSIVE_WRITER)).await?;
    match hold.as_deref() {
        None => Ok(()),
        Some(CHECKING) => Ok(store.commit(release(CHECKING)).await?),
        Some(_) => {
            tracing::warn!("the restore of a backup was interrupted: the store is emptied; restore again");
            empty(store).await
        }
    }
}

/// Holds the store, which must have no workspaces. From then on the restore may remove all entries.
pub(super) async fn hold(store: &Store) -> Result<(), VaultError> {
    let held = store
        .commit(
            Batch::new()
                .expect_absent(EXCLUSIVE_WRITER)
                .put(EXCLUSIVE_WRITER, CHECKING),
        )
        .await;
    match held {
        Ok(()) => {}
        // An earlier restore failed and could not release its hold. This restore takes the hold over.
        Err(CommitError::Conflict) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    if let Err(refused) = with_store(store, refuse_workspaces).await {
        store.commit(release(CHECKING)).await?;
        return Err(refused);
    }
    let restoring = Batch::new()
        .expect_value(EXCLUSIVE_WRITER, CHECKING)
        .put(EXCLUSIVE_WRITER, RESTORING);
    Ok(store.commit(restoring).await?)
}

fn release(hold: &[u8]) -> Batch {
    Batch::new()
        .expect_value(EXCLUSIVE_WRITER, hold)
        .delete(EXCLUSIVE_WRITER)
}

/// Refuses a vault with workspaces, unless an interrupted restore wrote them.
pub(super) fn refuse_workspaces(store: &Store) -> Result<(), VaultError> {
    let is_interrupted = store
        .read(EXCLUSIVE_WRITER)?
        .is_some_and(|hold| hold == RESTORING);
    if is_interrupted || store.scan(WORKSPACES, None, 1)?.is_empty() {
        Ok(())
    } else {
        Err(VaultError::NotEmpty)
    }
}

/// Clears the store and releases the hold. The restored entries are erased like deleted ones.
pub(super) async fn empty(store: &Store) -> Result<(), VaultError> {
    clear(store).await?;
    let (_, meta) = with_store(store, meta::read).await?;
    let batch = match meta::active_store_key(&meta) {
        Ok(active) => deletions::note_restore(release(RESTORING), active),
        // Without an active store key nothing was ever wrapped, so nothing needs to be erased.
        Err(_) => release(RESTORING),
    };
    Ok(store.commit(batch).await?)
}

/// Removes all entries except those of [`is_of_one_store`].
pub(super) async fn clear(store: &Store) -> Result<(), VaultError> {
    loop {
        let page = with_store(store, |store| store.scan(&[], None, PAGE)).await?;
        let keys: Vec<_> = page
            .into_iter()
            .map(|entry| entry.key)
            .filter(|key| !is_of_one_store(key))
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let held = Batch::new().expect_value(EXCLUSIVE_WRITER, RESTORING);
        store.commit(keys.into_iter().fold(held, Batch::delete)).await?;
    }
}

/// Returns true for an entry that describes one store. A restore keeps the entry of its store, and skips that of the backup.
pub(super) fn is_of_one_store(key: &[u8]) -> bool {
    [META, EXCLUSIVE_WRITER, STORE_KEY_ROTATION].contains(&key)
        || [DELETIONS, DESTROYED]
            .iter()
            .any(|prefix| key.starts_with(prefix))
}
