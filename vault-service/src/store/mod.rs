//! A store of bytes by key, durable and transactional, on top of sled 0.34. Encryption is done above it.
//!
//! # Interface
//! A second implementation, on another database, has to provide these items, with the promises below:
//!
//! - [`Store`]: [`Store::open`], [`Store::exists`] and [`Store::close`]; reads ([`Store::read`], [`Store::scan`],
//!   [`Store::read_and_cache`], [`Store::cached`]); atomic writes ([`Store::commit`] of a [`Batch`] with preconditions, and
//!   [`EXCLUSIVE_WRITER`], the entry that reserves the store for one writer); the file `keys` ([`Store::key_file`],
//!   [`Store::replace_key_file`]); [`Store::export`] for backups; and the state of the storage ([`Store::health`],
//!   [`Store::wait_for_room`], [`Store::disk_usage`]).
//! - [`UnopenedStore`], from [`Store::inspect`]: the same reads ([`ReadEntries`]) before the store is opened, so that a vault
//!   with the wrong root key changes nothing.
//! - For the commands that work without a vault: [`compact()`], [`SalvageReader`] with [`KeyHistory`] and [`LogDamage`],
//!   [`Store::begin_repair`] and [`Store::end_repair`].
//! - The errors [`Fault`], [`StoreOpenError`], [`CommitError`], [`ExportError`], [`KeyFileError`] and [`CompactError`].
//!
//! Some of the interface follows from sled and its directory. Every open takes a path and the bytes of sled's cache;
//! `RECEIVED` names a file in the directory of the store, into which the vault receives a backup; [`DiskUsage`],
//! [`Health::DiskFull`] and several variants of [`StoreOpenError`] are about the local disk; and the commands without a vault
//! repair a log that no other process has open. A store without a directory needs other arguments and variants there, and its
//! database's own commands in place of the last group. The texts of the errors name sled's files; the types name no type of sled.
//!
//! # Promises
//! - **Durable.** [`Store::commit`] answers `Ok` only after the batch is on the disk, where it survives `kill -9` and power
//!   loss. A refused batch changes nothing. A batch whose write failed ([`CommitError::OutcomeUnknown`]), or whose caller
//!   stopped waiting, may or may not be found after a restart.
//! - **Atomic.** Either all writes of a batch are done or none, also after a crash.
//! - **Ordered.** Batches are applied one after another. The preconditions and counters of a batch see every earlier batch,
//!   and no other write happens between the checks and the writes of a batch.
//! - **Durable reads.** A read sees a batch once its sync has ended, and never sees a batch whose write failed (`durable`). A
//!   scan is not a snapshot: batches may be applied between two of its entries.
//! - **Consistent exports.** An export gives the content of the store at one moment during the export.
//! - **Fail-stop.** After a failed write, flush or sync, the store acknowledges nothing until a restart ([`Store::health`]).
//!   Reads go on. A disk that is almost full is noticed 16 MiB before: from then on, commits that make the store larger are
//!   refused, while deletes and reads go on (`disk_space`).
//!
//! # Why sled's `flush()` is not enough
//! On Linux, `flush()` ends in `sync_file_range`, which writes the data pages but neither the file's size and extents nor
//! the disk's cache. After a power cut, flushed data was lost. So one thread writes groups of batches, and follows each
//! `flush()` by an fdatasync(2) of `db` (`commit`). A failed sync is never retried: Linux reports a lost page once, and a
//! second call would succeed.
//!
//! All values stay in that one file. sled moves pages larger than a quarter of a segment into `blobs/`, which it never
//! syncs; a leaf has at most 19 entries, so `MAX_ENTRY` and segments of 8 MiB rule that out.
//!
//! # What is never opened
//! A store with other data than what was acknowledged is refused: an older, smaller, empty or foreign store. sled would open
//! such a store and change it on the way. So the expected content is kept outside of sled (`marker`), and a store that was
//! not closed, or was changed since, is opened on a copy first (`inspection`). A refused store is left unchanged, and
//! [`SalvageReader`] reads what is left of it. A disk that does not answer is noticed by time limits (`watchdog`), and
//! sled's panics are caught (`engine`).

mod batch;
mod changed_keys;
mod checkpoint;
mod commit;
mod compact;
mod compaction_dir;
mod disk_space;
mod durable;
mod engine;
mod entry;
mod entry_count;
mod error;
mod export;
mod file_sum;
mod fs;
mod inspection;
mod inventory;
mod key_file;
mod lock;
mod log;
mod marker;
mod open;
mod read_cache;
mod repair_file;
mod salvage;
mod scan;
mod shared;
mod sled_files;
mod staging;
mod store_copy;
#[cfg(test)]
mod tests;
mod unopened;
mod watchdog;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use tokio::sync::{mpsc, oneshot};

pub use batch::{Batch, EXCLUSIVE_WRITER};
pub(crate) use batch::{MAX_BATCH, MAX_ENTRY};
pub use compact::{CompactError, CompactionReport, compact};
pub use disk_space::DiskUsage;
pub use entry::{Entry, ReadEntries};
pub use error::{CommitError, ExportError, Fault, Mismatch, StoreOpenError};
pub use export::{Change, Export};
pub(crate) use inventory::RECEIVED;
pub use key_file::KeyFileError;
pub use salvage::{KeyHistory, LogDamage, SalvageReader};
pub use unopened::UnopenedStore;

use changed_keys::ChangedKeys;
use commit::{CommitThread, Request};
use durable::DurableData;
use open::OpenedStore;
use shared::Shared;
use watchdog::Watchdog;

/// Number of batches that wait in the queue before `commit` itself waits.
const QUEUE: usize = 1024;

/// An open store; clones share it. When the last clone is dropped, the commit thread closes the store.
#[derive(Clone)]
pub struct Store {
    // Declared, and so dropped, before `queue`: the commit thread ends when the last sender of the queue is gone. So the
    // commit thread is the last owner of `shared`, and sled's blocking drop never runs on a thread of the runtime.
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
}

/// Ability of a store to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// Commits that make the store larger fail while the disk is full.
    DiskFull,
    /// The disk does not answer at present.
    Unresponsive,
    /// Commits fail for ever, because the storage failed or the store was closed.
    Stopped,
}

impl ReadEntries for Store {
    type Error = Fault;

    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        Store::read(self, key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Fault> {
        Store::scan(self, prefix, after, limit)
    }

    fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        Store::key_file(self)
    }
}

impl UnopenedStore {
    /// Opens the store, or creates it. Blocks.
    ///
    /// The directory belongs to the store alone. Every open sets its mode to 0700 and that of its files to 0600, because a
    /// Kubernetes `fsGroup` widens the modes at every mount.
    pub fn open(self) -> Result<Store, StoreOpenError> {
        let dir = self.dir.clone();
        let opened = watchdog::open_with_limit(&dir, move || self.open_files())?;
        Store::start(opened, Watchdog::default())
    }
}

impl Store {
    /// Opens the store in `dir`, or creates it; the parent of `dir` must exist. Blocks.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreOpenError> {
        Self::inspect(dir, cache_bytes, &[])?.open()
    }

    /// Locks and inspects the store in `dir` without a change. `preview_keys` are keys whose entries the next start can
    /// read without a copy of the store, if the store is closed before. Blocks.
    pub fn inspect(
        dir: &Path,
        cache_bytes: u64,
        preview_keys: &'static [&'static [u8]],
    ) -> Result<UnopenedStore, StoreOpenError> {
        let to_inspect = dir.to_owned();
        watchdog::open_with_limit(dir, move || {
            UnopenedStore::inspect(&to_inspect, cache_bytes, preview_keys)
        })
    }

    /// Creates a store in `dir`, which must be missing, be empty, or have the files of an unfinished repair. Until
    /// [`Store::end_repair`], [`Store::open`] refuses the store. Blocks.
    pub fn begin_repair(dir: &Path, cache_bytes: u64) -> Result<Self, StoreOpenError> {
        let to_open = dir.to_owned();
        let opened = watchdog::open_with_limit(dir, move || open::open_for_repair(&to_open, cache_bytes))?;
        Self::start(opened, Watchdog::default())
    }

    /// Ends the repair of the store in `dir`, which must be complete and closed.
    pub fn end_repair(dir: &Path) -> Result<(), StoreOpenError> {
        repair_file::remove(dir)
    }

    fn start(
        OpenedStore {
            db,
            lock,
            fdatasync,
            disk_space,
            marker,
            key_file,
        }: OpenedStore,
        watchdog: Watchdog,
    ) -> Result<Self, StoreOpenError> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            data: DurableData::new(db),
            changed_keys: ChangedKeys::default(),
            stop_reason: OnceLock::new(),
            watchdog,
            disk_space,
            key_file,
            lock,
        });
        CommitThread::spawn(Arc::clone(&shared), requests, fdatasync, marker)?;
        Ok(Self { shared, queue })
    }

    /// Returns true when `dir` has a store.
    pub fn exists(dir: &Path) -> bool {
        open::exists(dir)
    }

    /// Returns the value at `key`. Blocks.
    pub fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.shared.data.read(key)?.map(|value| value.to_vec()))
    }

    /// Returns the value at `key`, and keeps it for [`Store::cached`]. Blocks.
    pub fn read_and_cache(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, Fault> {
        self.shared.data.read_and_cache(key)
    }

    /// Returns the current value at `key` if [`Store::read_and_cache`] kept it. Does not block.
    pub fn cached(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.shared.data.cached(key)
    }

    /// Returns up to `limit` entries whose keys start with `prefix`, in key order, after the full key `after` if given.
    /// Blocks.
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Fault> {
        self.shared.data.scan(prefix, after, limit)
    }

    /// Applies all of `batch` or nothing, and returns once the batch is durable.
    ///
    /// Dropping the future does not recall the batch, which may still be applied.
    pub async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        batch.check()?;
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Request::Commit { batch, reply }).await.is_err() {
            return Err(self.shared.stopped());
        }
        answer.await.unwrap_or_else(|_| Err(self.shared.stopped()))
    }

    /// Returns the content of the file `keys`; `None` when the file does not exist. Blocks.
    pub fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        self.shared.key_file.read()
    }

    /// Replaces the content of the file `keys`, durably. After a failure or a crash the file has the new content or the
    /// previous one. Blocks.
    pub fn replace_key_file(&self, content: &[u8]) -> Result<(), KeyFileError> {
        self.shared.key_file.replace(content)
    }

    /// Returns the store's ability to commit. Does not wait for a disk that does not answer.
    pub fn health(&self) -> Health {
        if self.shared.stop_reason.get().is_some() {
            Health::Stopped
        } else if self.shared.watchdog.is_expired() {
            Health::Unresponsive
        } else if self.shared.disk_space.has_room_for_growth() {
            Health::Ready
        } else {
            Health::DiskFull
        }
    }

    /// Returns the size of the store's files and the free space of their disk. Blocks.
    pub fn disk_usage(&self) -> Result<DiskUsage, StoreOpenError> {
        self.shared.disk_space.usage()
    }

    /// Waits until a commit was refused for lack of room and the disk has room for such commits again.
    pub async fn wait_for_room(&self) {
        self.shared.disk_space.wait_for_room().await;
    }

    /// Commits all queued batches, syncs, and ends the commit thread. Later commits, also by clones, get
    /// [`CommitError::Closed`]. Afterwards the store can be opened again; that open waits for clones that are just being
    /// dropped.
    pub async fn close(self) -> Result<(), CommitError> {
        let Self { shared, queue } = self;
        let (done, closed) = oneshot::channel();
        let weak = Arc::downgrade(&shared);
        drop(shared);
        let sent = queue.send(Request::Close { done }).await;
        drop(queue);
        let stopped = || {
            weak.upgrade()
                .map_or(CommitError::Closed, |shared| shared.stopped())
        };
        match sent {
            Ok(()) => closed.await.unwrap_or_else(|_| Err(stopped())),
            Err(_) => Err(stopped()),
        }
    }
}
