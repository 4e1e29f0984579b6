//! The file that keeps a vault from serving a store of which a repair has written only a part.
//!
//! A repair creates the file before anything else of the store, and removes the file when the whole store is on the
//! disk. The name explains the state to a person who lists the directory, and the text says what to do.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::{
    OpenError,
    files::{LOCK, failed, names, sync},
};

/// The file's name.
pub(super) const FILE: &str = "repairing";
const TEXT: &str = "The repair into this directory was not finished. Run it again, with the same --to:\n\
    vault-service repair --data-dir OLD_DIR --to THIS_DIR\n";

/// Refuses a store whose repair is not finished.
pub(super) fn refuse(dir: &Path) -> Result<(), OpenError> {
    match is_under_way(dir)? {
        true => Err(OpenError::Unrepaired(dir.to_owned())),
        false => Ok(()),
    }
}

/// Refuses a directory that is neither new or empty nor left by an unfinished repair.
pub(super) fn refuse_other(dir: &Path) -> Result<(), OpenError> {
    let is_new = !dir.exists() || names(dir)?.is_empty();
    match is_new || is_under_way(dir)? {
        true => Ok(()),
        false => Err(OpenError::NotEmpty(dir.to_owned())),
    }
}

fn is_under_way(dir: &Path) -> Result<bool, OpenError> {
    let path = dir.join(FILE);
    path.try_exists().map_err(failed("look for", &path))
}

/// Writes the file, so that no vault opens a store in `dir`.
pub(super) fn begin(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(FILE);
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("create", &path))?;
    file.write_all(TEXT.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &path))?;
    sync(dir)
}

/// Removes the files that an earlier repair left.
pub(super) fn clear(dir: &Path) -> Result<(), OpenError> {
    for path in names(dir)? {
        if path.ends_with(FILE) || path.ends_with(LOCK) {
            continue;
        }
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.map_err(failed("remove", &path))?;
    }
    Ok(())
}

/// Removes the file, once the whole store is on the disk.
pub(super) fn end(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
        Ok(()) | Err(_) => sync(dir),
    }
}
