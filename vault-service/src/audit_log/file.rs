//! A log file that is appended to, and that follows its name when another program rotates it.

use std::{
    fs::{File, Metadata},
    io::{self, Write},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Interval between checks whether the path names another file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Device and inode of `file`.
    id: (u64, u64),
    checked_at: Instant,
    /// True when the last write ended within a line. The rest of the line belongs to the same file.
    within_line: bool,
}

impl LogFile {
    /// Opens the file at `path`, or creates it with mode 0600. A line that a crash truncated gets a line end, so that
    /// the next line starts on its own.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => io::Error::new(
                    error.kind(),
                    format!(
                        "the directory of {} does not exist; make it first",
                        path.display()
                    ),
                ),
                kind => io::Error::new(kind, format!("{}: {error}", path.display())),
            })?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "is not a regular file; `-` is standard output",
            ));
        }
        if let Some(last) = metadata.len().checked_sub(1) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, last)?;
            if byte != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            id: id(&metadata),
            checked_at: Instant::now(),
            within_line: false,
        })
    }

    /// Opens a new file at the path when the current file was renamed or removed. The current file is synced first.
    fn follow_name(&mut self) -> io::Result<()> {
        if self.within_line || self.checked_at.elapsed() < CHECK_INTERVAL {
            return Ok(());
        }
        let is_same = match self.path.metadata() {
            Ok(metadata) => id(&metadata) == self.id,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if is_same {
            self.checked_at = Instant::now();
        } else {
            self.file.sync_data()?;
            *self = Self::open(&self.path)?;
        }
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.follow_name()?;
        let written = self.file.write(bytes)?;
        if let Some(last) = written.checked_sub(1) {
            self.within_line = bytes.get(last) != Some(&b'\n');
        }
        Ok(written)
    }

    /// Makes all written lines durable.
    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// Makes the next write check the path.
    fn expire_check(file: &mut LogFile) {
        file.checked_at = Instant::now().checked_sub(CHECK_INTERVAL).unwrap();
    }

    #[test]
    fn a_new_file_has_mode_0600_and_an_existing_one_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        LogFile::open(&path).unwrap().write_all(b"1\n").unwrap();
        LogFile::open(&path).unwrap().write_all(b"2\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1\n2\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_line_after_a_truncated_one_starts_on_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        fs::write(&path, "1\n{\"cut").unwrap();
        LogFile::open(&path).unwrap().write_all(b"2\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1\n{\"cut\n2\n");
    }

    #[test]
    fn a_path_that_is_no_regular_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(LogFile::open(dir.path()).is_err());
        assert!(LogFile::open(Path::new("/dev/null")).is_err());
        assert!(LogFile::open(&dir.path().join("absent").join("audit.log")).is_err());
    }

    #[test]
    fn a_renamed_or_removed_file_is_created_again_between_two_lines() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        let mut file = LogFile::open(&path).unwrap();
        file.write_all(b"1\n2").unwrap();
        fs::rename(&path, &old).unwrap();
        expire_check(&mut file);
        file.write_all(b"2\n").unwrap();
        file.write_all(b"3\n").unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"1\n22\n");
        assert_eq!(fs::read(&path).unwrap(), b"3\n");
        fs::remove_file(&path).unwrap();
        expire_check(&mut file);
        file.write_all(b"4\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"4\n");
    }

    #[test]
    fn no_line_is_written_while_the_file_cannot_be_created() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("log");
        fs::create_dir(&sub).unwrap();
        let path = sub.join("audit.log");
        let mut file = LogFile::open(&path).unwrap();
        fs::remove_dir_all(&sub).unwrap();
        expire_check(&mut file);
        assert!(file.write(b"1\n").is_err());
        fs::create_dir(&sub).unwrap();
        file.write_all(b"1\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1\n");
    }
}
