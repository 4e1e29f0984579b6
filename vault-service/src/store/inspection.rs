//! Inspection of a store before sled opens it, because opening changes the store.
//!
//! sled truncates a torn log, clears what it considers garbage, and replaces its snapshot, all before its open returns. So
//! the vault opens a store in place only after it has ruled out every reason to refuse the store:
//!
//! - A directory with a file that belongs neither to the store nor to its marker is refused (`inventory`).
//! - A store that was closed, and whose files still have the lengths and checksums of its marker, is unchanged, and is
//!   opened. The marker must also belong to this `db`: sled does not compress, so the checkpoint of the last group must
//!   be in `db` byte for byte.
//! - Any other store is opened on a copy first, and all its entries are read and counted. The store itself is opened only
//!   if the copy agrees with the marker.
//!
//! On a disk without room for the copy, a store that was merely not closed is opened without one. Otherwise a healthy
//! store could not be opened just when its disk is full.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    checkpoint::{CHECKPOINT_KEY, Checkpoint, StoreId},
    disk_space,
    entry_count::count_entries,
    error::{Mismatch, StoreOpenError},
    file_sum::{FileSum, nonzero_bytes},
    fs::{has_room, length, name_of},
    inventory::{DAMAGED, Snapshots, sum_of, take_inventory},
    key_file::KEYS,
    marker::{Marker, MarkerState, PreviewEntries},
    scan::read,
    sled_files::{CONF, DB, conf_is_valid},
    store_copy::{COPY, StoreCopy},
};

/// Maximum number of nonzero bytes in the `db` of a store that was created and never used.
const MAX_UNUSED_BYTES: u64 = 4096;

/// Result of an inspection.
pub(super) enum Inspection {
    /// The directory has no store, or one that never acknowledged anything.
    New,
    Store(InspectedStore),
}

/// A store whose files were inspected. [`InspectedStore::check`] must succeed before sled may open the store.
pub(super) struct InspectedStore {
    dir: PathBuf,
    marker: Marker,
    condition: Condition,
    snapshots: Snapshots,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// No byte changed since the store was closed.
    Unchanged,
    /// The store was not closed, and nothing looks wrong.
    NotClosed,
    /// Some file differs from the state in which the store was left.
    Changed,
}

/// Inspects a directory, without changing anything in it.
pub(super) fn inspect(dir: &Path) -> Result<Inspection, StoreOpenError> {
    let marker = Marker::read(dir)?;
    let snapshots = take_inventory(dir, marker.as_ref())?;
    let has_keys = dir.join(KEYS).exists();
    let is_empty = length(&dir.join(DB))? == 0;
    let Some(marker) = marker else {
        let is_new = is_empty && snapshots.is_empty() && !has_keys && !dir.join(CONF).exists();
        return match is_new {
            true => Ok(Inspection::New),
            false => Err(StoreOpenError::MissingMarker(dir.to_owned())),
        };
    };
    let is_unused = marker.state == MarkerState::Creating;
    // The file `keys` is made only after the store is complete.
    if is_unused && has_keys {
        return Err(StoreOpenError::mismatch(dir, Mismatch::Used));
    }
    if is_empty {
        return match is_unused {
            true => Ok(Inspection::New),
            false => Err(StoreOpenError::mismatch(dir, Mismatch::NoData)),
        };
    }
    if !is_unused && !conf_is_valid(dir)? {
        return Err(StoreOpenError::InvalidConf(dir.to_owned()));
    }
    let condition = condition(dir, &marker, &snapshots)?;
    Ok(Inspection::Store(InspectedStore {
        dir: dir.to_owned(),
        marker,
        condition,
        snapshots,
    }))
}

fn condition(dir: &Path, marker: &Marker, snapshots: &Snapshots) -> Result<Condition, StoreOpenError> {
    Ok(match marker.state {
        MarkerState::Closed if snapshots.match_marker() && is_as_closed(dir, marker)? => Condition::Unchanged,
        MarkerState::Open if snapshots.match_marker() => Condition::NotClosed,
        MarkerState::Opening if snapshots.damaged.is_empty() => Condition::NotClosed,
        MarkerState::Closed | MarkerState::Open | MarkerState::Opening | MarkerState::Creating => {
            Condition::Changed
        }
    })
}

/// Returns true when `db` and `conf` match the marker of a closed store, and the marker belongs to this `db`.
fn is_as_closed(dir: &Path, marker: &Marker) -> Result<bool, StoreOpenError> {
    let db = dir.join(DB);
    let Some(expected) = marker.files.get(DB) else {
        return Ok(false);
    };
    // The lengths are compared first, because the checksum of `db` takes long.
    if expected.length != length(&db)? || marker.files.get(CONF) != Some(&sum_of(&dir.join(CONF))?) {
        return Ok(false);
    }
    let (sum, has_checkpoint) = FileSum::of_and_search(&db, &marker.checkpoint.encode())
        .map_err(StoreOpenError::files("read", &db))?;
    Ok(sum == *expected && has_checkpoint)
}

impl InspectedStore {
    /// Checks that sled can safely open the store. A failure leaves the store unchanged. Returns the copy of the store that
    /// was opened for the check; `None` when the check needed none.
    pub(super) fn check(&self, cache_bytes: u64) -> Result<Option<StoreCopy>, StoreOpenError> {
        let needed = self.copy_bytes()?;
        match (self.condition, has_room(&self.dir, needed)?) {
            (Condition::Unchanged, true | false) => Ok(None),
            (Condition::NotClosed, false) => {
                tracing::warn!(
                    "the store was not closed, and the disk has no room to check a copy of it first"
                );
                Ok(None)
            }
            (Condition::Changed, false) => Err(self.no_room(needed)),
            (Condition::NotClosed | Condition::Changed, true) if self.is_unused() => {
                self.check_unused(cache_bytes).map(|()| None)
            }
            (Condition::NotClosed | Condition::Changed, true) => {
                let copy = self.copy(cache_bytes)?;
                self.check_entries(&copy.db)?;
                Ok(Some(copy))
            }
        }
    }

    /// Checks a copy of the store in the directory `to`, as [`Self::check`] does, and removes the copy.
    pub(super) fn check_on_copy(&self, to: &Path, cache_bytes: u64) -> Result<(), StoreOpenError> {
        if self.is_unused() {
            return Ok(());
        }
        let copy = self.copy_to(to, cache_bytes)?;
        self.check_entries(&copy.db)?;
        copy.release().map_err(StoreOpenError::storage(&self.dir))
    }

    /// Makes a copy of the store, from which entries can be read before the store is opened.
    pub(super) fn copy_to_read(&self, cache_bytes: u64) -> Result<StoreCopy, StoreOpenError> {
        let needed = self.copy_bytes()?;
        if !has_room(&self.dir, needed)? {
            return Err(self.no_room(needed));
        }
        let copy = self.copy(cache_bytes)?;
        self.check_checkpoint(&copy.db)?;
        Ok(copy)
    }

    pub(super) fn id(&self) -> StoreId {
        self.marker.checkpoint.id
    }

    /// Returns the value that the marker gives for `key`. Returns `None` when the marker has no entry for `key`, or the
    /// store may have another value.
    pub(super) fn preview(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        match self.condition {
            Condition::Unchanged => self.marker.preview.get(key),
            Condition::NotClosed | Condition::Changed => None,
        }
    }

    /// Returns true when the store never acknowledged a write, according to its marker.
    pub(super) fn is_unused(&self) -> bool {
        self.marker.state == MarkerState::Creating
    }

    /// Prepares the directory for sled's open: writes the marker of that time, and removes or renames the snapshots beside
    /// which sled would not open.
    pub(super) fn prepare_open(&self) -> Result<(), StoreOpenError> {
        let mut files = self.marker.files.clone();
        files.remove(DB);
        let marker = Marker {
            checkpoint: self.marker.checkpoint,
            state: MarkerState::Opening,
            files,
            preview: PreviewEntries::new(),
        };
        marker.write(&self.dir)?;
        for path in &self.snapshots.unfinished {
            fs::remove_file(path).map_err(StoreOpenError::files("remove", path))?;
        }
        for path in &self.snapshots.damaged {
            let renamed = path.with_file_name(format!("{DAMAGED}{}", name_of(path)));
            fs::rename(path, renamed).map_err(StoreOpenError::files("rename", path))?;
        }
        Ok(())
    }

    /// Checks that a store whose creation was interrupted has almost no bytes, and no entry but its checkpoint. sled cannot
    /// open a store that was interrupted before the checkpoint was written.
    fn check_unused(&self, cache_bytes: u64) -> Result<(), StoreOpenError> {
        let path = self.dir.join(DB);
        let nonzero = nonzero_bytes(&path).map_err(StoreOpenError::files("read", &path))?;
        if nonzero > MAX_UNUSED_BYTES {
            return Err(self.mismatch(Mismatch::Used));
        }
        let Ok(copy) = self.copy(cache_bytes) else {
            return Ok(());
        };
        let found = read(&copy.db, CHECKPOINT_KEY).map_err(StoreOpenError::storage(&self.dir))?;
        let is_new = found.is_none_or(|bytes| Checkpoint::decode(&bytes) == Some(self.marker.checkpoint));
        if is_new && count_entries(&copy.db, 1).map_err(StoreOpenError::storage(&self.dir))? == 0 {
            return Ok(());
        }
        Err(self.mismatch(Mismatch::Used))
    }

    /// Reads the checkpoint of the opened store, or of a copy, and returns it if it agrees with the marker.
    pub(super) fn check_checkpoint(&self, db: &sled::Db) -> Result<Checkpoint, StoreOpenError> {
        let found = read(db, CHECKPOINT_KEY).map_err(StoreOpenError::storage(&self.dir))?;
        let found = found
            .and_then(|bytes| Checkpoint::decode(&bytes))
            .ok_or_else(|| self.mismatch(Mismatch::NoCheckpoint))?;
        let acknowledged = self.marker.checkpoint;
        if found.id != acknowledged.id {
            Err(self.mismatch(Mismatch::AnotherStore))
        } else if found.generation < acknowledged.generation {
            Err(self.mismatch(Mismatch::Older {
                expected: acknowledged.generation,
                found: found.generation,
            }))
        } else {
            Ok(found)
        }
    }

    /// Checks the checkpoint, and that a copy has as many entries as the checkpoint says.
    fn check_entries(&self, copy: &sled::Db) -> Result<(), StoreOpenError> {
        let expected = self.check_checkpoint(copy)?.entries;
        let found =
            count_entries(copy, expected.saturating_add(1)).map_err(StoreOpenError::storage(&self.dir))?;
        match found == expected {
            true => Ok(()),
            false => Err(self.mismatch(Mismatch::Entries { expected, found })),
        }
    }

    fn copy(&self, cache_bytes: u64) -> Result<StoreCopy, StoreOpenError> {
        self.copy_to(&self.dir.join(COPY), cache_bytes)
    }

    fn copy_to(&self, to: &Path, cache_bytes: u64) -> Result<StoreCopy, StoreOpenError> {
        StoreCopy::open(&self.dir, &self.snapshots.valid, to, cache_bytes)
    }

    fn copy_bytes(&self) -> Result<u64, StoreOpenError> {
        Ok(length(&self.dir.join(DB))?.saturating_add(disk_space::MIN_FREE))
    }

    fn no_room(&self, bytes: u64) -> StoreOpenError {
        StoreOpenError::NoRoom {
            dir: self.dir.clone(),
            bytes,
        }
    }

    fn mismatch(&self, found: Mismatch) -> StoreOpenError {
        StoreOpenError::mismatch(&self.dir, found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::store::{Batch, Store};

    const CACHE: u64 = 8 << 20;

    fn condition(dir: &Path) -> Condition {
        match inspect(dir).unwrap() {
            Inspection::Store(store) => store.condition,
            Inspection::New => panic!("there is a store"),
        }
    }

    #[tokio::test]
    async fn only_a_store_that_was_closed_and_not_changed_since_is_opened_without_a_copy() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("store");
        for _ in 0..2 {
            let store = Store::open(&dir, CACHE).unwrap();
            assert_eq!(condition(&dir), Condition::NotClosed);
            store
                .commit(Batch::new().put("a", vec![1; 50_000]))
                .await
                .unwrap();
            store.close().await.unwrap();
            assert_eq!(condition(&dir), Condition::Unchanged);
        }
        let path = dir.join(DB);
        let mut bytes = fs::read(&path).unwrap();
        bytes[40_000] ^= 1;
        fs::write(path, bytes).unwrap();
        assert_eq!(condition(&dir), Condition::Changed);
    }
}
