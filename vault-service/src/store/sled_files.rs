//! The files that sled 0.34 keeps in a store's directory, and the checks that sled itself makes of them.

use std::{fs, io, path::Path};

use super::error::StoreOpenError;

/// Name of sled's log, which contains all entries.
pub(super) const DB: &str = "db";
/// Name of the file with sled's settings, such as the segment size, from when the store was created.
pub(super) const CONF: &str = "conf";
/// Name of the directory in which sled stores large values. A vault's store has no such values.
pub(super) const BLOBS: &str = "blobs";

/// Prefix of the names of sled's snapshots, which are indexes of the log. 16 hexadecimal digits follow: the position in
/// the log that the snapshot reaches.
const SNAPSHOT: &str = "snap.";
const POSITION_DIGITS: usize = 16;
/// Suffix of a snapshot's name while sled writes the snapshot. A leftover file of this name keeps sled from opening.
const GENERATING: &str = ".generating";

/// sled ignores a `conf` of up to 8 bytes, and writes a new one.
const CONF_IGNORED: usize = 8;
/// A snapshot ends with its length (8 bytes) and a checksum of the bytes before both (4 bytes).
const SNAPSHOT_LENGTH: usize = 8;
const SNAPSHOT_CRC: usize = 4;

pub(super) fn is_snapshot(name: &str) -> bool {
    let position = name.strip_prefix(SNAPSHOT).unwrap_or_default();
    position.len() == POSITION_DIGITS && position.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) fn is_unfinished_snapshot(name: &str) -> bool {
    name.strip_suffix(GENERATING).is_some_and(is_snapshot)
}

/// Returns true for every file of sled's that the creation of a store makes, whole or not.
pub(super) fn is_of_creation(name: &str) -> bool {
    name == DB || name == CONF || name.starts_with(SNAPSHOT)
}

/// Returns true when the checksum of `conf` matches. With a wrong segment size sled would lose most of the log.
pub(super) fn conf_is_valid(dir: &Path) -> Result<bool, StoreOpenError> {
    let path = dir.join(CONF);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreOpenError::files("read", &path)(error)),
    };
    let matches = bytes
        .split_last_chunk()
        .is_some_and(|(conf, crc)| crc32fast::hash(conf) == u32::from_le_bytes(*crc));
    Ok(matches && bytes.len() > CONF_IGNORED)
}

/// Returns true when the checksum of the snapshot at `path` matches. sled does not open beside another one.
pub(super) fn snapshot_is_valid(path: &Path) -> Result<bool, StoreOpenError> {
    let bytes = fs::read(path).map_err(StoreOpenError::files("read", path))?;
    let matches = || {
        let (rest, crc) = bytes.split_at_checked(bytes.len().checked_sub(SNAPSHOT_CRC)?)?;
        let (index, _length) = rest.split_at_checked(rest.len().checked_sub(SNAPSHOT_LENGTH)?)?;
        let crc = u32::from_le_bytes(crc.try_into().ok()?);
        (!index.is_empty()).then(|| crc32fast::hash(index) == crc)
    };
    Ok(matches().unwrap_or(false))
}
