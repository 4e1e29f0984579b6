//! Errors of the store, named for their causes.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Failure of the storage below the store: the disk, or sled.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The disk or the quota is full.
    #[error("the disk is full")]
    Full(#[source] io::Error),
    #[error("the disk failed")]
    Io(#[source] io::Error),
    #[error("the stored data is damaged")]
    Damaged(#[source] Box<dyn Error + Send + Sync>),
    /// sled panics on some kinds of damage.
    #[error("the storage engine panicked")]
    Panicked,
}

impl Fault {
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full(_) => true,
            Self::Io(_) | Self::Damaged(_) | Self::Panicked => false,
        }
    }

    /// Returns true when the stored bytes are damaged, so that reading them again cannot help.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Panicked => true,
            Self::Full(_) | Self::Io(_) => false,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error),
            _ => Self::Io(error),
        }
    }
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => error.into(),
            sled::Error::Corruption { .. }
            | sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_) => Self::Damaged(Box::new(error)),
        }
    }
}

/// Advice for a damaged store.
macro_rules! advice {
    () => {
        "restore a backup (`vault-service restore`), or salvage what is left (`vault-service repair`)"
    };
}

/// Reason why a store was not opened. The store is unchanged; a directory that is not a store gets no file.
#[derive(Debug, thiserror::Error)]
pub enum StoreOpenError {
    #[error("the store in {} is already open in another process", .0.display())]
    InUse(PathBuf),
    /// The directory has files but no store, so its path is probably mistyped.
    #[error("{} is not empty and holds no store", .0.display())]
    NotAStore(PathBuf),
    /// The directory is missing, and so is its parent.
    #[error(
        "cannot create {}, because its parent directory does not exist: correct the path, mount the disk, or make the \
         parent directory", .0.display()
    )]
    NoParent(PathBuf),
    /// The target directory of a repair is not empty.
    #[error("{} is not empty: a store is repaired into a new directory", .0.display())]
    NotEmpty(PathBuf),
    #[error("the repair into {} was not finished: run `vault-service repair` again, with the same `--to`", .0.display())]
    UnfinishedRepair(PathBuf),
    /// Without a valid `conf` sled would guess its settings and lose most of the data.
    #[error("the file `conf` of the store in {} is missing or damaged: {}", .0.display(), advice!())]
    InvalidConf(PathBuf),
    #[error("the file `marker` of the store in {} is missing: {}", .0.display(), advice!())]
    MissingMarker(PathBuf),
    #[error("the file `marker` of the store in {} is damaged: {}", .0.display(), advice!())]
    DamagedMarker(PathBuf),
    /// The directory has files that are not part of the store, such as those of a newer copy of it.
    #[error(
        "the directory {} has files that do not belong to the store: {}; a copy of the store may have been put over another \
         one: move these files out of the directory and start again",
        dir.display(), names.join(", ")
    )]
    UnknownFiles { dir: PathBuf, names: Vec<String> },
    #[error("the store in {} has format {found}, which this release does not know: use the release that wrote it", dir.display())]
    UnknownFormat { dir: PathBuf, found: u8 },
    /// The store's data is not the data that was acknowledged.
    #[error("the store in {} does not have the acknowledged data: {found}: {}", dir.display(), advice!())]
    Mismatch { dir: PathBuf, found: Mismatch },
    /// The system's clock is before 1970, which makes sled panic.
    #[error("the system's clock is before 1970: set it, and start again")]
    Clock,
    /// The disk has no room for the writes of opening, or for the copy on which a changed store is checked.
    #[error("the disk is too full to open the store in {}: make room for {bytes} bytes", dir.display())]
    NoRoom { dir: PathBuf, bytes: u64 },
    #[error("opening the store in {} hangs: its disk does not answer, or it is damaged: {}", .0.display(), advice!())]
    Timeout(PathBuf),
    #[error("cannot {doing} {}", path.display())]
    Files {
        /// The failed step, as a verb.
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// sled refused its files, or the disk failed.
    #[error("the store in {} does not open: {}", dir.display(), advice!())]
    Storage { dir: PathBuf, source: Fault },
}

impl StoreOpenError {
    /// Returns a function that makes the error of a failed step at `path`.
    pub(super) fn files(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Files { doing, path, source }
    }

    /// Returns a function that makes the error of a storage fault in the store in `dir`.
    pub(super) fn storage(dir: &Path) -> impl FnOnce(Fault) -> Self {
        let dir = dir.to_owned();
        move |source| Self::Storage { dir, source }
    }

    pub(super) fn mismatch(dir: &Path, found: Mismatch) -> Self {
        Self::Mismatch {
            dir: dir.to_owned(),
            found,
        }
    }
}

/// Difference between a store's data and its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("its data is gone")]
    NoData,
    /// The store has entries, although its marker says that no write was ever acknowledged.
    #[error("its marker says that it was never used, but it has entries")]
    Used,
    /// The store has no checkpoint entry.
    #[error("its checkpoint entry is missing")]
    NoCheckpoint,
    #[error("its marker is of another store")]
    AnotherStore,
    /// Groups that the marker counts are missing from the data.
    #[error("it ends at generation {found}, and generation {expected} was acknowledged")]
    Older { expected: u64, found: u64 },
    #[error("it has {found} entries, and should have {expected}")]
    Entries {
        expected: u64,
        /// Counted entries; counting stops at one more than `expected`.
        found: u64,
    },
}

/// Reason why a batch was not acknowledged. Unless stated otherwise, the batch changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("a precondition does not hold")]
    Conflict,
    /// A counter would have passed its limit.
    #[error("a counter would pass its limit")]
    LimitReached,
    /// A counter would leave the range of `u64`, or the bytes at its key are no counter.
    #[error("a counter is out of range")]
    Counter,
    /// Another exclusive writer has the store: see [`EXCLUSIVE_WRITER`](super::EXCLUSIVE_WRITER).
    #[error("another operation, such as a restore, has the store")]
    ExclusiveWriter,
    /// The batch, or one of its entries, exceeds the store's size limit.
    #[error("the batch is too large")]
    TooLarge,
    /// The batch names the store's checkpoint entry.
    #[error("the batch names an entry of the store's own")]
    Reserved,
    /// An entry that the batch checks or replaces cannot be read.
    #[error("an entry of the batch cannot be read")]
    Unreadable(#[source] Fault),
    /// The disk is almost full. Commits succeed again once there is room.
    #[error("the disk is full")]
    Full,
    /// The write or its sync failed, and the store acknowledges nothing any more. Until a restart readers do not see the
    /// batch; the restart finds all of it or nothing.
    #[error("the storage failed while the batch was written")]
    OutcomeUnknown(#[source] Arc<Fault>),
    /// The storage failed earlier, and the store acknowledges nothing any more.
    #[error("the storage failed")]
    Unavailable(#[source] Arc<Fault>),
    #[error("the store is closed")]
    Closed,
}

/// Reason why an export failed. The changes that it returned before are useless.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Only one export runs at a time.
    #[error("another export is under way")]
    AlreadyRunning,
    /// For too long, more entries changed than the export could read in the same time.
    #[error("the store changes faster than the export is read")]
    Outpaced,
    /// An exclusive writer may have filled the store only in part.
    #[error("another operation, such as a restore, has the store")]
    ExclusiveWriter,
    #[error("an entry cannot be read")]
    Unreadable(#[from] Fault),
    /// The store failed or was closed.
    #[error("the store ended")]
    Stopped(#[source] CommitError),
}
