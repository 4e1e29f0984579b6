//! Erasure: some time after data were deleted, nobody can decrypt them from the store's files any more, even if the files
//! still have the bytes of the deleted records.
//!
//! The vault erases data by destroying a key: the store key. It is only in the file `keys`, which the store replaces as a
//! whole (`store_keys`). A KEK of its workspace decrypts a deleted record, and the store keys that wrapped the KEK unwrap it.
//! For the store on sled this is necessary, because sled's log keeps deleted entries until it reuses their space, which may
//! never happen. The steps are:
//!
//! 1. Every batch that deletes a secret or a version notes the deletion ([`Deletion`]).
//! 2. When the deletion is old enough, the vault rotates the workspace's KEK, and the rotation takes the note over. At the end
//!    of the rotation the old KEKs are gone from the store, and a note names the store keys that still unwrap copies of the
//!    KEKs in the store's files ([`DestroyedKeys`]). The deletion of a workspace makes this note at once.
//! 3. The vault replaces the store key. When the store key that a note names is gone from the file `keys`, the note is
//!    removed.
//!
//! A note is removed only by a batch that notes the remaining work, or after all work was done, so a crash loses none. A
//! deletion that happens meanwhile makes a new note and takes the same way.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use proto::WorkspaceName;

use super::{
    VaultError, Writer,
    access::{PagedScan, with_store},
    deletions::earlier,
    key_metrics::{KeyMetrics, PendingErasure},
    stored::{self, Deletion, DestroyedKeys, Rotation},
};
use crate::store::{Batch, Entry, Store};

/// Pause before the next check of rotations and erasures when no work was left, or only entries that cannot be moved.
/// Rotations that a full disk stopped continue earlier, as soon as the disk has room.
pub(super) const RETRY: Duration = Duration::from_secs(300);
const SHORTEST: Duration = Duration::from_secs(1);
const PAGE: usize = 1000;

pub(super) enum NextErasure {
    Begun,
    /// The next erasure is not due before this time has passed.
    In(Duration),
}

fn visit_entries(
    store: &Store,
    prefix: &[u8],
    mut visit: impl FnMut(&Entry) -> Result<(), VaultError>,
) -> Result<(), VaultError> {
    let mut scan = PagedScan::new(prefix, PAGE);
    loop {
        let page = scan.next(store)?;
        if page.is_empty() {
            return Ok(());
        }
        page.iter().try_for_each(&mut visit)?;
    }
}

/// The notes of a store, by the step that they wait for.
#[derive(Default)]
struct ErasureBacklog {
    /// Time of the oldest deletion that waits for a rotation of its workspace's KEK.
    deletions: Option<Timestamp>,
    /// Time of the oldest deletion that waits for the store key to be replaced.
    destroyed: Option<Timestamp>,
    pending: PendingErasure,
}

impl ErasureBacklog {
    fn read(store: &Store) -> Result<Self, VaultError> {
        let mut waiting = Self::default();
        let mut workspaces = BTreeSet::new();
        let mut all = None;
        let first = |first: &mut Option<Timestamp>, since| {
            *first = Some(first.map_or(since, |before| earlier(before, since)));
        };
        // A damaged note counts as very old, so that its erasure is due at once and the damage gets a log line.
        visit_entries(store, stored::DELETIONS, |entry| {
            let since = stored::decode::<Deletion>(&entry.value).unwrap_or_default().since;
            workspaces.extend(entry.key.get(stored::DELETIONS.len()..).and_then(stored::uid));
            first(&mut waiting.deletions, since);
            first(&mut all, since);
            Ok(())
        })?;
        visit_entries(store, stored::ROTATIONS, |entry| {
            if let Some(since) = stored::decode::<Rotation>(&entry.value)?.deleted_since {
                workspaces.extend(stored::uid_of_rotation(&entry.key));
                first(&mut all, since);
            }
            Ok(())
        })?;
        visit_entries(store, stored::DESTROYED, |entry| {
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

pub(super) fn pending(store: &Store) -> Result<PendingErasure, VaultError> {
    Ok(ErasureBacklog::read(store)?.pending)
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
    /// Begins the rotation that the oldest deletion waits for, if it is due.
    pub(super) async fn begin_erasure(
        &self,
        after: Duration,
        metrics: &KeyMetrics,
    ) -> Result<NextErasure, VaultError> {
        self.remove_finished_notes().await?;
        let waiting = with_store(&self.store, ErasureBacklog::read).await?;
        metrics.set_pending(&waiting.pending);
        let now = (self.clock)();
        let due = |since: Option<Timestamp>| since.filter(|since| left(*since, after, now).is_none());
        let (deletions, destroyed) = (due(waiting.deletions), due(waiting.destroyed));
        let deletions_first = match (deletions, destroyed) {
            (Some(deletions), Some(destroyed)) => earlier(deletions, destroyed) == deletions,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let begun = deletions_first && self.rotate_noted_workspaces().await?
            || destroyed.is_some() && self.replace_store_key().await?
            || deletions.is_some() && !deletions_first && self.rotate_noted_workspaces().await?;
        if begun {
            return Ok(NextErasure::Begun);
        }
        // A due step that was not begun waits for other work, so the next check need not come at once.
        let soon = [waiting.deletions, waiting.destroyed].into_iter().flatten();
        let soon = soon.filter_map(|since| left(since, after, now));
        let next = soon.chain([after, RETRY]).min().unwrap_or(RETRY);
        Ok(NextErasure::In(next.max(SHORTEST)))
    }

    /// Begins a rotation of the KEK of every workspace with a noted deletion. Returns true when any rotation was begun.
    async fn rotate_noted_workspaces(&self) -> Result<bool, VaultError> {
        let mut begun = false;
        let mut scan = PagedScan::new(stored::DELETIONS, PAGE);
        loop {
            let page = scan.next_async(&self.store).await?;
            if page.is_empty() {
                return Ok(begun);
            }
            for Entry { key, value } in &page {
                let deletion: Deletion = stored::decode(value).unwrap_or_default();
                match self.rotate_noted(key, &deletion).await {
                    Ok(one) => begun |= one,
                    Err(error @ (VaultError::Corrupt(_) | VaultError::KeyNotLoaded)) => {
                        let uid = key.get(stored::DELETIONS.len()..).and_then(stored::uid);
                        let workspace = deletion.workspace;
                        tracing::error!(%error, ?uid, workspace, "the deleted data of a damaged workspace are not erased");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn rotate_noted(&self, key: &[u8], deletion: &Deletion) -> Result<bool, VaultError> {
        let name = WorkspaceName::parse(&deletion.workspace).map_err(|_| VaultError::Corrupt(None))?;
        match self.begin_rotation(&name).await {
            Ok(_id) => Ok(true),
            // The rotation under way took the note over if it began after the deletion; otherwise the next rotation does.
            Err(VaultError::RotationUnderWay) => Ok(false),
            // The deletion of a workspace removes its note, so a note without a workspace refers to no data.
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
    async fn remove_finished_notes(&self) -> Result<(), VaultError> {
        let keys = self.keyring.loaded()?.store_keys;
        let (mut scan, mut count) = (PagedScan::new(stored::DESTROYED, PAGE), 0);
        loop {
            let page = scan.next_async(&self.store).await?;
            if page.is_empty() {
                break;
            }
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
                "deleted data are erased: the store keys that could open them are destroyed"
            );
        }
        Ok(())
    }
}
