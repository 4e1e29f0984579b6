//! What can go wrong, named for the cause.

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

/// The storage underneath failed.
#[derive(Debug, Error)]
pub enum Fault {
    /// The disk or the quota is full.
    #[error("the disk is full")]
    Full(#[source] io::Error),
    /// The disk answered with an error.
    #[error("the disk failed")]
    Io(#[source] io::Error),
    /// The stored bytes do not decode.
    #[error("the stored data is damaged")]
    Damaged(#[source] sled::Error),
    /// sled panicked, which it does on some damage.
    #[error("the storage engine panicked")]
    Panicked,
}

impl Fault {
    /// Returns true when the disk or the quota is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full(_) => true,
            Self::Io(_) | Self::Damaged(_) | Self::Panicked => false,
        }
    }

    /// Whether what was stored is no more what it was, so that reading it again is of no use.
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
            | sled::Error::ReportableBug(_) => Self::Damaged(error),
        }
    }
}

/// What to do about a store that is damaged.
macro_rules! way_out {
    () => {
        "restore a backup (`vault-service restore`), or salvage what is left (`vault-service repair`)"
    };
}

/// Why the store did not open. Nothing of it was changed, and nothing was made if it is not a store.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("the store in {} is already open in another process", .0.display())]
    InUse(PathBuf),
    /// The directory holds files, but none of a store: likely the wrong one.
    #[error("{} is not empty and holds no store", .0.display())]
    NotAStore(PathBuf),
    /// The target directory of a repair is not empty.
    #[error("{} is not empty: a store is repaired into a new directory", .0.display())]
    NotEmpty(PathBuf),
    /// A repair into the directory was stopped, so that the store in it is not whole.
    #[error("the repair into {} was not finished: run `vault-service repair` again, with the same `--to`", .0.display())]
    Unrepaired(PathBuf),
    /// `conf` is missing or damaged beside data: sled would guess its settings and lose most of it.
    #[error("the file `conf` of the store in {} is missing or damaged: {}", .0.display(), way_out!())]
    NoConf(PathBuf),
    /// The marker is gone from a store that had one: what must be there is not known.
    #[error("the file `marker` of the store in {} is missing: {}", .0.display(), way_out!())]
    NoMarker(PathBuf),
    /// The marker is not as it was written.
    #[error("the file `marker` of the store in {} is damaged: {}", .0.display(), way_out!())]
    BadMarker(PathBuf),
    /// The directory holds files that are not the store's, such as those of a newer copy of it.
    #[error(
        "the directory {} holds what does not belong to the store: {}; a copy of the store may have been put over another \
         one: move these out of the directory and start again",
        dir.display(), names.join(", ")
    )]
    Strays {
        /// The store's directory.
        dir: PathBuf,
        /// The names of the files in that directory.
        names: Vec<String>,
    },
    /// Another release made the store, or changed it.
    #[error("the store in {} has format {found}, which this release does not know: use the release that wrote it", dir.display())]
    OtherFormat {
        /// The store's directory.
        dir: PathBuf,
        /// What its marker says.
        found: u8,
    },
    /// The store opens as another, an older or a smaller one than was acknowledged.
    #[error("the store in {} is not what it was: {found}: {}", dir.display(), way_out!())]
    Disagrees {
        /// The store's directory.
        dir: PathBuf,
        /// What was found.
        found: Disagreement,
    },
    /// The system's clock is before 1970, at which the storage engine panics.
    #[error("the system's clock is before 1970: set it, and start again")]
    Clock,
    /// There is no room for what opening writes, or for the copy that a changed store is checked on.
    #[error("the disk is too full to open the store in {}: make room for {bytes} bytes", dir.display())]
    NoRoom {
        /// The store's directory.
        dir: PathBuf,
        /// What has to be free.
        bytes: u64,
    },
    /// Opening did not come to an end.
    #[error("opening the store in {} hangs: its disk does not answer, or it is damaged: {}", .0.display(), way_out!())]
    Hangs(PathBuf),
    /// The directory or a file cannot be made, read, or given its mode.
    #[error("cannot {doing} {}", path.display())]
    Files {
        /// The step, as a verb.
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// sled refused what it found, or the disk failed.
    #[error("the store in {} does not open: {}", dir.display(), way_out!())]
    Storage {
        /// The store's directory.
        dir: PathBuf,
        /// What failed.
        source: Fault,
    },
}

/// How a store is not what its marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Disagreement {
    /// No data at all.
    #[error("its data is gone")]
    NoData,
    /// The store has entries, although its marker says that no write was ever acknowledged.
    #[error("its marker says that it was never used, and it was")]
    Used,
    /// Not the entry that every store has.
    #[error("it opens without the entry that describes it")]
    Undescribed,
    /// The marker of another store.
    #[error("its marker is of another store")]
    AnotherStore,
    /// Groups are missing.
    #[error("it ends at generation {found}, and generation {expected} was acknowledged")]
    Older {
        /// What the marker says.
        expected: u64,
        /// What the store says.
        found: u64,
    },
    /// Entries are missing, or too many.
    #[error("it has {found} entries, and should have {expected}")]
    Entries {
        /// What the store says.
        expected: u64,
        /// What was counted, up to one more.
        found: u64,
    },
}

/// Why a batch was not acknowledged.
#[derive(Debug, Error)]
pub enum CommitError {
    /// A precondition did not hold; nothing changed.
    #[error("a precondition does not hold")]
    Conflict,
    /// A counter would have passed its limit; nothing changed.
    #[error("a counter would pass its limit")]
    LimitReached,
    /// A counter would leave the range of `u64`, or its bytes are no counter; nothing changed.
    #[error("a counter is out of range")]
    Counter,
    /// Somebody else has the store to itself; nothing changed.
    #[error("the store is held by another")]
    ExclusiveWriter,
    /// An entry or the batch is larger than the store takes; nothing changed.
    #[error("the batch is too large")]
    TooLarge,
    /// It names an entry that is the store's own; nothing changed.
    #[error("the batch names an entry of the store's own")]
    Reserved,
    /// What the batch is about cannot be read; nothing changed.
    #[error("an entry of the batch cannot be read")]
    Unreadable(#[source] Fault),
    /// The disk is about to be full; nothing changed, and commits work again once there is room.
    #[error("the disk is full")]
    Full,
    /// The write or its sync failed, and the store no longer acknowledges. The batch is not read until a restart, which
    /// finds all of it or nothing.
    #[error("the storage failed while the batch was written")]
    OutcomeUnknown(#[source] Arc<Fault>),
    /// The storage failed before: the store no longer acknowledges, and nothing changed.
    #[error("the storage failed")]
    Unavailable(#[source] Arc<Fault>),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Why an export did not come to its end. What it gave is of no use.
#[derive(Debug, Error)]
pub enum ExportError {
    /// There is one at a time.
    #[error("another export is under way")]
    UnderWay,
    /// More was changed than was read meanwhile, for too long.
    #[error("the store changes faster than the export is read")]
    Outpaced,
    /// Somebody has the store to itself, and has not finished.
    #[error("the store is held by another")]
    ExclusiveWriter,
    /// An entry cannot be read.
    #[error("an entry cannot be read")]
    Unreadable(#[from] Fault),
    /// The store failed or was closed.
    #[error("the store ended")]
    Ended(#[source] CommitError),
}
