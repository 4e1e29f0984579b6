//! Copies of a store, on which sled can be tried without a risk for the store.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::{
    Fault,
    engine::Engine,
    error::StoreOpenError,
    fs::remove_dir_if_exists,
    sled_files::{CONF, DB, conf_is_valid},
};

/// Name of the copy's directory. It is inside the store's directory, because a copy on the same file system may share its
/// blocks with the original.
pub(super) const COPY: &str = "check";

/// An opened copy of a store. The copy is removed on drop.
pub(super) struct StoreCopy {
    pub(super) db: Engine,
    _dir: CopyDir,
}

/// Directory of a copy, which is removed on drop.
struct CopyDir(PathBuf);

impl StoreCopy {
    /// Copies the store in `dir` to `to`, without its damaged snapshots, and opens the copy.
    pub(super) fn open(
        dir: &Path,
        snapshots: &[PathBuf],
        to: &Path,
        cache_bytes: u64,
    ) -> Result<Self, StoreOpenError> {
        let copy = CopyDir::fill(dir, snapshots, to)?;
        let db = Engine::open(&copy.0, cache_bytes).map_err(StoreOpenError::storage(dir))?;
        Ok(Self { db, _dir: copy })
    }

    /// Closes and removes the copy.
    pub(super) fn release(self) -> Result<(), Fault> {
        self.db.release()
    }
}

impl CopyDir {
    fn fill(dir: &Path, snapshots: &[PathBuf], to: &Path) -> Result<Self, StoreOpenError> {
        DirBuilder::new()
            .mode(0o700)
            .create(to)
            .map_err(StoreOpenError::files("create", to))?;
        let copy = Self(to.to_owned());
        let mut files = vec![dir.join(DB)];
        // sled replaces an invalid `conf` by one with the settings of `Engine::open`, which never changed.
        if conf_is_valid(dir)? {
            files.push(dir.join(CONF));
        }
        for path in files.iter().chain(snapshots) {
            let name = path.file_name().unwrap_or_default();
            fs::copy(path, to.join(name)).map_err(StoreOpenError::files("copy", path))?;
        }
        Ok(copy)
    }
}

impl Drop for CopyDir {
    fn drop(&mut self) {
        // The next open removes files that are left after an error.
        let _ = remove_dir_if_exists(&self.0);
    }
}

/// Removes a copy that a killed process left in the store's directory.
pub(super) fn remove_leftover(dir: &Path) -> Result<(), StoreOpenError> {
    remove_dir_if_exists(&dir.join(COPY))
}
