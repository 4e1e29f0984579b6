//! Erasure: some time after something was deleted, nobody can decrypt it from the store's files any more.
//!
//! sled's log keeps deleted entries until it reuses their space, which may never happen. So the vault erases data by
//! destroying a key: the store key, which is never in the log (`store_keys`). A KEK of its workspace decrypts a deleted
//! record, and the store keys that wrapped the KEK unwrap it. The steps are:
//!
//! 1. Every batch that deletes a secret, or a version, notes that ([`Deletion`]).
//! 2. When the time has come, the workspace's KEK is rotated, which takes the note over. At its end the KEKs from before are
//!    gone from the store, and the store keys under which the log keeps them are noted ([`DestroyedKeys`]). With a deleted
//!    workspace this is noted at once.
//! 3. The store key is replaced. When the one that is noted is gone from the file `keys`, the note is removed.
//!
//! A note is removed only by a batch that notes what is left to do, or after all was done: a crash loses none. What is
//! deleted meanwhile is noted anew, and takes the same way once more.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use proto::{Uid, WorkspaceName};

use super::{
    VaultError, Writer, blocking,
    rotation::{Progress, RETRY},
    stored::{self, Deletion, DestroyedKeys, Rotation, WorkspaceRecord},
    workspaces::Found,
};
use crate::{
    crypto::{KeyId, store_key_id},
    store::{Batch, Entry, Store},
};

/// Notes read at once.
const PAGE: usize = 1000;
/// Minimum pause before the next check for due erasures.
const SHORTEST: Duration = Duration::from_secs(1);

/// The deletions that are not erased yet: the store's files still give their values to the holder of the root key.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PendingErasure {
    /// Workspaces with such deletions, deleted workspaces included.
    pub workspaces: u64,
    /// Time of the oldest of them.
    pub since: Option<Timestamp>,
}

/// The result of a look at the notes.
pub(super) enum NextStep {
    /// A rotation was begun.
    Begun,
    /// Nothing to do until so much time has passed.
    In(Duration),
}

/// Notes that `batch` deletes something of a workspace. The batch must hold only if the workspace is unchanged: the rotation
/// that takes a note over changes it, so a note that is there now still is when the batch holds.
pub(super) fn note(batch: Batch, store: &Store, found: &Found, now: SystemTime) -> Result<Batch, VaultError> {
    let key = stored::deletion(&found.uid);
    if store.read(&key)?.is_some() {
        return Ok(batch);
    }
    let deletion = Deletion {
        since: now.into(),
        workspace: found.name.to_string(),
    };
    Ok(batch.put(key, stored::encode(&deletion)))
}

/// Time of the oldest noted deletion of a workspace.
pub(super) fn noted(store: &Store, workspace: &Uid) -> Result<Option<Timestamp>, VaultError> {
    let bytes = store.read(&stored::deletion(workspace))?;
    Ok(bytes.and_then(|bytes| Some(stored::decode::<Deletion>(&bytes).ok()?.since)))
}

/// Entries which note that these wrapped KEKs of a workspace are destroyed: one for each store key that wraps any.
pub(super) fn destroyed<'a>(
    store: &Store,
    workspace: &Uid,
    wrapped: impl Iterator<Item = &'a [u8]>,
    since: Timestamp,
) -> Result<Vec<Entry>, VaultError> {
    // A wrap that does not name its store key cannot be unwrapped.
    let ids: BTreeSet<_> = wrapped.filter_map(|kek| store_key_id(kek).ok()).collect();
    let entry = |id: KeyId| {
        let key = stored::destroyed(id, workspace);
        let before = store.read(&key)?;
        let before = before.and_then(|bytes| Some(stored::decode::<DestroyedKeys>(&bytes).ok()?.since));
        let since = before.map_or(since, |before| earlier(before, since));
        let value = stored::encode(&DestroyedKeys { since });
        Ok(Entry { key, value })
    };
    ids.into_iter().map(entry).collect()
}

/// Adds to the batch that deletes a workspace that its keys are destroyed.
pub(super) fn note_workspace(
    batch: Batch,
    store: &Store,
    found: &Found,
    now: SystemTime,
) -> Result<Batch, VaultError> {
    let rotation = store.read(&stored::workspace_rotation(&found.uid))?;
    let rotation = rotation.and_then(|bytes| stored::decode::<Rotation>(&bytes).ok()?.deleted_since);
    let before = noted(store, &found.uid)?.into_iter().chain(rotation);
    let since = before.fold(now.into(), earlier);
    let entries = destroyed(store, &found.uid, wrapped_keks(&found.record), since)?;
    let batch = batch.delete(stored::deletion(&found.uid));
    Ok(put_all(batch, entries))
}

/// Adds to the batch that gives up a restore that what came in is deleted. It stands under a uid that no workspace has.
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

fn wrapped_keks(record: &WorkspaceRecord) -> impl Iterator<Item = &[u8]> {
    let retired = record.retired_keks.iter().map(|kek| kek.wrapped_kek.as_slice());
    std::iter::once(record.wrapped_kek.as_slice()).chain(retired)
}

fn earlier(one: Timestamp, other: Timestamp) -> Timestamp {
    match (one.seconds, one.nanos) <= (other.seconds, other.nanos) {
        true => one,
        false => other,
    }
}

/// Calls `each` with every entry under `prefix`.
fn each(
    store: &Store,
    prefix: &[u8],
    mut each: impl FnMut(&Entry) -> Result<(), VaultError>,
) -> Result<(), VaultError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan(prefix, after.as_deref(), PAGE)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.key.clone());
        page.iter().try_for_each(&mut each)?;
    }
}

/// The notes of a store, by the step that they wait for.
#[derive(Default)]
struct Backlog {
    /// Time of the oldest deletion that waits for a rotation of its workspace's KEK.
    deletions: Option<Timestamp>,
    /// Time of the oldest deletion that waits for the store key to be replaced.
    destroyed: Option<Timestamp>,
    pending: PendingErasure,
}

impl Backlog {
    fn read(store: &Store) -> Result<Self, VaultError> {
        let mut waiting = Self::default();
        let mut workspaces = BTreeSet::new();
        let mut all = None;
        let first = |first: &mut Option<Timestamp>, since| {
            *first = Some(first.map_or(since, |before| earlier(before, since)));
        };
        // A damaged note counts as one from long ago: it is looked at at once, and named.
        each(store, stored::DELETIONS, |entry| {
            let since = stored::decode::<Deletion>(&entry.value).unwrap_or_default().since;
            workspaces.extend(entry.key.get(stored::DELETIONS.len()..).and_then(stored::uid));
            first(&mut waiting.deletions, since);
            first(&mut all, since);
            Ok(())
        })?;
        each(store, stored::ROTATIONS, |entry| {
            if let Some(since) = stored::decode::<Rotation>(&entry.value)?.deleted_since {
                workspaces.extend(stored::uid_of_rotation(&entry.key));
                first(&mut all, since);
            }
            Ok(())
        })?;
        each(store, stored::DESTROYED, |entry| {
            let since = stored::decode::<DestroyedKeys>(&entry.value)
                .unwrap_or_default()
                .since;
            workspaces.extend(stored::place_of_destroyed(&entry.key).map(|(_, uid)| uid));
            first(&mut waiting.destroyed, since);
            first(&mut all, since);
            Ok(())
        })?;
        waiting.pending = PendingErasure {
            workspaces: workspaces.len() as u64,
            since: all,
        };
        Ok(waiting)
    }
}

/// The deletions of `store` that are not erased yet.
pub(super) fn pending(store: &Store) -> Result<PendingErasure, VaultError> {
    Ok(Backlog::read(store)?.pending)
}

/// Returns the time until `since` is `after` ago; `None` when that time is over. A `since` in the future counts as
/// over, because the clock was set back.
fn left(since: Timestamp, after: Duration, now: SystemTime) -> Option<Duration> {
    let age = SystemTime::try_from(since)
        .ok()
        .and_then(|since| now.duration_since(since).ok())?;
    after.checked_sub(age).filter(|left| !left.is_zero())
}

impl Writer {
    /// Begins the step that the oldest deletion waits for, if the step is due.
    pub(super) async fn erase(&self, after: Duration, progress: &Progress) -> Result<NextStep, VaultError> {
        self.remove_finished().await?;
        let store = self.store.clone();
        let waiting = blocking(move || Backlog::read(&store)).await?;
        progress.pending(&waiting.pending);
        let now = (self.clock)();
        let due = |since: Option<Timestamp>| since.filter(|since| left(*since, after, now).is_none());
        let (deletions, destroyed) = (due(waiting.deletions), due(waiting.destroyed));
        let deletions_first = match (deletions, destroyed) {
            (Some(deletions), Some(destroyed)) => earlier(deletions, destroyed) == deletions,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let begun = deletions_first && self.begin_noted().await?
            || destroyed.is_some() && self.replace_store_key().await?
            || deletions.is_some() && !deletions_first && self.begin_noted().await?;
        if begun {
            return Ok(NextStep::Begun);
        }
        // A due step that was not begun waits for other work, so the next check need not come at once.
        let soon = [waiting.deletions, waiting.destroyed].into_iter().flatten();
        let soon = soon.filter_map(|since| left(since, after, now));
        let next = soon.chain([after, RETRY]).min().unwrap_or(RETRY);
        Ok(NextStep::In(next.max(SHORTEST)))
    }

    /// Begins a rotation of the KEK of every workspace with a noted deletion. Returns true when any rotation was begun.
    async fn begin_noted(&self) -> Result<bool, VaultError> {
        let mut begun = false;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let (store, from) = (self.store.clone(), after.take());
            let page = blocking(move || store.scan(stored::DELETIONS, from.as_deref(), PAGE)).await?;
            let Some(last) = page.last() else {
                return Ok(begun);
            };
            after = Some(last.key.clone());
            for Entry { key, value } in &page {
                let deletion: Deletion = stored::decode(value).unwrap_or_default();
                match self.begin_one(key, &deletion).await {
                    Ok(one) => begun |= one,
                    Err(error @ (VaultError::Corrupt(_) | VaultError::KeyNotLoaded)) => {
                        let (uid, workspace) = (
                            key.get(stored::DELETIONS.len()..).and_then(stored::uid),
                            deletion.workspace,
                        );
                        tracing::error!(%error, ?uid, workspace, "what was deleted in a damaged workspace is not erased");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn begin_one(&self, key: &[u8], deletion: &Deletion) -> Result<bool, VaultError> {
        let name = WorkspaceName::parse(&deletion.workspace).map_err(|_| VaultError::Corrupt(None))?;
        match self.begin_rotation(&name).await {
            Ok(_id) => Ok(true),
            // The rotation under way took the note over if it began after the deletion; else the next one does.
            Err(VaultError::RotationUnderWay) => Ok(false),
            // Deleting a workspace removes its note. A note without a workspace refers to no data, and is removed.
            Err(VaultError::NoWorkspace(_)) => {
                let orphaned = Batch::new()
                    .expect_value(key, stored::encode(deletion))
                    .delete(key);
                self.store.commit(orphaned).await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the notes of destroyed keys whose store key is gone.
    async fn remove_finished(&self) -> Result<(), VaultError> {
        let keys = self.keyring.loaded()?.store_keys;
        let mut after: Option<Vec<u8>> = None;
        let mut count = 0;
        loop {
            let (store, from) = (self.store.clone(), after.take());
            let page = blocking(move || store.scan(stored::DESTROYED, from.as_deref(), PAGE)).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let gone = page.into_iter().filter(|entry| {
                let id = stored::place_of_destroyed(&entry.key).map(|(id, _)| id);
                keys.iter().all(|key| Some(key.id()) != id)
            });
            let gone: Vec<_> = gone.map(|entry| entry.key).collect();
            if !gone.is_empty() {
                count += gone.len();
                let batch = gone.into_iter().fold(Batch::new(), Batch::delete);
                self.store.commit(batch).await?;
            }
        }
        if count > 0 {
            tracing::info!(
                count,
                "what was deleted is erased: the keys that it needs are destroyed"
            );
        }
        Ok(())
    }
}
