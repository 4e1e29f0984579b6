//! Compaction: copying a store into a fresh one, which replaces it.
//!
//! sled's log keeps replaced entries until it reuses their space, so a store with many writes takes several times the
//! size of its entries. A fresh store takes only the room of its entries:
//!
//! 1. The store is opened as to serve it, and a new one is made beside it: `.NAME.compacting`.
//! 2. Every entry and the file `keys` are copied. Both stores are read, and must hold the same.
//! 3. Both are closed and synced. With the old one locked again, and unchanged, their directories exchange names in one step.
//! 4. The old one is removed.
//!
//! Whenever this is stopped, the whole of a store is under the name: up to step 3 the old one, from then on the new one. The
//! other directory is removed when the store is opened the next time (`tidy`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use thiserror::Error;

use super::{
    Batch, CommitError, EXCLUSIVE_WRITER, Entry, Fault, KeyFileError, OpenError, Store, files,
    marker::{Marker, State, Tally},
    space,
};

/// Entries read at once, and bytes written at once.
const PAGE: usize = 64;
const BATCH: usize = 512 * 1024;

/// The result of compacting a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionReport {
    /// Number of entries in the store.
    pub entries: u64,
    /// Size of the store's files before, in bytes.
    pub before: u64,
    /// Size of the store's files after, in bytes.
    pub after: u64,
}

/// Why a store was not compacted. The store is unchanged.
#[derive(Debug, Error)]
pub enum CompactError {
    /// The store, or the new one, does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An entry cannot be read.
    #[error("an entry of the store cannot be read")]
    Read(#[from] Fault),
    /// The new store cannot be written.
    #[error("the new store cannot be written")]
    Write(#[from] CommitError),
    /// The file of keys cannot be copied.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// Something that fills the store was stopped, and has to be finished or undone first.
    #[error("the store was left by half by a restore: start the vault once, and compact it then")]
    ExclusiveWriter,
    /// The copy is not what was copied.
    #[error("the copy differs from the store: its disk, or its memory, is not to be trusted")]
    Differs,
    /// Another process opened the store during the compaction.
    #[error("another process opened the store meanwhile: stop the vault first")]
    Changed,
    /// The file system, or the place of the store, does not allow it.
    #[error(
        "the directories cannot be exchanged: the data directory may not be a mount point, and its file system has to know \
         such renames; `vault-service backup` and `restore` into a new directory do the same"
    )]
    Exchange(#[source] io::Error),
}

/// A moment of compacting, for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Made,
    Copied,
    Closed,
    Exchanged,
}

/// Compacts the store in `dir`, which nobody may have open. `front` as for [`Store::inspect`]. Blocking.
pub async fn compact(
    dir: &Path,
    cache_bytes: u64,
    front: &'static [&'static [u8]],
) -> Result<CompactionReport, CompactError> {
    compact_in_stages(dir, cache_bytes, front, |_| ()).await
}

pub(super) async fn compact_in_stages(
    dir: &Path,
    cache_bytes: u64,
    front: &'static [&'static [u8]],
    mut at: impl FnMut(Stage),
) -> Result<CompactionReport, CompactError> {
    let dir = fs::canonicalize(dir).map_err(files::failed("find", dir))?;
    let old = Store::inspect(&dir, cache_bytes, front)?.open()?;
    let (before, tally) = (size(&dir)?, tally(&dir)?);
    let beside = beside(&dir);
    let made = Store::inspect(&beside, cache_bytes, front)?.open()?;
    at(Stage::Made);
    let done: Result<u64, CompactError> = async {
        let copied = copy(&old, &made).await;
        at(Stage::Copied);
        // Both stores are closed even when the copy failed.
        let closed = (made.close().await, old.close().await);
        let entries = copied?;
        closed.0.and(closed.1)?;
        at(Stage::Closed);
        exchange(&dir, &beside, tally)?;
        at(Stage::Exchanged);
        Ok(entries)
    }
    .await;
    remove(&beside)?;
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
            if bytes >= BATCH {
                to.commit(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
    }
    to.commit(batch).await?;
    if let Some(keys) = from.key_file()? {
        to.replace_key_file(&keys)?;
    }
    same(from, to)
}

/// Fails when the two stores differ. Returns the number of entries.
fn same(one: &Store, other: &Store) -> Result<u64, CompactError> {
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

/// Exchanges the names of two stores, if the first one still has `tally`, and so was not opened in the meantime.
fn exchange(dir: &Path, beside: &Path, tally: Tally) -> Result<(), CompactError> {
    let _lock = files::lock(dir)?;
    files::await_release(dir)?;
    match Marker::read(dir)? {
        Some(marker) if marker.state == State::Closed && marker.tally == tally => {}
        Some(_) | None => return Err(CompactError::Changed),
    }
    files::sync_files(beside)?;
    renameat_with(CWD, dir, CWD, beside, RenameFlags::EXCHANGE)
        .map_err(|error| CompactError::Exchange(error.into()))?;
    Ok(files::sync(dir.parent().unwrap_or(Path::new("/")))?)
}

fn tally(dir: &Path) -> Result<Tally, OpenError> {
    let marker = Marker::read(dir)?;
    marker
        .map(|marker| marker.tally)
        .ok_or_else(|| OpenError::NoMarker(dir.to_owned()))
}

/// Returns the directory of the new store during a compaction.
fn beside(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.compacting"))
}

/// Removes what compacting the store in `dir`, which is locked, left beside it when it was stopped.
pub(super) fn tidy(dir: &Path) -> Result<(), OpenError> {
    let Ok(dir) = fs::canonicalize(dir) else {
        return Ok(());
    };
    let beside = beside(&dir);
    if !beside.exists() {
        return Ok(());
    }
    tracing::warn!(
        "compacting the store was stopped; the store is whole, and what was left beside it is removed"
    );
    remove(&beside)
}

fn remove(beside: &Path) -> Result<(), OpenError> {
    match fs::remove_dir_all(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(files::failed("remove", beside)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Bytes on the disk of all files in a directory but the reserve.
fn size(dir: &Path) -> Result<u64, OpenError> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    let reserve = dir.join(space::FILE);
    for path in files::names(dir)?.into_iter().filter(|path| *path != reserve) {
        let metadata = fs::metadata(&path).map_err(files::failed("read", &path))?;
        bytes += metadata.blocks() * 512;
    }
    Ok(bytes)
}
