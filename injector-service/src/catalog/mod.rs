//! The catalog: a file of well-known servers with names like `@scope/name`, so that a user can add such a server without
//! knowing its URL. The injector reads the file at each use, so an edit takes effect at once.

mod error;
mod file;
mod name;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use chassis::{blocking::blocking, telemetry::chain};
use proto::{ServerName, page::Page};
use tokio::sync::Mutex;

use crate::registry::{FileError, atomic_file, server::Spec};
use error::CatalogProblem;

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

/// The entries of the catalog when it was read.
#[derive(Debug)]
pub struct Entries(BTreeMap<EntryName, CatalogEntry>);

#[derive(Debug, Clone, PartialEq)]
pub struct CatalogEntry {
    pub name: EntryName,
    /// The name of a server that is added without a name.
    pub default_name: ServerName,
    /// The settings of the server.
    pub spec: Spec,
    /// True when a server that is added gets the injections of `spec`. Otherwise they are a suggestion.
    pub supplies_secrets: bool,
    /// True when the URL of `spec` is only an example, because the host depends on the customer.
    pub needs_url: bool,
    /// The page of the vendor that says where the credential goes. May be empty.
    pub docs: String,
    /// True for a server that speaks MCP.
    pub mcp: bool,
}

impl Catalog {
    /// Reads the file at `path` once, so that a mistake in it shows at the start.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        let entries = load(path)?;
        tracing::info!(file = %path.display(), entries = entries.0.len(), "catalog read");
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

impl Entries {
    pub fn get(&self, name: &EntryName) -> Option<&CatalogEntry> {
        self.0.get(name)
    }

    #[allow(
        clippy::len_without_is_empty,
        reason = "nobody asks whether a catalog is empty"
    )]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns a page of the entries, ordered by name, and whether more entries follow. The names are the keys of the page.
    pub fn page(&self, page: &Page) -> (Vec<&CatalogEntry>, bool) {
        let after = page.after.as_deref();
        let mut entries: Vec<_> = self
            .0
            .values()
            .filter(|entry| after.is_none_or(|after| entry.name.as_str() > after))
            .take(page.size + 1)
            .collect();
        let more = entries.len() > page.size;
        entries.truncate(page.size);
        (entries, more)
    }

    /// Returns all names. Names with the same last part as `name` come first, then names with the same scope.
    pub fn names_nearest_first(&self, name: &EntryName) -> Vec<&EntryName> {
        let mut names: Vec<_> = self.0.keys().collect();
        names.sort_by_key(|known| (known.server() != name.server(), known.scope() != name.scope()));
        names
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
