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

/// Why the store did not open. Nothing was written if it was in use or is not a store.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("the store in {} is already open in another process", .0.display())]
    InUse(PathBuf),
    /// The directory holds files, but none of a store: likely the wrong one.
    #[error("{} is not empty and holds no store", .0.display())]
    NotAStore(PathBuf),
    /// `conf` is missing or empty beside data: sled would guess its settings and lose most of it.
    #[error("the store in {} has lost its file `conf`: restore a backup", .0.display())]
    NoConf(PathBuf),
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
    #[error("cannot open the store in {}", dir.display())]
    Storage {
        /// The store's directory.
        dir: PathBuf,
        /// What failed.
        source: Fault,
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
    Held,
    /// An entry or the batch is larger than the store takes; nothing changed.
    #[error("the batch is too large")]
    TooLarge,
    /// What the batch is about cannot be read; nothing changed.
    #[error("an entry of the batch cannot be read")]
    Unreadable(#[source] Fault),
    /// The disk is full. If it was caught in time, nothing changed and commits work again once there is
    /// room; if a write ran into it, the store no longer acknowledges.
    #[error("the disk is full")]
    Full(#[source] Arc<Fault>),
    /// The storage failed: the store no longer acknowledges.
    #[error("the storage failed")]
    Unavailable(#[source] Arc<Fault>),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl CommitError {
    pub(super) fn no_room() -> Self {
        Self::Full(Arc::new(Fault::Full(io::ErrorKind::StorageFull.into())))
    }

    pub(super) fn stopped(fault: &Arc<Fault>) -> Self {
        let source = Arc::clone(fault);
        match **fault {
            Fault::Full(_) => Self::Full(source),
            Fault::Io(_) | Fault::Damaged(_) | Fault::Panicked => Self::Unavailable(source),
        }
    }
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
    Held,
    /// An entry cannot be read.
    #[error("an entry cannot be read")]
    Unreadable(#[from] Fault),
    /// The store failed or was closed.
    #[error("the store ended")]
    Ended(#[source] CommitError),
}
