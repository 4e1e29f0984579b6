//! The directory of the new store during a compaction.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{error::StoreOpenError, fs::remove_dir_if_exists};

/// Returns the directory of the new store during a compaction.
pub(super) fn new_dir(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.compacting"))
}

/// Removes the directory that an interrupted compaction of the store in `dir` left. The store must be locked.
pub(super) fn remove_leftover(dir: &Path) -> Result<(), StoreOpenError> {
    let Ok(dir) = fs::canonicalize(dir) else {
        return Ok(());
    };
    let leftover = new_dir(&dir);
    if !leftover.exists() {
        return Ok(());
    }
    tracing::warn!(
        "a compaction of the store was interrupted; the store is complete, and the other copy is removed"
    );
    remove_dir_if_exists(&leftover)
}
