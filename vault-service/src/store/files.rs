//! The directory: made, locked, tightened, opened and synced.
//!
//! sled keeps `db` (the log), `conf` (the segment size), `snap.*` (an index, written at each open) and
//! `blobs/` (empty here); `lock`, `marker` and `keys` are ours.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use super::{
    Fault, OpenError,
    commit::Fsync,
    guard,
    key_file::KeyFile,
    marker::{self, Files, Front, Keeper, Marker, State, Tally},
    panics::{Engine, caught},
    repairing,
    space::Space,
};

/// Locked by the process that has the store.
pub(super) const LOCK: &str = "lock";
/// sled's log: everything is in it.
pub(super) const DB: &str = "db";
/// What sled's settings were when the store was made.
pub(super) const CONF: &str = "conf";

/// Fixed when the store is made: sled refuses another. See `MAX_ENTRY` for why it is not the default.
pub(super) const SEGMENT: usize = 8 * 1024 * 1024;

/// How long sled's threads may keep `db` after the handle is gone: 2 s.
const RELEASE_TRIES: u32 = 200;
const RELEASE_PAUSE: Duration = Duration::from_millis(10);

/// What opening writes: a segment and some, and an index that is a small part of the log.
const OPENING: u64 = 12 * 1024 * 1024;
const INDEX: u64 = 64;

/// What the store runs on.
pub(super) struct Opened {
    pub(super) db: Engine,
    pub(super) lock: File,
    pub(super) fsync: Fsync,
    pub(super) space: Space,
    pub(super) keeper: Keeper,
    pub(super) key_file: KeyFile,
}

/// Creates the directory if it is missing, and locks it.
pub(super) fn claim(dir: &Path) -> Result<File, OpenError> {
    repairing::refuse(dir)?;
    check_clock(SystemTime::now())?;
    make_dir(dir)?;
    // Before anything of sled's is touched: it writes `conf` even when the store is in use.
    let lock = lock(dir)?;
    await_release(dir)?;
    Ok(lock)
}

/// Opens a new store that [`claim`] refuses until its repair ends.
pub(super) fn open_for_repair(dir: &Path, cache_bytes: u64) -> Result<Opened, OpenError> {
    repairing::refuse_other(dir)?;
    check_clock(SystemTime::now())?;
    create_dir(dir)?;
    repairing::begin(dir)?;
    let lock = lock(dir)?;
    await_release(dir)?;
    repairing::clear(dir)?;
    check_room(dir)?;
    let (db, tally) = make(dir, cache_bytes)?;
    finish(dir, lock, db, tally, &[])
}

/// Refuses a clock before 1970, at which sled panics.
fn check_clock(now: SystemTime) -> Result<(), OpenError> {
    match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(_) => Ok(()),
        Err(_) => Err(OpenError::Clock),
    }
}

/// Makes durable what opening has changed, and says in the marker that the store is open.
pub(super) fn finish(
    dir: &Path,
    lock: File,
    db: Engine,
    tally: Tally,
    front: &'static [&'static [u8]],
) -> Result<Opened, OpenError> {
    tighten(dir)?;
    let mut fsync = fsync_of(&dir.join(DB))?;
    describe(&db, tally, &mut fsync).map_err(storage(dir))?;
    let space = Space::beside(&lock, dir)?;
    sync_files(dir)?;
    let keeper = Keeper::start(dir, tally, guard::fixed_files(dir)?, front)?;
    Ok(Opened {
        db,
        lock,
        fsync,
        space,
        keeper,
        key_file: KeyFile::of(dir, tally.id),
    })
}

#[cfg(test)]
pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Opened, OpenError> {
    super::UnopenedStore::inspect(dir, cache_bytes, &[])?.open_files()
}

/// Whether sled has been here.
pub(super) fn exist(dir: &Path) -> bool {
    dir.join(DB).is_file()
}

/// An empty store. Its marker comes first, so that a crash on the way leaves what is known to hold nothing.
pub(super) fn make(dir: &Path, cache_bytes: u64) -> Result<(Engine, Tally), OpenError> {
    let tally = Tally::first(0).map_err(failed("name the store in", dir))?;
    let marker = Marker {
        tally,
        state: State::Making,
        files: Files::new(),
        front: Front::new(),
    };
    marker.write(dir)?;
    remove_sleds(dir)?;
    let db = open_sled(dir, cache_bytes).map_err(storage(dir))?;
    Ok((db, tally))
}

/// What an earlier attempt to make the store left: nothing in it was ever acknowledged.
fn remove_sleds(dir: &Path) -> Result<(), OpenError> {
    for path in names(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == DB || name == CONF || name.starts_with(guard::SNAPSHOT) {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

/// Has the store say what it is, if it does not yet.
fn describe(db: &sled::Db, tally: Tally, fsync: &mut Fsync) -> Result<(), Fault> {
    if caught(|| db.get(marker::KEY))?.is_none() {
        caught(|| db.insert(marker::KEY, tally.encode()))?;
        caught(|| db.flush())?;
        fsync()?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    match create_dir(dir)? {
        true => Ok(()),
        false => refuse_foreign(dir),
    }
}

/// Creates the directory if it is missing. Returns true when the directory is new.
fn create_dir(dir: &Path) -> Result<bool, OpenError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {
            let parent = dir.parent().filter(|parent| *parent != Path::new(""));
            sync(parent.unwrap_or(Path::new(".")))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("create", dir)(error)),
    }
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

pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
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

/// We hold `lock`, so who still holds `db` are threads of a sled that was just dropped, or clones of a store that was
/// just closed, in this process.
pub(super) fn await_release(dir: &Path) -> Result<(), OpenError> {
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

pub(super) fn open_sled(dir: &Path, cache_bytes: u64) -> Result<Engine, Fault> {
    let config = sled::Config::new()
        .path(dir)
        .segment_size(SEGMENT)
        .cache_capacity(cache_bytes)
        // The commit thread flushes; a second flusher would only add a thread.
        .flush_every_ms(None);
    Engine::open(&config)
}

/// sled makes its files by the umask. They were out of reach meanwhile: `dir` is 0700.
fn tighten(dir: &Path) -> Result<(), OpenError> {
    set_mode(dir, 0o700)?;
    for path in names(dir)? {
        set_mode(&path, if path.is_dir() { 0o700 } else { 0o600 })?;
    }
    Ok(())
}

/// Makes the files themselves durable: sled syncs neither `conf` nor a directory. At every open, since
/// each replaces `snap.*`.
pub(super) fn sync_files(dir: &Path) -> Result<(), OpenError> {
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

/// sled clears the rest of a segment and writes its index while it opens. On a disk too full for that it would leave
/// off in the middle.
pub(super) fn check_room(dir: &Path) -> Result<(), OpenError> {
    let bytes = OPENING.saturating_add(length(&dir.join(DB))? / INDEX);
    if has_room(dir, bytes)? {
        return Ok(());
    }
    Err(OpenError::NoRoom {
        dir: dir.to_owned(),
        bytes,
    })
}

/// Whether the disk of `dir` has room for `bytes` more, or does not say.
pub(super) fn has_room(dir: &Path, bytes: u64) -> Result<bool, OpenError> {
    let dir = File::open(dir).map_err(failed("open", dir))?;
    Ok(free(&dir).is_none_or(|free| free > bytes))
}

/// Returns the number of free bytes on the file system of `file`; `None` when the file system does not report it.
pub(super) fn free(file: &File) -> Option<u64> {
    let disk = rustix::fs::fstatvfs(file).ok()?;
    free_of(disk.f_blocks, disk.f_bavail, disk.f_frsize)
}

/// Returns `None` for file systems that report 0 for every size, as some FUSE file systems do.
fn free_of(blocks: u64, available: u64, block_size: u64) -> Option<u64> {
    (blocks > 0 && block_size > 0).then(|| available.saturating_mul(block_size))
}

pub(super) fn sync(path: &Path) -> Result<(), OpenError> {
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

pub(super) fn length(path: &Path) -> Result<u64, OpenError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(failed("read", path)(error)),
    }
}

pub(super) fn names(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed("list", dir)))
        .collect()
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Files { doing, path, source }
}

pub(super) fn storage(dir: &Path) -> impl FnOnce(Fault) -> OpenError {
    let dir = dir.to_owned();
    move |source| OpenError::Storage { dir, source }
}

/// Reads a file whole. Anything but a regular file is an error: opening a pipe would wait for a writer.
pub(super) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_1970_is_named_as_the_cause() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert!(matches!(check_clock(before), Err(OpenError::Clock)));
        assert!(check_clock(SystemTime::UNIX_EPOCH).is_ok());
    }

    #[test]
    fn a_file_system_that_tells_no_size_is_not_a_full_one() {
        assert_eq!(free_of(0, 0, 4096), None);
        assert_eq!(free_of(0, 0, 0), None);
        assert_eq!(free_of(100, 0, 4096), Some(0));
        assert_eq!(free_of(100, 3, 4096), Some(12_288));
        assert_eq!(free_of(u64::MAX, u64::MAX, 4096), Some(u64::MAX));
    }
}
