//! Files and folders of certificates: private from the first byte, and either whole or absent.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown},
    path::Path,
    str::FromStr,
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::error::PkiError;
use crate::small_file::{self, MAX_PEM};

const DIR_MODE: u32 = 0o700;
const KEY_MODE: u32 = 0o600;
const CERT_MODE: u32 = 0o644;

/// The user and group that own a file, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an owner is UID:GID, two numbers such as 65532:65532")]
pub struct OwnerError;

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let (uid, gid) = text.split_once(':').ok_or(OwnerError)?;
        Ok(Self {
            uid: uid.parse().map_err(|_| OwnerError)?,
            gid: gid.parse().map_err(|_| OwnerError)?,
        })
    }
}

impl Owner {
    /// Returns the owner of an existing file or folder.
    pub fn of(path: &Path) -> Result<Self, PkiError> {
        let found = fs::metadata(path).map_err(PkiError::at(path))?;
        Ok(Self {
            uid: found.uid(),
            gid: found.gid(),
        })
    }

    /// Makes this user and group the owner of `path`.
    pub fn own(self, path: &Path) -> Result<(), PkiError> {
        let change = || {
            let found = fs::symlink_metadata(path)?;
            if (found.uid(), found.gid()) == (self.uid, self.gid) {
                return Ok(());
            }
            // `lchown` does not follow a symbolic link that the folder's owner may have placed.
            lchown(path, Some(self.uid), Some(self.gid))
        };
        change().map_err(PkiError::at(path))
    }
}

/// Makes a folder with mode 0700, and locks it against other processes of ours until the returned file is dropped.
pub(super) fn lock_private_dir(dir: &Path) -> Result<File, PkiError> {
    let make = || {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))?;
        let lock = File::open(dir)?;
        lock.lock()?;
        Ok(lock)
    };
    make().map_err(PkiError::at(dir))
}

pub(super) fn read_cert(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    optional(small_file::read(path, MAX_PEM)).map_err(PkiError::at(path))
}

/// Reads a key file, and sets its mode to 0600 when other users may read the file. A symbolic link is refused, because
/// the folder may belong to another user than the one who runs this program.
pub(super) fn read_key(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, PkiError> {
    let read = || {
        // Without `NONBLOCK`, opening a pipe that nobody writes to waits for ever.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        if found.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(KEY_MODE))?;
        }
        small_file::read_at_most(file, MAX_PEM).map(Zeroizing::new)
    };
    optional(read()).map_err(PkiError::at(path))
}

pub(super) fn write_cert(path: &Path, pem: impl AsRef<[u8]>) -> Result<(), PkiError> {
    write(path, pem.as_ref(), CERT_MODE).map_err(PkiError::at(path))
}

pub(super) fn write_key(path: &Path, pem: &str) -> Result<(), PkiError> {
    write(path, pem.as_bytes(), KEY_MODE).map_err(PkiError::at(path))
}

/// Replaces a file. The caller holds the lock of [`lock_private_dir`], so a temporary file that exists was left by a
/// crash and can be removed.
fn write(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("pem.tmp");
    optional(fs::remove_file(&temporary))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The folder is synced because a key must be on disk before the certificate that belongs to the key.
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn a_certificate_or_key_that_is_too_long_or_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [long, pipe] = ["long", "pipe"].map(|name| dir.path().join(name));
        File::create(&long).unwrap().set_len(MAX_PEM + 1).unwrap();
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        for path in [&long, &pipe, &dir.path().to_owned()] {
            assert!(read_cert(path).is_err(), "{}", path.display());
            assert!(read_key(path).is_err(), "{}", path.display());
        }
        assert!(read_key(&dir.path().join("absent")).unwrap().is_none());
    }
}
