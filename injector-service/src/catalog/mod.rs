//! The catalog: a file of well-known servers with names like `@scope/name`, so that a user can add such a server without
//! knowing its URL. The injector reads the file at each use, so an edit takes effect at once.

mod entries;
mod error;
mod file;
mod name;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

use chassis::{blocking::blocking, telemetry::chain};
use tokio::sync::Mutex;

use crate::registry::{FileError, atomic_file};
use error::CatalogProblem;

pub(crate) use entries::{CatalogEntry, Entries};
pub(crate) use error::CatalogError;
pub(crate) use name::{EntryName, NotAnEntryName};

/// The number of tries to read the file. A try fails when the file is replaced in its midst.
const READ_TRIES: usize = 10;

/// A handle on the file of the catalog. Clones share the lock.
#[derive(Debug, Clone)]
pub struct Catalog {
    path: Arc<Path>,
    /// Held while the file is read, so that many callers do not hold many copies of it in memory.
    read_lock: Arc<Mutex<()>>,
}

impl Catalog {
    /// Reads the file at `path` once, so that a mistake in it shows at the start.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        let entries = load(path)?;
        tracing::info!(file = %path.display(), entries = entries.len(), "catalog read");
        Ok(Self {
            path: path.into(),
            read_lock: Arc::default(),
        })
    }

    /// Reads the file.
    pub async fn entries(&self) -> Result<Entries, CatalogError> {
        let (path, lock) = (self.path.clone(), self.read_lock.clone().lock_owned().await);
        let entries = blocking(move || {
            // The lock is held to the end of the read, also when the caller is cancelled.
            let _lock = lock;
            load(&path)
        })
        .await;
        entries.inspect_err(|error| {
            tracing::warn!(file = %self.path.display(), error = chain(error), "the catalog cannot be used");
        })
    }
}

fn load(path: &Path) -> Result<Entries, CatalogError> {
    Ok(file::parse(&read(path)?)?)
}

fn read(path: &Path) -> Result<Arc<[u8]>, CatalogProblem> {
    let mut read = atomic_file::read(path);
    for _ in 1..READ_TRIES {
        if !matches!(read, Err(FileError::ChangedDuringRead)) {
            break;
        }
        read = atomic_file::read(path);
    }
    Ok(read?.ok_or(CatalogProblem::Absent)?.bytes)
}
