//! The store held by who restores, and what becomes of that after a crash.

use crate::{
    store::{Batch, CommitError, EXCLUSIVE_WRITER, Store},
    vault::{
        VaultError, blocking, erasure, roots, store_keys,
        stored::{DELETIONS, DESTROYED, META, STORE_KEY_ROTATION, WORKSPACES},
    },
};

/// What stands at [`EXCLUSIVE_WRITER`]: the store is held, to see whether it is empty.
const LOOKING: &[u8] = b"looking";
/// The store is held, and whatever is in it came from a backup, or was left by what was deleted.
pub(in crate::vault) const FILLING: &[u8] = b"filling";

/// Entries that are removed at once.
const PAGE: usize = 1000;

/// After a crash: a store that was held is what it was before, or empty.
pub(in crate::vault) async fn recover(store: &Store) -> Result<(), VaultError> {
    let reading = store.clone();
    let held = blocking(move || reading.read(EXCLUSIVE_WRITER)).await?;
    match held.as_deref() {
        None => Ok(()),
        Some(LOOKING) => Ok(store.commit(released(LOOKING)).await?),
        Some(_) => {
            tracing::warn!(
                "a backup was restored by half when the vault stopped: it is emptied; restore again"
            );
            empty(store).await
        }
    }
}

/// Nobody else writes from here on; what is in the store may be removed.
pub(super) async fn hold(store: &Store) -> Result<(), VaultError> {
    let held = store
        .commit(
            Batch::new()
                .expect_absent(EXCLUSIVE_WRITER)
                .put(EXCLUSIVE_WRITER, LOOKING),
        )
        .await;
    match held {
        Ok(()) => {}
        // By one of ours that failed, and could not clean up.
        Err(CommitError::Conflict) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let reading = store.clone();
    if let Err(refused) = blocking(move || refuse_filled(&reading)).await {
        store.commit(released(LOOKING)).await?;
        return Err(refused);
    }
    let fill = Batch::new()
        .expect_value(EXCLUSIVE_WRITER, LOOKING)
        .put(EXCLUSIVE_WRITER, FILLING);
    Ok(store.commit(fill).await?)
}

fn released(held: &[u8]) -> Batch {
    Batch::new()
        .expect_value(EXCLUSIVE_WRITER, held)
        .delete(EXCLUSIVE_WRITER)
}

/// A vault with workspaces is not restored over, unless they are there by half.
pub(super) fn refuse_filled(store: &Store) -> Result<(), VaultError> {
    let by_half = store.read(EXCLUSIVE_WRITER)?.is_some_and(|held| held == FILLING);
    if by_half || store.scan(WORKSPACES, None, 1)?.is_empty() {
        Ok(())
    } else {
        Err(VaultError::NotEmpty)
    }
}

/// Clears the store and releases the hold. The restored entries are erased like deleted ones.
pub(super) async fn empty(store: &Store) -> Result<(), VaultError> {
    clear(store).await?;
    let reading = store.clone();
    let (_, meta) = blocking(move || roots::read_meta(&reading)).await?;
    let batch = match store_keys::active(&meta) {
        Ok(active) => erasure::note_restore(released(FILLING), active),
        // Without an active store key nothing was ever wrapped, so nothing needs to be erased.
        Err(_) => released(FILLING),
    };
    Ok(store.commit(batch).await?)
}

/// Removes all entries except the vault's description and its keys.
pub(super) async fn clear(store: &Store) -> Result<(), VaultError> {
    loop {
        let reading = store.clone();
        let page = blocking(move || reading.scan(&[], None, PAGE)).await?;
        let keys: Vec<_> = page
            .into_iter()
            .map(|entry| entry.key)
            .filter(|key| !is_of_one_store(key))
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let hold = Batch::new().expect_value(EXCLUSIVE_WRITER, FILLING);
        store.commit(keys.into_iter().fold(hold, Batch::delete)).await?;
    }
}

/// Whether the entry says something of one store, and is not taken over from a backup as it is.
pub(super) fn is_of_one_store(key: &[u8]) -> bool {
    [META, EXCLUSIVE_WRITER, STORE_KEY_ROTATION].contains(&key)
        || [DELETIONS, DESTROYED]
            .iter()
            .any(|prefix| key.starts_with(prefix))
}
