//! Room on the disk: for changes that make the store larger, and a reserve for those that make it smaller.
//!
//! sled writes even a delete to its log, and on a disk that is truly full it gives up altogether. So changes that make
//! the store larger are refused while less than [`LEAST`] is free. Deletes go on: for them a file of [`RESERVE`] is kept
//! beside the log, whose space is given back to the file system when even deletes run short. It is taken again when there
//! is ample room. Where the file system cannot allocate space in advance, deletes only have what is left of [`LEAST`].

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate};

use super::{
    OpenError,
    files::{failed, free, length, names},
};

/// The file's name.
pub(super) const FILE: &str = "reserve";
/// Number of bytes that growing changes must leave free. On a disk that is completely full, sled also fails to read
/// uncached data, and cannot be opened again. Two segments are more than a group writes.
pub(super) const LEAST: u64 = 16 * 1024 * 1024;
/// Number of bytes that deletes must leave free.
const LEAST_FOR_DELETES: u64 = LEAST / 2;
/// The size of the file.
const RESERVE: u64 = 16 * 1024 * 1024;
/// Number of bytes that must be free beyond [`LEAST`] and [`RESERVE`] before the reserve is allocated, so that the
/// reserve itself does not fill the disk.
const AMPLE: u64 = 8 * 1024 * 1024;
/// Interval between checks for free room after a refused change.
const AGAIN: Duration = Duration::from_secs(1);

/// Function that returns the number of free bytes, if the file system reports it. Tests replace the function to
/// simulate a full disk.
pub(super) type Free = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// Disk space of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of the store's files, the reserve for deletes included.
    pub bytes: u64,
    /// Free bytes of the file system; `None` when the file system does not report the number.
    pub free: Option<u64>,
}

pub(super) struct Space {
    pub(super) free: Free,
    path: PathBuf,
    reserve: Mutex<Reserve>,
    /// True when a change was refused since the disk last had room.
    refused: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    Held,
    /// The reserve was given back, or the disk never had room for it.
    Given,
    /// The file system cannot allocate in advance.
    Unsupported,
}

impl Space {
    /// Watches the disk of `dir`, the directory of the file `lock`.
    pub(super) fn beside(lock: &File, dir: &Path) -> Result<Self, OpenError> {
        let file = lock.try_clone().map_err(failed("open", dir))?;
        let path = dir.join(FILE);
        let reserve = match fs::metadata(&path) {
            Ok(found) if found.len() == RESERVE => Reserve::Held,
            Ok(_) | Err(_) => Reserve::Given,
        };
        let space = Self {
            free: Box::new(move || free(&file)),
            path,
            reserve: Mutex::new(reserve),
            refused: AtomicBool::new(false),
        };
        space.hold();
        Ok(space)
    }

    /// Returns true when the disk has room for changes that make the store larger.
    pub(super) fn for_growth(&self) -> bool {
        let least = match *self.reserve() {
            Reserve::Held | Reserve::Unsupported => LEAST,
            Reserve::Given => LEAST + RESERVE,
        };
        let there_is = self.more_than(least);
        if !there_is {
            self.refused.store(true, Ordering::Relaxed);
        }
        there_is
    }

    /// Returns true when the disk has room for changes that make the store smaller. Gives the reserve back if
    /// necessary.
    pub(super) fn for_deletes(&self) -> bool {
        if self.more_than(LEAST_FOR_DELETES) {
            return true;
        }
        self.give_back();
        self.more_than(LEAST_FOR_DELETES)
    }

    /// Allocates the reserve again when the disk has ample room.
    pub(super) fn hold(&self) {
        let mut reserve = self.reserve();
        if *reserve != Reserve::Given || !self.more_than(LEAST + RESERVE + AMPLE) {
            return;
        }
        *reserve = match self.allocate() {
            Ok(()) => Reserve::Held,
            Err(error) => {
                tracing::debug!(%error, "no space can be kept for deletes");
                Reserve::Unsupported
            }
        };
    }

    /// Returns the size of the store's files and the free space of their file system.
    pub(super) fn usage(&self) -> Result<DiskUsage, OpenError> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let lengths = names(dir)?.into_iter().map(|path| length(&path));
        Ok(DiskUsage {
            bytes: lengths.sum::<Result<_, _>>()?,
            free: (self.free)(),
        })
    }

    /// Waits until a change was refused for lack of room and such changes would succeed again.
    pub(super) async fn again(&self) {
        loop {
            tokio::time::sleep(AGAIN).await;
            if self.refused.load(Ordering::Relaxed) && self.for_growth() {
                self.refused.store(false, Ordering::Relaxed);
                return;
            }
        }
    }

    fn more_than(&self, bytes: u64) -> bool {
        (self.free)().is_none_or(|free| free > bytes)
    }

    fn allocate(&self) -> io::Result<()> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&self.path)?;
        let allocated = fallocate(&file, FallocateFlags::empty(), 0, RESERVE);
        if allocated.is_err() {
            // A partly allocated reserve is useless, and its space is given back.
            file.set_len(0)?;
        }
        Ok(allocated?)
    }

    fn give_back(&self) {
        let mut reserve = self.reserve();
        if *reserve != Reserve::Held {
            return;
        }
        let emptied = File::options()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.set_len(0));
        match emptied {
            Ok(()) => {
                tracing::warn!("the disk is full; the space that was kept for deletes is used");
                *reserve = Reserve::Given;
            }
            Err(error) => tracing::warn!(%error, "the space that was kept for deletes cannot be used"),
        }
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
