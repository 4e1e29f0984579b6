//! The directory: made, locked, tightened, opened and synced.
//!
//! sled keeps `db` (the log), `conf` (the segment size), `snap.*` (an index, written at each open) and
//! `blobs/` (empty here); `lock` is ours.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    OpenError, caught,
    commit::{Fsync, Room},
};

const LOCK: &str = "lock";
const DB: &str = "db";
const CONF: &str = "conf";

/// Fixed when the store is made: sled refuses another. See `MAX_ENTRY` for why it is not the default.
const SEGMENT: usize = 8 * 1024 * 1024;

/// sled takes a `conf` of up to 8 bytes for none, and writes its own.
const CONF_NONE: u64 = 8;

/// How long sled's threads may keep `db` after the handle is gone: 2 s.
const RELEASE_TRIES: u32 = 200;
const RELEASE_PAUSE: Duration = Duration::from_millis(10);

/// Kept free. On a disk that is truly full sled refuses to read, too, whatever it does not cache, and
/// cannot be opened again. Two segments are more than a group writes.
const RESERVE: u64 = 16 * 1024 * 1024;

/// What the store runs on.
pub(super) struct Opened {
    pub(super) db: sled::Db,
    pub(super) lock: File,
    pub(super) fsync: Fsync,
    pub(super) room: Room,
}

pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Opened, OpenError> {
    make_dir(dir)?;
    // Before anything of sled's is touched: it writes `conf` even when the store is in use.
    let lock = lock(dir)?;
    await_release(dir)?;
    check_files(dir)?;
    let db = open_sled(dir, cache_bytes)?;
    tighten(dir)?;
    sync_files(dir)?;
    let fsync = fsync_of(&dir.join(DB))?;
    let room = room_beside(&lock, dir)?;
    Ok(Opened {
        db,
        lock,
        fsync,
        room,
    })
}

/// Whether sled has been here.
pub(super) fn exist(dir: &Path) -> bool {
    dir.join(DB).is_file()
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => sync(
            dir.parent()
                .filter(|parent| *parent != Path::new(""))
                .unwrap_or(Path::new(".")),
        )?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_foreign(dir)?,
        Err(error) => return Err(failed("create", dir)(error)),
    }
    set_mode(dir, 0o700)
}

/// A mistyped path must not have its mode changed and a store put into it.
fn refuse_foreign(dir: &Path) -> Result<(), OpenError> {
    let is_store = [LOCK, DB].iter().any(|name| dir.join(name).exists());
    if is_store || names(dir)?.is_empty() {
        Ok(())
    } else {
        Err(OpenError::NotAStore(dir.to_owned()))
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let file = file.map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

/// Refuses what sled would lose data over, and clears what would block it for ever.
fn check_files(dir: &Path) -> Result<(), OpenError> {
    if length(&dir.join(DB))? > 0 && length(&dir.join(CONF))? <= CONF_NONE {
        return Err(OpenError::NoConf(dir.to_owned()));
    }
    for path in names(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

/// We hold `lock`, so who still holds `db` are threads of a sled that was just dropped, or clones of a store that was
/// just closed, in this process.
fn await_release(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(DB);
    let db = match File::open(&path) {
        Ok(db) => db,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    for _ in 0..RELEASE_TRIES {
        match db.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(RELEASE_PAUSE),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
    }
    Err(OpenError::InUse(dir.to_owned()))
}

fn open_sled(dir: &Path, cache_bytes: u64) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new()
        .path(dir)
        .segment_size(SEGMENT)
        .cache_capacity(cache_bytes)
        // The commit thread flushes; a second flusher would only add a thread.
        .flush_every_ms(None);
    caught(|| config.open()).map_err(|source| OpenError::Storage {
        dir: dir.to_owned(),
        source,
    })
}

/// sled makes its files by the umask. They were out of reach meanwhile: `dir` is 0700.
fn tighten(dir: &Path) -> Result<(), OpenError> {
    for path in names(dir)? {
        set_mode(&path, if path.is_dir() { 0o700 } else { 0o600 })?;
    }
    Ok(())
}

/// Makes the files themselves durable: sled syncs neither `conf` nor a directory. At every open, since
/// each replaces `snap.*`.
fn sync_files(dir: &Path) -> Result<(), OpenError> {
    for path in names(dir)? {
        sync(&path)?;
    }
    sync(dir)
}

/// `fdatasync` suffices: it writes all that is needed to read the data back, the file's size too.
fn fsync_of(db: &Path) -> Result<Fsync, OpenError> {
    let file = File::options().write(true).open(db).map_err(failed("open", db))?;
    Ok(Box::new(move || file.sync_data()))
}

/// True while the disk has room for more than `RESERVE`, or does not say.
fn room_beside(lock: &File, dir: &Path) -> Result<Room, OpenError> {
    let file = lock.try_clone().map_err(failed("open", dir))?;
    Ok(Box::new(move || {
        rustix::fs::fstatvfs(&file).map_or(true, |disk| disk.f_bavail.saturating_mul(disk.f_frsize) > RESERVE)
    }))
}

fn sync(path: &Path) -> Result<(), OpenError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(failed("sync", path))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), OpenError> {
    let now = fs::metadata(path)
        .map_err(failed("read", path))?
        .permissions()
        .mode()
        & 0o7777;
    if now == mode {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

fn length(path: &Path) -> Result<u64, OpenError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn names(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed("list", dir)))
        .collect()
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Files { doing, path, source }
}
