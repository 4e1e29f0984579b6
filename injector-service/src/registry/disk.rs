//! A file on its disk: whether it changed, what is in it, and replacing it in one step.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use proto::Uid;

use super::{
    error::{FileError, RegistryError},
    yaml::MAX_BYTES,
};

/// Within this time after a change, another one may leave the same timestamps.
const UNSETTLED: Duration = Duration::from_secs(2);

/// What shows that a file is another one, or was changed, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file at `path`, through symbolic links; none when there is nothing at all.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, FileError> {
        Ok(metadata(path)?.as_ref().map(Self::from))
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file's bytes, and what showed when they were read.
pub(crate) struct Contents {
    pub(crate) bytes: Arc<[u8]>,
    pub(super) stamp: Stamp,
    pub(super) modified: Timestamp,
    /// Whether every later change will show in the stamp.
    pub(super) settled: bool,
}

/// Reads the file; none when there is nothing at all.
pub(crate) fn read(path: &Path) -> Result<Option<Contents>, FileError> {
    let Some(metadata) = metadata(path)? else {
        return Ok(None);
    };
    let stamp = Stamp::from(&metadata);
    let file = File::open(path).map_err(FileError::Read)?;
    let mut bytes = Vec::new();
    // One more than allowed, so that a file that is too large shows as such.
    file.take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(FileError::Read)?;
    if Stamp::of(path)?.as_ref() != Some(&stamp) {
        return Err(FileError::Unsteady);
    }
    let modified = metadata.modified().map_err(FileError::Read)?;
    let settled = SystemTime::now()
        .duration_since(modified)
        .is_ok_and(|age| age > UNSETTLED);
    let modified = Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(Some(Contents {
        bytes: bytes.into(),
        stamp,
        modified,
        settled,
    }))
}

fn metadata(path: &Path) -> Result<Option<Metadata>, FileError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(_) => Err(FileError::NotAFile),
        // A link to nothing is no absent file: its target may come, or come back.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            Ok(None)
        }
        Err(error) => Err(FileError::Read(error)),
    }
}

/// A new file beside the one that it will replace. Dropped, it is gone.
pub(super) struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    directory: PathBuf,
}

impl Staged {
    /// Writes `bytes` to a new file beside the one at `path`, or beside what that links to, and has them on the disk.
    pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<Self, RegistryError> {
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(error.into()),
        };
        let directory = match target.parent() {
            Some(directory) if directory != Path::new("") => directory.to_owned(),
            _ => PathBuf::from("."),
        };
        let old = match fs::metadata(&target) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        match &old {
            // Renaming would not mind, but whoever took the right to write away did.
            Some(old) if old.mode() & 0o222 == 0 => return Err(RegistryError::ReadOnly(None)),
            Some(_) => {}
            None => DirBuilder::new().recursive(true).mode(0o700).create(&directory)?,
        }
        let temporary = directory.join(temporary_name(&target));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let staged = Self {
            temporary,
            target,
            directory,
        };
        if let Some(old) = old {
            // Ours to give away only when we are root; otherwise the new file is ours, with the same mode.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Puts it in the place of the old one: whoever opens that name sees the whole old or the whole new one.
    pub(super) fn commit(self) -> Result<(), RegistryError> {
        fs::rename(&self.temporary, &self.target)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Fails when it has been renamed; or leaves a file behind that nobody reads.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// `.servers.yaml.67e5….tmp`.
fn temporary_name(target: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", Uid::generate()));
    name
}
