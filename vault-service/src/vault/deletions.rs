//! Notes about deleted data that somebody with the store's files and the root key can still decrypt.
//!
//! A batch that deletes a secret or a version adds a [`Deletion`]; a batch that destroys KEKs adds [`DestroyedKeys`]. The
//! notes are the work list of `erasure`, which describes how deleted data are erased.

use std::{collections::BTreeSet, time::SystemTime};

use prost_types::Timestamp;
use proto::Uid;

use super::{
    VaultError,
    stored::{self, Deletion, DestroyedKeys, Rotation},
    workspace::StoredWorkspace,
};
use crate::{
    crypto::{KeyId, store_key_id},
    store::{Batch, Entry, Store},
};

/// Adds to `batch` that it deletes data of a workspace, unless an earlier deletion is noted. The batch must hold only if the
/// workspace is unchanged: a rotation that takes the note over changes the workspace, so a note that exists now still exists
/// when the batch is committed.
pub(super) fn note(
    batch: Batch,
    store: &Store,
    workspace: &StoredWorkspace,
    now: SystemTime,
) -> Result<Batch, VaultError> {
    let key = stored::deletion(&workspace.uid);
    if store.read(&key)?.is_some() {
        return Ok(batch);
    }
    let deletion = Deletion {
        since: now.into(),
        workspace: workspace.name.to_string(),
    };
    Ok(batch.put(key, stored::encode(&deletion)))
}

/// Returns the time of the oldest noted deletion of a workspace.
pub(super) fn oldest(store: &Store, workspace: &Uid) -> Result<Option<Timestamp>, VaultError> {
    let bytes = store.read(&stored::deletion(workspace))?;
    Ok(bytes.and_then(|bytes| Some(stored::decode::<Deletion>(&bytes).ok()?.since)))
}

/// Makes the notes that the `wrapped` KEKs of a workspace are destroyed: one note for each store key that wraps any of them.
pub(super) fn destroyed_keys<'a>(
    store: &Store,
    workspace: &Uid,
    wrapped: impl Iterator<Item = &'a [u8]>,
    since: Timestamp,
) -> Result<Vec<Entry>, VaultError> {
    // A wrapped KEK without a valid id of its store key cannot be unwrapped.
    let ids: BTreeSet<_> = wrapped.filter_map(|kek| store_key_id(kek).ok()).collect();
    let entry = |id: KeyId| {
        let key = stored::destroyed(id, workspace);
        let noted = store.read(&key)?;
        let noted = noted.and_then(|bytes| Some(stored::decode::<DestroyedKeys>(&bytes).ok()?.since));
        let since = noted.map_or(since, |noted| earlier(noted, since));
        let value = stored::encode(&DestroyedKeys { since });
        Ok(Entry { key, value })
    };
    ids.into_iter().map(entry).collect()
}

/// Adds to the batch that deletes a workspace that its KEKs are destroyed.
pub(super) fn note_workspace(
    batch: Batch,
    store: &Store,
    workspace: &StoredWorkspace,
    now: SystemTime,
) -> Result<Batch, VaultError> {
    let uid = &workspace.uid;
    let rotation = store.read(&stored::workspace_rotation(uid))?;
    let rotation = rotation.and_then(|bytes| stored::decode::<Rotation>(&bytes).ok()?.deleted_since);
    let noted = oldest(store, uid)?.into_iter().chain(rotation);
    let since = noted.fold(now.into(), earlier);
    let entries = destroyed_keys(store, uid, workspace.wrapped_keks(), since)?;
    let batch = batch.delete(stored::deletion(uid));
    Ok(put_all(batch, entries))
}

/// Adds to the batch that ends a failed restore the note that the restored entries were deleted. The note has the uid of all
/// zeros, which no workspace has.
pub(super) fn note_restore(batch: Batch, store_key: KeyId) -> Batch {
    let since = SystemTime::now().into();
    batch.put(
        stored::destroyed(store_key, &Uid::from_bytes([0; 16])),
        stored::encode(&DestroyedKeys { since }),
    )
}

pub(super) fn put_all(batch: Batch, entries: Vec<Entry>) -> Batch {
    entries
        .into_iter()
        .fold(batch, |batch, Entry { key, value }| batch.put(key, value))
}

pub(super) fn earlier(one: Timestamp, other: Timestamp) -> Timestamp {
    match (one.seconds, one.nanos) <= (other.seconds, other.nanos) {
        true => one,
        false => other,
    }
}
