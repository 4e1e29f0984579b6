//! Compaction: a store is copied into a new one, which replaces it.
//!
//! sled's log keeps replaced entries until it reuses their space, so a store with many writes takes several times the size
//! of its entries. A new store takes only the room of its entries:
//!
//! 1. The store is opened, and a new one is created beside it as `.NAME.compacting`.
//! 2. Every entry and the file `keys` are copied. Then both stores are read and compared.
//! 3. Both are closed and synced. The old store is locked again, and must be unchanged. Then the two directories exchange
//!    their names in one step.
//! 4. The old store is removed.
//!
//! If the process ends at any time, the name belongs to a complete store: to the old one until step 3, and to the new one
//! afterwards. The next open of the store removes the other directory.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use thiserror::Error;

use super::{
    Batch, CommitError, EXCLUSIVE_WRITER, Entry, Fault, KeyFileError, Store,
    checkpoint::Checkpoint,
    compaction_dir::new_dir,
    disk_space::RESERVE_FILE,
    error::StoreOpenError,
    fs::{list, remove_dir_if_exists, sync, sync_all},
    lock::{lock, wait_for_release},
    marker::{Marker, MarkerState},
};

/// Number of entries that are read at once.
const PAGE: usize = 64;
/// Size of the entries that are written at once, in bytes.
const BATCH_BYTES: usize = 512 * 1024;

/// The result of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionReport {
    pub entries: u64,
    /// Size of the store's files before, in bytes.
    pub before: u64,
    /// Size of the store's files after, in bytes.
    pub after: u64,
}

/// Reason why a store was not compacted. The store is unchanged.
#[derive(Debug, Error)]
pub enum CompactError {
    #[error(transparent)]
    Open(#[from] StoreOpenError),
    #[error("an entry of the store cannot be read")]
    Read(#[from] Fault),
    #[error("the new store cannot be written")]
    Write(#[from] CommitError),
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// An exclusive writer was stopped, and has to finish or to undo its work first.
    #[error("a restore of the store did not finish: start the vault once, and compact the store then")]
    ExclusiveWriter,
    #[error("the copy differs from the store: its disk, or its memory, is not to be trusted")]
    Differs,
    /// Another process opened the store during the compaction.
    #[error("another process opened the store meanwhile: stop the vault first")]
    Changed,
    /// The file system cannot exchange two names, or the data directory is a mount point.
    #[error(
        "the directories cannot be exchanged: the data directory may not be a mount point, and its file system has to know \
         such renames; `vault-service backup` and `restore` into a new directory do the same"
    )]
    Exchange(#[source] io::Error),
}

/// A completed step of a compaction, which tests observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompactionStage {
    Created,
    Copied,
    Closed,
    Exchanged,
}

/// Compacts the store in `dir`, which no process may have open. `preview_keys` are those of [`Store::inspect`]. Blocks.
pub async fn compact(
    dir: &Path,
    cache_bytes: u64,
    preview_keys: &'static [&'static [u8]],
) -> Result<CompactionReport, CompactError> {
    compact_in_stages(dir, cache_bytes, preview_keys, |_| ()).await
}

pub(super) async fn compact_in_stages(
    dir: &Path,
    cache_bytes: u64,
    preview_keys: &'static [&'static [u8]],
    mut completed: impl FnMut(CompactionStage),
) -> Result<CompactionReport, CompactError> {
    let dir = fs::canonicalize(dir).map_err(StoreOpenError::files("find", dir))?;
    let old = Store::inspect(&dir, cache_bytes, preview_keys)?.open()?;
    let (before, checkpoint) = (size(&dir)?, checkpoint(&dir)?);
    let new_dir = new_dir(&dir);
    let new = Store::inspect(&new_dir, cache_bytes, preview_keys)?.open()?;
    completed(CompactionStage::Created);
    let done: Result<u64, CompactError> = async {
        let copied = copy(&old, &new).await;
        completed(CompactionStage::Copied);
        // Both stores are closed also when the copy failed.
        let closed = (new.close().await, old.close().await);
        let entries = copied?;
        closed.0.and(closed.1)?;
        completed(CompactionStage::Closed);
        exchange(&dir, &new_dir, checkpoint)?;
        completed(CompactionStage::Exchanged);
        Ok(entries)
    }
    .await;
    remove_dir_if_exists(&new_dir)?;
    Ok(CompactionReport {
        entries: done?,
        before,
        after: size(&dir)?,
    })
}

/// Copies all entries, and compares both stores afterwards. Returns the number of entries.
async fn copy(from: &Store, to: &Store) -> Result<u64, CompactError> {
    if from.read(EXCLUSIVE_WRITER)?.is_some() {
        return Err(CompactError::ExclusiveWriter);
    }
    let mut after: Option<Vec<u8>> = None;
    let (mut batch, mut bytes) = (Batch::new(), 0);
    loop {
        let page = from.scan(&[], after.as_deref(), PAGE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        for Entry { key, value } in page {
            bytes += key.len() + value.len();
            batch = batch.put(key, value);
            if bytes >= BATCH_BYTES {
                to.commit(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
    }
    to.commit(batch).await?;
    if let Some(keys) = from.key_file()? {
        to.replace_key_file(&keys)?;
    }
    compare(from, to)
}

/// Fails when the two stores differ. Returns the number of entries.
fn compare(one: &Store, other: &Store) -> Result<u64, CompactError> {
    let (mut count, mut after) = (0, None::<Vec<u8>>);
    loop {
        let page = one.scan(&[], after.as_deref(), PAGE)?;
        if page != other.scan(&[], after.as_deref(), PAGE)? {
            return Err(CompactError::Differs);
        }
        let Some(last) = page.last() else { break };
        count += page.len() as u64;
        after = Some(last.key.clone());
    }
    match one.key_file()? == other.key_file()? {
        true => Ok(count),
        false => Err(CompactError::Differs),
    }
}

/// Exchanges the names of two stores, if the first one still has `checkpoint`, so that no process opened it in the meantime.
fn exchange(dir: &Path, new_dir: &Path, checkpoint: Checkpoint) -> Result<(), CompactError> {
    let _lock = lock(dir)?;
    wait_for_release(dir)?;
    match Marker::read(dir)? {
        Some(marker) if marker.state == MarkerState::Closed && marker.checkpoint == checkpoint => {}
        Some(_) | None => return Err(CompactError::Changed),
    }
    sync_all(new_dir)?;
    renameat_with(CWD, dir, CWD, new_dir, RenameFlags::EXCHANGE)
        .map_err(|error| CompactError::Exchange(error.into()))?;
    Ok(sync(dir.parent().unwrap_or(Path::new("/")))?)
}

fn checkpoint(dir: &Path) -> Result<Checkpoint, StoreOpenError> {
    let marker = Marker::read(dir)?;
    marker
        .map(|marker| marker.checkpoint)
        .ok_or_else(|| StoreOpenError::MissingMarker(dir.to_owned()))
}

/// Returns the disk space of all files in a directory but the reserve, in bytes.
fn size(dir: &Path) -> Result<u64, StoreOpenError> {
    let mut bytes = 0;
    let reserve = dir.join(RESERVE_FILE);
    for path in list(dir)?.into_iter().filter(|path| *path != reserve) {
        let metadata = fs::metadata(&path).map_err(StoreOpenError::files("read", &path))?;
        bytes += metadata.blocks() * 512;
    }
    Ok(bytes)
}
