//! The files: private from the first byte, and whole or absent.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown,
};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{PkiError, apart::Owner};

const DIR_MODE: u32 = 0o700;
const KEY_MODE: u32 = 0o600;
const CERT_MODE: u32 = 0o644;

/// Makes the folder ours alone, and ours alone to write while the returned lock lives.
pub(super) fn private_dir(dir: &Path) -> Result<File, PkiError> {
    let make = || {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))?;
        let lock = File::open(dir)?;
        lock.lock()?;
        Ok(lock)
    };
    make().map_err(at(dir))
}

/// The contents of a certificate file, if there is one.
pub(super) fn read_cert(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    optional(fs::read(path)).map_err(at(path))
}

/// The contents of a key file, if there is one; takes it back from others that may read it. Refuses a symbolic link:
/// the directory may belong to another user than the one who runs this.
pub(super) fn read_key(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, PkiError> {
    let read = || {
        let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
        let mut file = OpenOptions::new().read(true).custom_flags(no_follow).open(path)?;
        let mut key = Zeroizing::new(Vec::new());
        file.read_to_end(&mut key)?;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(KEY_MODE))?;
        }
        Ok(key)
    };
    optional(read()).map_err(at(path))
}

/// Gives a file or folder to its owner, if it is another's.
pub(super) fn give(path: &Path, owner: Owner) -> Result<(), PkiError> {
    let give = || {
        let found = fs::symlink_metadata(path)?;
        if (found.uid(), found.gid()) == (owner.uid, owner.gid) {
            return Ok(());
        }
        // Never follows a link that the directory's owner put there.
        lchown(path, Some(owner.uid), Some(owner.gid))
    };
    give().map_err(at(path))
}

/// Whom a folder belongs to.
pub(super) fn owner(path: &Path) -> Result<Owner, PkiError> {
    let found = fs::metadata(path).map_err(at(path))?;
    Ok(Owner {
        uid: found.uid(),
        gid: found.gid(),
    })
}

pub(super) fn write_cert(path: &Path, pem: impl AsRef<[u8]>) -> Result<(), PkiError> {
    write(path, pem.as_ref(), CERT_MODE).map_err(at(path))
}

pub(super) fn write_key(path: &Path, pem: &str) -> Result<(), PkiError> {
    write(path, pem.as_bytes(), KEY_MODE).map_err(at(path))
}

/// Under the lock of [`private_dir`] a temporary file that exists was left by a crash.
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
    // The rename itself must last before the next file is written: key first, certificate second.
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    move |source| PkiError::Io {
        path: path.to_owned(),
        source,
    }
}
