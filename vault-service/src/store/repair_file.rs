//! The file `repairing`, which marks a store that a repair has not completed.
//!
//! A repair creates the file before any other file of the new store, and removes it when the whole store is on the disk.
//! The name explains the state to a person who lists the directory, and the text says what to do.

use std::{fs, path::Path};

use super::{
    error::StoreOpenError,
    fs::{list, remove_file_if_exists, sync, write_synced},
    lock::LOCK,
};

const REPAIRING: &str = "repairing";
const TEXT: &str = "The repair into this directory was not finished. Run it again, with the same --to:\n\
    vault-service repair --data-dir OLD_DIR --to THIS_DIR\n";

/// Refuses a store whose repair is not finished.
pub(super) fn refuse_unfinished_repair(dir: &Path) -> Result<(), StoreOpenError> {
    match exists(dir)? {
        true => Err(StoreOpenError::UnfinishedRepair(dir.to_owned())),
        false => Ok(()),
    }
}

/// Refuses a directory that is neither missing nor empty nor left by an unfinished repair.
pub(super) fn refuse_used_dir(dir: &Path) -> Result<(), StoreOpenError> {
    let is_new = !dir.exists() || list(dir)?.is_empty();
    match is_new || exists(dir)? {
        true => Ok(()),
        false => Err(StoreOpenError::NotEmpty(dir.to_owned())),
    }
}

fn exists(dir: &Path) -> Result<bool, StoreOpenError> {
    let path = dir.join(REPAIRING);
    path.try_exists()
        .map_err(StoreOpenError::files("look for", &path))
}

/// Creates the file, which keeps vaults from opening a store in `dir`.
pub(super) fn create(dir: &Path) -> Result<(), StoreOpenError> {
    let path = dir.join(REPAIRING);
    write_synced(&path, TEXT.as_bytes()).map_err(StoreOpenError::files("write", &path))?;
    sync(dir)
}

/// Removes the files of an unfinished repair, but neither `repairing` nor the lock.
pub(super) fn clear_dir(dir: &Path) -> Result<(), StoreOpenError> {
    for path in list(dir)? {
        if path.ends_with(REPAIRING) || path.ends_with(LOCK) {
            continue;
        }
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.map_err(StoreOpenError::files("remove", &path))?;
    }
    Ok(())
}

/// Removes the file, once the whole store is on the disk.
pub(super) fn remove(dir: &Path) -> Result<(), StoreOpenError> {
    remove_file_if_exists(&dir.join(REPAIRING))?;
    sync(dir)
}
