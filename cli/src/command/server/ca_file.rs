//! The file of `--tls-ca`.

use std::{ffi::OsString, fs::File, io, path::Path};

use crate::{
    failure::{Failure, FailureKind},
    small_file::{self, MAX_PEM},
};

/// Reads the authorities of a server. `-` means standard input, and an empty path means no authorities.
pub(super) fn read(file: OsString) -> Result<String, Failure> {
    if file.is_empty() {
        return Ok(String::new());
    }
    let (path, read) = match Path::new(&file) {
        dash if dash == Path::new("-") => (
            Path::new("standard input"),
            small_file::read_at_most(io::stdin().lock(), MAX_PEM),
        ),
        // The path may be a pipe of the shell: `--tls-ca <(…)`.
        path => (
            path,
            File::open(path).and_then(|file| small_file::read_at_most(file, MAX_PEM)),
        ),
    };
    let pem = read.map_err(|error| Failure::file(path, &error))?;
    String::from_utf8(pem).map_err(|_| {
        let message = format!("{}: the file is not PEM text", path.display());
        Failure::new(FailureKind::File, message)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_too_long_or_no_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [pem, binary, long] = ["pem", "binary", "long"].map(|name| dir.path().join(name));
        fs::write(&pem, "PEM").unwrap();
        fs::write(&binary, b"\xff").unwrap();
        File::create(&long).unwrap().set_len(MAX_PEM + 1).unwrap();
        assert_eq!(read(pem.into()).unwrap(), "PEM");
        assert_eq!(read(OsString::new()).unwrap(), "");
        for path in [binary, long] {
            assert_eq!(
                read(path.clone().into()).unwrap_err().kind,
                FailureKind::File,
                "{}",
                path.display()
            );
        }
    }
}
