//! A small store of bytes over sled 0.34. Encryption is above it; it knows nothing of secrets.
//!
//! # What is promised
//! - **Durable.** [`Store::commit`] answers `Ok` only after the batch is on the disk: it outlives
//!   `kill -9` and power loss. A batch that was refused changed nothing. One whose write failed
//!   ([`CommitError::OutcomeUnknown`]), or whose caller stopped waiting, may be there after a restart or not.
//! - **Atomic.** All writes of a batch are there, or none, after a crash too.
//! - **Ordered.** Batches are applied one after another. Preconditions and counters see every batch
//!   before them, and nothing comes between a batch's checks and its writes.
//! - **Reads** see only what is durable: a batch once its sync has ended, and never one whose write
//!   failed (`reading`). A scan is not a snapshot: batches may land between two of its entries.
//! - **An export** ([`Store::export`]) adds up to what is there at one moment, before its end and after all that was
//!   acknowledged before its begin.
//! - **Fail-stop.** After a failed write, flush or sync, nothing is acknowledged any more
//!   ([`Store::health`]). Reads go on; the way back is a restart. A disk that gets
//!   full is noticed 16 MiB before: while it lasts, commits are refused that make the store larger, and
//!   deletes and all reads go on (`space`).
//!
//! # Why sled's `flush()` is not enough
//! On Linux `flush()` ends in `sync_file_range`, which starts and awaits the data pages, but writes
//! neither the file's size and extents nor the disk's cache: after a power cut, flushed data was gone.
//! So one thread writes groups of batches and follows each `flush()` by an fsync of `db` (`commit`). A
//! failed fsync is never retried: Linux reports a lost page once, and the second call would succeed.
//!
//! Values stay in that one file. sled moves a page above a quarter of a segment into `blobs/`, which it
//! never syncs; a leaf holds at most 19 entries, so `MAX_ENTRY` and 8 MiB segments rule that out.
//! Where sled can panic or answer with damage, the call is caught and becomes a [`Fault`] (`panics`).
//!
//! # What is never opened
//! A store that is not what was acknowledged: an older, smaller, empty or another one. sled opens such stores, and
//! changes them on the way, so what must be there is kept outside of it (`marker`), and a store that was not closed or
//! was changed since is opened on a copy first (`guard`). What is refused stays as it is; [`SalvageReader`] reads what is
//! left of it. Opening on another thread and a watchdog on the commit thread make sure that a disk which does not
//! answer is noticed (`watchdog`).

mod batch;
mod commit;
mod compact;
mod error;
mod export;
mod files;
mod guard;
mod key_file;
mod log;
mod marker;
mod panics;
mod reading;
mod recent;
mod repairing;
mod salvage;
mod space;
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
pub use error::{CommitError, Disagreement, ExportError, Fault, OpenError};
pub use export::{Change, Export};
pub use key_file::KeyFileError;
pub use salvage::{KeyHistory, LogDamage, SalvageReader};
pub use space::DiskUsage;
pub use unopened::UnopenedStore;

use commit::{Request, Writer};
use export::Watch;
use files::Opened;
use key_file::KeyFile;
use panics::Engine;
use reading::{BeforeImages, read};
use recent::Recent;
use space::Space;
use watchdog::Watchdog;

/// Batches that may wait in the queue before `commit` itself waits.
const QUEUE: usize = 1024;

/// The store; clones share it. Once all are gone it is released by its own thread.
#[derive(Clone)]
pub struct Store {
    // Dropped before `queue`: the commit thread ends when the last queue is gone, so it is the last to
    // hold `shared`, and sled's blocking drop never runs on a runtime thread.
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
}

/// Whether a commit can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ready,
    /// Not while the disk is full.
    DiskFull,
    /// Not while the disk does not answer.
    Unresponsive,
    /// Never again: a storage fault, or a close.
    Stopped,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The full key.
    pub key: Vec<u8>,
    /// What is there.
    pub value: Vec<u8>,
}

/// Read access to a store that may not be opened yet. All methods block.
pub trait ReadEntries {
    /// Error of a failed read.
    type Error;

    /// Returns the value at `key`.
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Returns up to `limit` entries whose keys start with `prefix`, in key order, after the full key `after` if given.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Self::Error>;

    /// Returns the content of the file `keys`; `None` when the file does not exist.
    fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError>;
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

struct Shared {
    db: Engine,
    before: BeforeImages,
    recent: Recent,
    watch: Watch,
    /// Why the commit thread stopped; empty while it runs.
    ended: OnceLock<Ended>,
    watchdog: Watchdog,
    space: Space,
    key_file: KeyFile,
    /// Released by a close, else after `db`, which is declared above it.
    lock: std::fs::File,
}

#[derive(Clone)]
enum Ended {
    Closed,
    Failed(Arc<Fault>),
}

impl Store {
    /// Opens the store in `dir`, or creates it; the parent of `dir` must exist. Blocking.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        Self::inspect(dir, cache_bytes, &[])?.open()
    }

    /// Makes a store in `dir`, which must not be there, be empty, or hold what an earlier repair left unfinished. Until
    /// [`Store::end_repair`] no [`Store::open`] opens the store. Blocking.
    pub fn begin_repair(dir: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        let at = dir.to_owned();
        let opened = watchdog::opening(dir, move || files::open_for_repair(&at, cache_bytes))?;
        Self::start(opened, Watchdog::default())
    }

    /// Ends the repair of the store in `dir`, which must be whole and closed: vaults may open the store from now on.
    pub fn end_repair(dir: &Path) -> Result<(), OpenError> {
        repairing::end(dir)
    }

    fn start(
        Opened {
            db,
            lock,
            fsync,
            space,
            keeper,
            key_file,
        }: Opened,
        watchdog: Watchdog,
    ) -> Result<Self, OpenError> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            db,
            before: BeforeImages::default(),
            recent: Recent::new(),
            watch: Watch::default(),
            ended: OnceLock::new(),
            watchdog,
            space,
            key_file,
            lock,
        });
        Writer::spawn(Arc::clone(&shared), requests, fsync, keeper)?;
        Ok(Self { shared, queue })
    }

    /// The value at `key`. Blocking: call it from a blocking thread.
    pub fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        if key == marker::KEY {
            return Ok(None);
        }
        Ok(self.shared.read(key)?.value.map(|value| value.to_vec()))
    }

    /// The same, and keeps it for [`Store::cached`]. Blocking.
    pub fn read_and_cache(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, Fault> {
        if key == marker::KEY {
            return Ok(None);
        }
        let epoch = self.shared.recent.epoch(key);
        let found = self.shared.read(key)?;
        let value = found.value.map(|value| Arc::<[u8]>::from(value.as_ref()));
        // A before-image is not cached, because the new value replaces it soon.
        if let Some(value) = &value
            && !found.is_image
        {
            self.shared.recent.keep(key, value.clone(), epoch);
        }
        Ok(value)
    }

    /// What [`Store::read_and_cache`] would answer, if that is known without asking the disk. Does not block.
    pub fn cached(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.shared.recent.get(key)
    }

    /// Up to `limit` entries whose keys start with `prefix`, in key order, after the full key `after`
    /// if given. Blocking.
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Fault> {
        self.shared.scan(prefix, after, limit)
    }

    /// Applies `batch`, all or nothing, and returns once it is durable.
    ///
    /// Not cancel safe in the usual sense: a caller that stops waiting does not recall the batch.
    pub async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        batch.check()?;
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Request::Commit { batch, reply }).await.is_err() {
            return Err(self.shared.why_ended());
        }
        answer.await.unwrap_or_else(|_| Err(self.shared.why_ended()))
    }

    /// Whether there is a store in `dir`, to be opened rather than made.
    pub fn exists(dir: &Path) -> bool {
        files::exist(dir)
    }

    /// Whether a commit can succeed. Does not wait for a disk that hangs.
    pub fn health(&self) -> Health {
        if self.shared.ended.get().is_some() {
            Health::Stopped
        } else if self.shared.watchdog.barks() {
            Health::Unresponsive
        } else if self.shared.space.for_growth() {
            Health::Ready
        } else {
            Health::DiskFull
        }
    }

    /// Returns the size of the store's files and the free space of their disk. Blocking.
    pub fn disk_usage(&self) -> Result<DiskUsage, OpenError> {
        self.shared.space.usage()
    }

    /// Waits until a commit was refused for lack of room and the disk has room for such commits again.
    pub async fn wait_for_room(&self) {
        self.shared.space.again().await;
    }

    /// Commits what was queued before, syncs once more, and ends the commit thread. Later commits, of
    /// clones too, are `Closed`. When this returns the directory can be opened again, which waits for clones that are
    /// just being dropped.
    pub async fn close(self) -> Result<(), CommitError> {
        let Self { shared, queue } = self;
        let (done, closed) = oneshot::channel();
        let ended = Arc::downgrade(&shared);
        drop(shared);
        let sent = queue.send(Request::Close { done }).await;
        drop(queue);
        let why = || {
            ended
                .upgrade()
                .map_or(CommitError::Closed, |shared| shared.why_ended())
        };
        match sent {
            Ok(()) => closed.await.unwrap_or_else(|_| Err(why())),
            Err(_) => Err(why()),
        }
    }
}

impl Shared {
    /// No answer means that the thread is gone; this says why.
    fn why_ended(&self) -> CommitError {
        match self.ended.get() {
            Some(Ended::Closed) => CommitError::Closed,
            Some(Ended::Failed(fault)) => CommitError::Unavailable(fault.clone()),
            None => CommitError::Unavailable(Arc::new(Fault::Panicked)),
        }
    }
}
