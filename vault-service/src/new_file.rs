//! A file that is there whole or not at all, for its owner only, and in nobody else's place.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// A file on its way. It has its name once [`NewFile::publish`] has returned; dropped before, it is removed.
pub struct NewFile {
    file: File,
    path: PathBuf,
    /// The name that it has meanwhile; empty once it has its own.
    partial: PathBuf,
}

impl NewFile {
    /// Begins a file that will be at `path`. Fails when there is something already.
    pub fn create(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(partial);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            partial,
        })
    }

    /// Makes it durable, and then gives it its name. Fails when there is something of that name meanwhile.
    pub fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        rename(&self.partial, &self.path)?;
        self.partial = PathBuf::new();
        File::open(match self.path.parent() {
            Some(dir) if dir != Path::new("") => dir,
            Some(_) | None => Path::new("."),
        })?
        .sync_all()
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
            // It is ours, and of no use to anyone.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Never replaces anything. Not every file system can rename so (NFS); those that cannot have hard links.
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
    fn it_has_its_name_when_it_is_whole_and_is_gone_when_it_was_given_up() {
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
    fn it_takes_nobody_elses_place() {
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
}
