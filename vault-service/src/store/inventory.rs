//! The files in a store's directory, by kind.

use std::path::{Path, PathBuf};

use super::{
    disk_space::RESERVE_FILE,
    error::StoreOpenError,
    file_sum::FileSum,
    fs::{list, name_of, remove_file_if_exists},
    key_file::{KEYS, NEW_KEYS},
    lock::LOCK,
    marker::{FileSums, MARKER, Marker, MarkerState, NEW_MARKER},
    sled_files::{BLOBS, CONF, DB, is_snapshot, is_unfinished_snapshot, snapshot_is_valid},
    store_copy::COPY,
};

/// Prefix under which damaged snapshots are kept. sled ignores files of such names.
pub(super) const DAMAGED: &str = "damaged.";

/// Name of the file that receives a backup. The file loses its name as soon as it is open, so only a process that was killed
/// at that moment leaves it, empty.
pub(crate) const RECEIVED: &str = "restore";

/// Names of all files of a store, except snapshots. A new file of the vault must be added here.
const KNOWN: &[&str] = &[
    DB,
    CONF,
    LOCK,
    MARKER,
    NEW_MARKER,
    KEYS,
    NEW_KEYS,
    COPY,
    RESERVE_FILE,
    RECEIVED,
];
/// Maximum number of unknown names that an error shows.
const MAX_SHOWN: usize = 10;

/// sled's snapshots in the directory.
#[derive(Default)]
pub(super) struct Snapshots {
    pub(super) valid: Vec<PathBuf>,
    pub(super) damaged: Vec<PathBuf>,
    pub(super) unfinished: Vec<PathBuf>,
    /// True when the marker lists a snapshot that does not exist.
    is_missing: bool,
}

impl Snapshots {
    pub(super) fn is_empty(&self) -> bool {
        self.valid.is_empty() && self.damaged.is_empty() && self.unfinished.is_empty()
    }

    /// Returns true when the snapshots are exactly those that the marker lists.
    pub(super) fn match_marker(&self) -> bool {
        self.damaged.is_empty() && self.unfinished.is_empty() && !self.is_missing
    }
}

/// Lists the snapshots in `dir`, and refuses a directory with files that do not belong to the store. `marker` is `None`
/// when the store has none.
///
/// sled would take the newest snapshot for its own, and one that is ahead of `db` ruins the store. So a snapshot must be
/// listed in the marker, unless the marker says that sled was writing one when the process ended.
pub(super) fn take_inventory(dir: &Path, marker: Option<&Marker>) -> Result<Snapshots, StoreOpenError> {
    let mut snapshots = Snapshots::default();
    let mut unknown = Vec::new();
    for path in list(dir)? {
        let name = name_of(&path);
        if is_snapshot(&name) {
            match is_valid_snapshot(&path, &name, marker)? {
                Some(true) => snapshots.valid.push(path),
                Some(false) => snapshots.damaged.push(path),
                None => unknown.push(name),
            }
        } else if is_unfinished_snapshot(&name) {
            snapshots.unfinished.push(path);
        } else if name == BLOBS && path.is_dir() {
            let blobs = list(&path)?;
            unknown.extend(blobs.iter().map(|blob| format!("{BLOBS}/{}", name_of(blob))));
        } else if !KNOWN.contains(&&*name) && !name.starts_with(DAMAGED) {
            unknown.push(name);
        }
    }
    if !unknown.is_empty() {
        return Err(StoreOpenError::UnknownFiles {
            dir: dir.to_owned(),
            names: shortened(unknown),
        });
    }
    let mut listed = marker.into_iter().flat_map(|marker| marker.files.keys());
    snapshots.is_missing = listed.any(|name| is_snapshot(name) && !dir.join(name).exists());
    Ok(snapshots)
}

/// Returns `None` for a snapshot that does not belong to the store, else whether the snapshot is valid.
fn is_valid_snapshot(
    path: &Path,
    name: &str,
    marker: Option<&Marker>,
) -> Result<Option<bool>, StoreOpenError> {
    let Some(marker) = marker else {
        return snapshot_is_valid(path).map(Some);
    };
    match (marker.files.get(name), marker.state) {
        (Some(listed), _) => Ok(Some(sum_of(path)? == *listed)),
        (None, MarkerState::Creating | MarkerState::Opening) => snapshot_is_valid(path).map(Some),
        (None, MarkerState::Open | MarkerState::Closed) => Ok(None),
    }
}

/// Returns the sums of the files of an open store that do not change until the store is closed.
pub(super) fn fixed_files(dir: &Path) -> Result<FileSums, StoreOpenError> {
    let mut files = FileSums::new();
    for path in list(dir)? {
        let name = name_of(&path);
        if name == CONF || is_snapshot(&name) {
            files.insert(name, sum_of(&path)?);
        }
    }
    Ok(files)
}

pub(super) fn sum_of(path: &Path) -> Result<FileSum, StoreOpenError> {
    FileSum::of(path).map_err(StoreOpenError::files("read", path))
}

/// Sorts names and replaces all but the first ones by their number.
fn shortened(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    if let Some(more) = names.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
        names.truncate(MAX_SHOWN);
        names.push(format!("and {more} more"));
    }
    names
}

/// Removes the file for a backup that a killed process left.
pub(super) fn remove_leftover(dir: &Path) -> Result<(), StoreOpenError> {
    remove_file_if_exists(&dir.join(RECEIVED))
}
