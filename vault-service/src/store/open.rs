//! Opening and creating the files of a store.

use std::{
    fs::{self, File},
    path::Path,
    time::SystemTime,
};

use super::{
    Fault,
    checkpoint::{CHECKPOINT_KEY, Checkpoint},
    disk_space::DiskSpace,
    engine::{Engine, Fdatasync, caught},
    error::StoreOpenError,
    fs::{create_dir, has_room, length, list, make_private, name_of, sync_all},
    inventory::fixed_files,
    key_file::KeyFile,
    lock::{LOCK, lock, wait_for_release},
    marker::{FileSums, Marker, MarkerState, MarkerWriter, PreviewEntries},
    repair_file,
    sled_files::{DB, is_of_creation},
};

/// Bytes that an open writes: somewhat more than a segment, and a snapshot of at most `1 / SNAPSHOT_SHARE` of the log.
const OPEN_BYTES: u64 = 12 * 1024 * 1024;
const SNAPSHOT_SHARE: u64 = 64;

/// The open files of a store, before the commit thread starts.
pub(super) struct OpenedStore {
    pub(super) db: Engine,
    pub(super) lock: File,
    pub(super) fdatasync: Fdatasync,
    pub(super) disk_space: DiskSpace,
    pub(super) marker: MarkerWriter,
    pub(super) key_file: KeyFile,
}

/// Returns true when sled has files in `dir`.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(DB).is_file()
}

/// Creates the directory if it is missing, and locks it.
pub(super) fn claim(dir: &Path) -> Result<File, StoreOpenError> {
    repair_file::refuse_unfinished_repair(dir)?;
    check_clock(SystemTime::now())?;
    if !create_dir(dir)? {
        refuse_other_files(dir)?;
    }
    let lock = lock(dir)?;
    wait_for_release(dir)?;
    Ok(lock)
}

/// Opens a new store that [`claim`] refuses until its repair ends.
pub(super) fn open_for_repair(dir: &Path, cache_bytes: u64) -> Result<OpenedStore, StoreOpenError> {
    repair_file::refuse_used_dir(dir)?;
    check_clock(SystemTime::now())?;
    create_dir(dir)?;
    repair_file::create(dir)?;
    let lock = lock(dir)?;
    wait_for_release(dir)?;
    repair_file::clear_dir(dir)?;
    check_room(dir)?;
    let (db, checkpoint) = create(dir, cache_bytes)?;
    finish(dir, lock, db, checkpoint, &[])
}

/// Refuses a clock before 1970, which makes sled panic.
fn check_clock(now: SystemTime) -> Result<(), StoreOpenError> {
    match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(_) => Ok(()),
        Err(_) => Err(StoreOpenError::Clock),
    }
}

/// Refuses a directory with files but without a store, so that a mistyped path does not get a store and another mode.
fn refuse_other_files(dir: &Path) -> Result<(), StoreOpenError> {
    let is_store = [LOCK, DB].iter().any(|name| dir.join(name).exists());
    if is_store || list(dir)?.is_empty() {
        Ok(())
    } else {
        Err(StoreOpenError::NotAStore(dir.to_owned()))
    }
}

/// Checks that the disk has room for the writes of sled's open. On a full disk sled would stop halfway.
pub(super) fn check_room(dir: &Path) -> Result<(), StoreOpenError> {
    let bytes = OPEN_BYTES.saturating_add(length(&dir.join(DB))? / SNAPSHOT_SHARE);
    match has_room(dir, bytes)? {
        true => Ok(()),
        false => Err(StoreOpenError::NoRoom {
            dir: dir.to_owned(),
            bytes,
        }),
    }
}

/// Creates an empty store. The marker is written first, so that after a crash the store is known to be empty.
pub(super) fn create(dir: &Path, cache_bytes: u64) -> Result<(Engine, Checkpoint), StoreOpenError> {
    let checkpoint = Checkpoint::of_new_store().map_err(StoreOpenError::files("name the store in", dir))?;
    let marker = Marker {
        checkpoint,
        state: MarkerState::Creating,
        files: FileSums::new(),
        preview: PreviewEntries::new(),
    };
    marker.write(dir)?;
    remove_interrupted_creation(dir)?;
    let db = Engine::open(dir, cache_bytes).map_err(StoreOpenError::storage(dir))?;
    Ok((db, checkpoint))
}

/// Removes sled's files of an interrupted creation, in which nothing was acknowledged.
fn remove_interrupted_creation(dir: &Path) -> Result<(), StoreOpenError> {
    for path in list(dir)? {
        if is_of_creation(&name_of(&path)) {
            fs::remove_file(&path).map_err(StoreOpenError::files("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes the changes of sled's open durable, and writes the marker of an open store.
///
/// sled creates its files with the umask's mode, and syncs neither `conf` nor the directory. Each open replaces the
/// snapshot, so these steps are necessary at every open.
pub(super) fn finish(
    dir: &Path,
    lock: File,
    db: Engine,
    checkpoint: Checkpoint,
    preview_keys: &'static [&'static [u8]],
) -> Result<OpenedStore, StoreOpenError> {
    make_private(dir)?;
    let mut fdatasync = fdatasync_of(&dir.join(DB))?;
    write_first_checkpoint(&db, checkpoint, &mut fdatasync).map_err(StoreOpenError::storage(dir))?;
    let disk_space = DiskSpace::of(dir, &lock)?;
    sync_all(dir)?;
    let marker = MarkerWriter::start(dir, checkpoint, fixed_files(dir)?, preview_keys)?;
    Ok(OpenedStore {
        db,
        lock,
        fdatasync,
        disk_space,
        marker,
        key_file: KeyFile::new(dir, checkpoint.id),
    })
}

/// Writes the checkpoint of a new store; does nothing when the store has one.
fn write_first_checkpoint(
    db: &sled::Db,
    checkpoint: Checkpoint,
    fdatasync: &mut Fdatasync,
) -> Result<(), Fault> {
    if caught(|| db.get(CHECKPOINT_KEY))?.is_none() {
        caught(|| db.insert(CHECKPOINT_KEY, checkpoint.encode()))?;
        caught(|| db.flush())?;
        fdatasync()?;
    }
    Ok(())
}

/// Returns the function that syncs `db`. `fdatasync` suffices, because it also writes the metadata that is needed to read
/// the data back, such as the file's size.
fn fdatasync_of(db: &Path) -> Result<Fdatasync, StoreOpenError> {
    let file = File::options()
        .write(true)
        .open(db)
        .map_err(StoreOpenError::files("open", db))?;
    Ok(Box::new(move || file.sync_data()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_before_1970_is_refused() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert!(matches!(check_clock(before), Err(StoreOpenError::Clock)));
        assert!(check_clock(SystemTime::UNIX_EPOCH).is_ok());
    }
}
