//! Helpers for files and directories.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::error::StoreOpenError;

type Result<T> = std::result::Result<T, StoreOpenError>;

/// Lists the paths of a directory's entries.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(StoreOpenError::files("list", dir))?;
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.path())
                .map_err(StoreOpenError::files("list", dir))
        })
        .collect()
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Returns the length of a file in bytes; 0 when the file does not exist.
pub(super) fn length(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(StoreOpenError::files("read", path)(error)),
    }
}

/// Reads a whole file. Refuses everything but a regular file, because opening a pipe would wait for a writer.
pub(super) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file of mode 0600, replacing an existing one, and syncs the file but not its directory.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(StoreOpenError::files("sync", path))
}

/// Syncs a directory and the files in it.
pub(super) fn sync_all(dir: &Path) -> Result<()> {
    for path in list(dir)? {
        sync(&path)?;
    }
    sync(dir)
}

/// Creates the directory if it is missing. Returns true when the directory is new. The parent has to exist: a store below a
/// mount point that is not mounted would be a new, empty store on another disk.
pub(super) fn create_dir(dir: &Path) -> Result<bool> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {
            let parent = dir.parent().filter(|parent| *parent != Path::new(""));
            sync(parent.unwrap_or(Path::new(".")))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(StoreOpenError::NoParent(dir.to_owned()))
        }
        Err(error) => Err(StoreOpenError::files("create", dir)(error)),
    }
}

pub(super) fn remove_file_if_exists(path: &Path) -> Result<()> {
    remove_if_exists(path, fs::remove_file(path))
}

pub(super) fn remove_dir_if_exists(path: &Path) -> Result<()> {
    remove_if_exists(path, fs::remove_dir_all(path))
}

fn remove_if_exists(path: &Path, removed: io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreOpenError::files("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Takes all access to a directory and its files from everyone but the owner.
pub(super) fn make_private(dir: &Path) -> Result<()> {
    set_mode(dir, 0o700)?;
    for path in list(dir)? {
        set_mode(&path, if path.is_dir() { 0o700 } else { 0o600 })?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let metadata = fs::metadata(path).map_err(StoreOpenError::files("read", path))?;
    if metadata.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(StoreOpenError::files("set the mode of", path))
}

/// Returns true when the file system of `dir` has more than `bytes` free bytes, or does not report the number.
pub(super) fn has_room(dir: &Path, bytes: u64) -> Result<bool> {
    let dir = File::open(dir).map_err(StoreOpenError::files("open", dir))?;
    Ok(free_bytes(&dir).is_none_or(|free| free > bytes))
}

/// Returns the number of free bytes on the file system of `file`; `None` when the file system does not report it.
pub(super) fn free_bytes(file: &File) -> Option<u64> {
    let disk = rustix::fs::fstatvfs(file).ok()?;
    free_bytes_of(disk.f_blocks, disk.f_bavail, disk.f_frsize)
}

/// Returns `None` for file systems that report 0 for every size, as some FUSE file systems do.
fn free_bytes_of(blocks: u64, available: u64, block_size: u64) -> Option<u64> {
    (blocks > 0 && block_size > 0).then(|| available.saturating_mul(block_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_reports_no_size_does_not_count_as_full() {
        assert_eq!(free_bytes_of(0, 0, 4096), None);
        assert_eq!(free_bytes_of(0, 0, 0), None);
        assert_eq!(free_bytes_of(100, 0, 4096), Some(0));
        assert_eq!(free_bytes_of(100, 3, 4096), Some(12_288));
        assert_eq!(free_bytes_of(u64::MAX, u64::MAX, 4096), Some(u64::MAX));
    }
}
