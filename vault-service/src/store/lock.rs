//! Locks that keep two processes, or two stores of one process, out of one directory.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::Duration,
};

use super::{error::StoreOpenError, sled_files::DB};

/// Name of the file that the process with the store keeps locked.
pub(super) const LOCK: &str = "lock";

/// Number of tries, and pause between two, to lock a `db` that sled's threads may keep for a moment: 2 s in all.
const RELEASE_TRIES: u32 = 200;
const RELEASE_PAUSE: Duration = Duration::from_millis(10);

/// Locks the directory. A caller does so before sled opens it, because sled writes `conf` even when the store is in use.
pub(super) fn lock(dir: &Path) -> Result<File, StoreOpenError> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(StoreOpenError::files("open", &path))?;
    try_lock(dir, &path, &file)?;
    Ok(file)
}

/// Locks the existing ones of a store's lockable files, without creating any.
pub(super) fn lock_existing(dir: &Path) -> Result<Vec<File>, StoreOpenError> {
    let mut locks = Vec::new();
    for path in [dir.join(LOCK), dir.join(DB)] {
        if path.exists() {
            let file = File::open(&path).map_err(StoreOpenError::files("open", &path))?;
            try_lock(dir, &path, &file)?;
            locks.push(file);
        }
    }
    Ok(locks)
}

fn try_lock(dir: &Path, path: &Path, file: &File) -> Result<(), StoreOpenError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StoreOpenError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(StoreOpenError::files("lock", path)(error)),
    }
}

/// Waits until sled has released `db`. The caller holds [`lock`], so only this process can still have `db` open: threads
/// of a sled that was just dropped, or clones of a store that was just closed.
pub(super) fn wait_for_release(dir: &Path) -> Result<(), StoreOpenError> {
    let path = dir.join(DB);
    let db = match File::open(&path) {
        Ok(db) => db,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreOpenError::files("open", &path)(error)),
    };
    for _ in 0..RELEASE_TRIES {
        match db.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(RELEASE_PAUSE),
            Err(TryLockError::Error(error)) => return Err(StoreOpenError::files("lock", &path)(error)),
        }
    }
    Err(StoreOpenError::InUse(dir.to_owned()))
}
