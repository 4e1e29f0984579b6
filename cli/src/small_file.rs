//! Reads files that somebody else may have made.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::Path,
};

/// The longest file with certificates or a key that is read. A file with all authorities of a system has about 220 KB.
pub(crate) const MAX_PEM: u64 = 1024 * 1024;

/// Reads a file of at most `limit` bytes. Fails for everything but a regular file: a pipe may never end, and opening one that
/// nobody writes to waits for ever.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    read_at_most(File::open(path)?, limit)
}

/// Reads at most `limit` bytes, and fails when there are more.
pub(crate) fn read_at_most(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if length as u64 > limit {
        let message = format!("it is longer than {limit} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn an_endless_file_a_pipe_and_a_long_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [short, long, endless, pipe] =
            ["short", "long", "endless", "pipe"].map(|name| dir.path().join(name));
        fs::write(&short, "1234").unwrap();
        fs::write(&long, "12345").unwrap();
        std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(read(&short, 4).unwrap(), b"1234");
        assert_eq!(read(&long, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        for path in [&endless, &pipe, &dir.path().to_owned()] {
            assert_eq!(read(path, 4).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
}
