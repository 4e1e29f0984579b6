//! Disk space: refusal of growth on a disk that is almost full, and a reserve for deletes.
//!
//! sled writes even a delete to its log, and fails altogether on a disk that is completely full. So changes that make the
//! store larger are refused while less than [`MIN_FREE`] is free, and deletes go on. A file of [`RESERVE`] bytes is kept for
//! them beside the log: when even deletes run short of space, the file is emptied, and it is filled again when there is
//! ample room. On a file system that cannot allocate space in advance, deletes have only the rest of [`MIN_FREE`].

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
    error::StoreOpenError,
    fs::{free_bytes, length, list},
};

pub(super) const RESERVE_FILE: &str = "reserve";
/// Number of bytes that growing changes must leave free. On a disk that is completely full, sled also fails to read
/// uncached data, and cannot be opened again. These two segments are more than a group writes.
pub(super) const MIN_FREE: u64 = 16 * 1024 * 1024;
/// Number of bytes that deletes must leave free.
const MIN_FREE_FOR_DELETES: u64 = MIN_FREE / 2;
/// Size of the reserve, in bytes.
const RESERVE: u64 = 16 * 1024 * 1024;
/// Number of bytes that must be free beyond [`MIN_FREE`] and [`RESERVE`] before the reserve is allocated, so that the
/// reserve itself does not fill the disk.
const AMPLE: u64 = 8 * 1024 * 1024;
/// Interval between checks for free room after a refused change.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Function that returns the number of free bytes, if the file system reports it. Tests replace the function to
/// simulate a full disk.
pub(super) type FreeBytes = Box<dyn Fn() -> Option<u64> + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of the store's files, the reserve for deletes included.
    pub bytes: u64,
    /// Free bytes of the file system; `None` when the file system does not report the number.
    pub free: Option<u64>,
}

pub(super) struct DiskSpace {
    pub(super) free_bytes: FreeBytes,
    path: PathBuf,
    reserve: Mutex<Reserve>,
    /// True when a change was refused since the disk last had room.
    refused: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    Held,
    /// The reserve was emptied, or the disk never had room for it.
    Empty,
    /// The file system cannot allocate in advance.
    Unsupported,
}

impl DiskSpace {
    /// Returns the disk space of the store in `dir`. `lock` is a file in `dir`, which identifies the file system.
    pub(super) fn of(dir: &Path, lock: &File) -> Result<Self, StoreOpenError> {
        let file = lock.try_clone().map_err(StoreOpenError::files("open", dir))?;
        let path = dir.join(RESERVE_FILE);
        let reserve = match fs::metadata(&path) {
            Ok(found) if found.len() == RESERVE => Reserve::Held,
            Ok(_) | Err(_) => Reserve::Empty,
        };
        let space = Self {
            free_bytes: Box::new(move || free_bytes(&file)),
            path,
            reserve: Mutex::new(reserve),
            refused: AtomicBool::new(false),
        };
        space.hold_reserve();
        Ok(space)
    }

    /// Returns true when the disk has room for changes that make the store larger.
    pub(super) fn has_room_for_growth(&self) -> bool {
        let min_free = match *self.reserve() {
            Reserve::Held | Reserve::Unsupported => MIN_FREE,
            Reserve::Empty => MIN_FREE + RESERVE,
        };
        let has_room = self.has_more_than(min_free);
        if !has_room {
            self.refused.store(true, Ordering::Relaxed);
        }
        has_room
    }

    /// Returns true when the disk has room for changes that make the store smaller. Empties the reserve if necessary.
    pub(super) fn has_room_for_deletes(&self) -> bool {
        if self.has_more_than(MIN_FREE_FOR_DELETES) {
            return true;
        }
        self.empty_reserve();
        self.has_more_than(MIN_FREE_FOR_DELETES)
    }

    /// Allocates the reserve again when the disk has ample room.
    pub(super) fn hold_reserve(&self) {
        let mut reserve = self.reserve();
        if *reserve != Reserve::Empty || !self.has_more_than(MIN_FREE + RESERVE + AMPLE) {
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
    pub(super) fn usage(&self) -> Result<DiskUsage, StoreOpenError> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let lengths = list(dir)?.into_iter().map(|path| length(&path));
        Ok(DiskUsage {
            bytes: lengths.sum::<Result<_, _>>()?,
            free: (self.free_bytes)(),
        })
    }

    /// Waits until a change was refused for lack of room and such changes would succeed again.
    pub(super) async fn wait_for_room(&self) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if self.refused.load(Ordering::Relaxed) && self.has_room_for_growth() {
                self.refused.store(false, Ordering::Relaxed);
                return;
            }
        }
    }

    fn has_more_than(&self, bytes: u64) -> bool {
        (self.free_bytes)().is_none_or(|free| free > bytes)
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
            // A partly allocated reserve is useless, so its space is returned to the file system.
            file.set_len(0)?;
        }
        Ok(allocated?)
    }

    fn empty_reserve(&self) {
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
                *reserve = Reserve::Empty;
            }
            Err(error) => tracing::warn!(%error, "the space that was kept for deletes cannot be used"),
        }
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
