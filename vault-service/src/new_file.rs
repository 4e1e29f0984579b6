//! Files that appear complete or not at all, are readable for their owner only, and replace no other file.
//!
//! The file is written under a temporary name in the same directory, synced and renamed, and then the directory is
//! synced. The temporary name of a path is always the same, and the writing process locks it, so the next process can
//! remove the temporary file of a killed one.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

/// Number of attempts to claim a temporary name that other processes keep using and leaving.
const ATTEMPTS: usize = 16;

/// A file that is being written. [`NewFile::publish`] gives it its name; a file that is dropped before is removed.
pub struct NewFile {
    file: File,
    path: PathBuf,
    /// The temporary name; empty once the file has its own name.
    partial: PathBuf,
}

/// Returns the temporary name of the file at `path`, which the file has while it is being written.
pub fn partial(path: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::IsADirectory)?);
    name.push(".partial");
    Ok(path.with_file_name(name))
}

/// Replaces the content of the file at `path` with `bytes`. After a crash the file has either the old content or the
/// new one.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = NewFile::begin(path)?;
    file.write_all(bytes)?;
    file.rename_with(|from, to| fs::rename(from, to))
}

impl NewFile {
    /// Begins a file that will be at `path`. Fails when `path` exists.
    pub fn create(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(exists_already());
        }
        Self::begin(path)
    }

    fn begin(path: &Path) -> io::Result<Self> {
        let partial = partial(path)?;
        let file = claim(&partial).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_directory(path),
            _ => error,
        })?;
        Ok(Self {
            file,
            path: path.to_owned(),
            partial,
        })
    }

    /// Makes the file durable, and then gives it its name. Fails when a file of this name exists.
    pub fn publish(self) -> io::Result<()> {
        self.rename_with(rename)
    }

    fn rename_with(mut self, rename: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
        self.file.sync_all()?;
        rename(&self.partial, &self.path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists_already(),
            _ => error,
        })?;
        self.partial = PathBuf::new();
        File::open(parent(&self.path))?.sync_all()
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        Some(_) | None => Path::new("."),
    }
}

fn exists_already() -> io::Error {
    let message = "the file exists already, and is not replaced; give another name";
    io::Error::new(io::ErrorKind::AlreadyExists, message)
}

fn no_directory(path: &Path) -> io::Error {
    let message = format!(
        "the directory {} does not exist; make it first",
        parent(path).display()
    );
    io::Error::new(io::ErrorKind::NotFound, message)
}

/// Creates and locks a new file at `path`. An existing file that no process has locked was left by a killed process,
/// and is removed.
fn claim(path: &Path) -> io::Result<File> {
    let busy = || {
        io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process is writing this file",
        )
    };
    for _ in 0..ATTEMPTS {
        let made = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match made {
            Ok(file) => {
                if lock(&file)? && is_at(&file, path)? {
                    return Ok(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let Some(left) = open(path)? else { continue };
                if !lock(&left)? {
                    return Err(busy());
                }
                if is_at(&left, path)? {
                    fs::remove_file(path)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(busy())
}

/// Opens the file at `path` if it exists, without following a symlink or blocking on a pipe.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Returns true when `path` still names `file`; another process may have removed `file` before it was locked.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let file = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (file.dev(), file.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.partial != Path::new("") {
            // The incomplete file is useless, and the next process removes it if this fails.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Renames a file, and fails when `to` exists. NFS has no such rename, but has hard links.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_published_and_is_removed_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup");
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        assert!(!path.exists());
        drop(file);
        assert!(names(dir.path()).is_empty());

        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        file.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(dir.path()), ["backup"]);
    }

    #[test]
    fn a_new_file_replaces_no_existing_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup");
        let exists = |done: io::Result<()>| done.unwrap_err().kind() == io::ErrorKind::AlreadyExists;
        let file = NewFile::create(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        assert!(exists(NewFile::create(&path).map(drop)));
        assert!(exists(file.publish()));
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        assert_eq!(names(dir.path()), ["backup"]);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(exists(NewFile::create(&link).map(drop)));
    }

    #[test]
    fn an_error_of_a_new_file_names_the_missing_directory_or_says_that_the_file_exists() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let error = NewFile::create(&missing.join("backup")).map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            format!(
                "the directory {} does not exist; make it first",
                missing.display()
            )
        );
        let error = NewFile::create(dir.path()).map(drop).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the file exists already, and is not replaced; give another name"
        );
    }

    #[test]
    fn a_temporary_file_of_a_killed_process_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        fs::write(partial(&path).unwrap(), "torn").unwrap();
        let mut file = NewFile::create(&path).unwrap();
        // A second writer of the same file is refused.
        let busy = NewFile::create(&path).map(drop).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        file.write_all(b"whole").unwrap();
        file.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(dir.path()), ["root.key"]);
    }

    #[test]
    fn a_replaced_file_has_the_old_content_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports.json");
        for text in ["one", "two"] {
            fs::write(partial(&path).unwrap(), "torn").unwrap();
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), text.as_bytes());
            assert_eq!(names(dir.path()), ["ports.json"]);
        }
        // A directory is not replaced, and the failed attempt leaves no temporary file.
        fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(replace(&dir.path().join("taken"), b"x").is_err());
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn a_symlink_with_the_temporary_name_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("root.key"), dir.path().join("target"));
        fs::write(&target, "another's").unwrap();
        std::os::unix::fs::symlink(&target, partial(&path).unwrap()).unwrap();
        assert!(NewFile::create(&path).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"another's");
    }
}
