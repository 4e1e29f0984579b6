//! Reading a file that others may replace at any time, and replacing it atomically.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use chassis::file_stamp::FileStamp;
use jiff::Timestamp;
use proto::Uid;

use super::error::{FileError, MAX_FILE_SIZE, RegistryError};

/// Reads the stamp of the file at `path`. Returns `None` when nothing exists at `path`.
pub(super) fn stamp_of(path: &Path) -> Result<Option<FileStamp>, FileError> {
    Ok(metadata(path)?.as_ref().map(FileStamp::from))
}

/// The bytes of a file, and its metadata, which was the same before and after the read.
pub(crate) struct Contents {
    pub(crate) bytes: Arc<[u8]>,
    pub(super) stamp: FileStamp,
    pub(super) modified: Timestamp,
    /// False when the file is so new that another change might leave the same stamp.
    pub(super) is_settled: bool,
}

/// Reads a whole file. Returns `None` when nothing exists at `path`.
pub(crate) fn read(path: &Path) -> Result<Option<Contents>, FileError> {
    let Some(metadata) = metadata(path)? else {
        return Ok(None);
    };
    let stamp = FileStamp::from(&metadata);
    let file = File::open(path).map_err(FileError::Read)?;
    let mut bytes = Vec::new();
    // One byte more than the limit lets the parser see that the file is too large.
    file.take(MAX_FILE_SIZE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(FileError::Read)?;
    if stamp_of(path)?.as_ref() != Some(&stamp) {
        return Err(FileError::ChangedDuringRead);
    }
    let modified = metadata.modified().map_err(FileError::Read)?;
    let is_settled = stamp.is_settled(SystemTime::now());
    let modified = Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(Some(Contents {
        bytes: bytes.into(),
        stamp,
        modified,
        is_settled,
    }))
}

fn metadata(path: &Path) -> Result<Option<Metadata>, FileError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(_) => Err(FileError::NotAFile),
        // A symbolic link without a target counts as an error and not as an absent file: its target may come back.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            Ok(None)
        }
        Err(error) => Err(FileError::Read(error)),
    }
}

/// A complete new file next to the one that it will replace. Dropping the value deletes the new file.
pub(super) struct StagedFile {
    temporary: PathBuf,
    target: PathBuf,
    directory: PathBuf,
}

impl StagedFile {
    /// Writes `bytes` to a new file in the directory of `path`, or of the target when `path` is a symbolic link, and syncs
    /// the file. The new file gets the mode of the old one and, if the process may set it, its owner.
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
            // `rename` would replace a read-only file too, but the mode of the file forbids changes.
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
            // Only root may give a file away. Otherwise the new file belongs to the injector.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Replaces the old file by renaming, so that a reader sees either the whole old or the whole new file.
    pub(super) fn commit(self) -> Result<(), RegistryError> {
        fs::rename(&self.temporary, &self.target)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // After `commit` the file no longer has this name. Any other failure leaves a file that nobody reads.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Returns a name such as `.servers.yaml.67e5….tmp`.
fn temporary_name(target: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", Uid::generate()));
    name
}
