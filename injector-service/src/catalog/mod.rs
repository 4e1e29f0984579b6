//! The catalog: a file of servers that are known by a name like `@scope/name`, so that whoever adds one need not know
//! its URL. It is read whenever it is used, so an edit holds from the next use on.

mod error;
mod file;
mod name;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use chassis::{blocking::blocking, telemetry::chain};
use proto::page::Page;
use tokio::sync::Mutex;

use crate::registry::{FileError, disk, server::Spec};
use error::Problem;

pub use error::CatalogError;
pub use name::{EntryName, NotAnEntryName};

/// How often the file is read at the most, when it is replaced meanwhile.
const READ_TRIES: usize = 10;

/// A catalog that was right when it was opened. Clones are the same catalog.
#[derive(Debug, Clone)]
pub struct Catalog {
    path: Arc<Path>,
    /// One at a time reads the file, so that many callers do not hold it in memory many times.
    reading: Arc<Mutex<()>>,
}

/// What a catalog said when it was read.
#[derive(Debug)]
pub struct Entries(BTreeMap<EntryName, Entry>);

/// A server that a catalog knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What it is called.
    pub name: EntryName,
    /// What it is. Its injections are the secrets that such a server usually gets; they are not for a server to take.
    pub spec: Spec,
    /// True for a server that speaks MCP.
    pub mcp: bool,
}

impl Catalog {
    /// The catalog in the file at `path`, which is read, so that what is wrong with it shows at once.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        let entries = load(path)?;
        tracing::info!(file = %path.display(), entries = entries.0.len(), "catalog read");
        Ok(Self {
            path: path.into(),
            reading: Arc::default(),
        })
    }

    /// What it says now.
    pub async fn entries(&self) -> Result<Entries, CatalogError> {
        let (path, turn) = (self.path.clone(), self.reading.clone().lock_owned().await);
        // The turn goes along to the thread that reads, so that it lasts when the caller has gone away.
        let entries = blocking(move || {
            let _turn = turn;
            load(&path)
        })
        .await;
        entries.inspect_err(|error| {
            tracing::warn!(file = %self.path.display(), error = chain(error), "the catalog cannot be used");
        })
    }
}

impl Entries {
    /// The entry of this name.
    pub fn get(&self, name: &EntryName) -> Option<&Entry> {
        self.0.get(name)
    }

    /// The number of entries.
    #[allow(
        clippy::len_without_is_empty,
        reason = "nobody asks whether a catalog is empty"
    )]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A page of the entries, ordered by name, and whether more follow. Keys for the page are the entries' names.
    pub fn page(&self, page: &Page) -> (Vec<&Entry>, bool) {
        let after = page.after.as_deref();
        let mut found: Vec<_> = self
            .0
            .values()
            .filter(|entry| after.is_none_or(|after| entry.name.as_str() > after))
            .take(page.size + 1)
            .collect();
        let more = found.len() > page.size;
        found.truncate(page.size);
        (found, more)
    }

    /// All names, those first that may have been meant by `name`: of the same last part, then of the same scope.
    pub fn near(&self, name: &EntryName) -> Vec<&EntryName> {
        let mut names: Vec<_> = self.0.keys().collect();
        names.sort_by_key(|known| (known.server() != name.server(), known.scope() != name.scope()));
        names
    }
}

fn load(path: &Path) -> Result<Entries, CatalogError> {
    Ok(file::parse(&read(path)?)?)
}

/// The bytes of the file, which whoever replaces it may do at any moment.
fn read(path: &Path) -> Result<Arc<[u8]>, Problem> {
    let mut read = disk::read(path);
    for _ in 1..READ_TRIES {
        if !matches!(read, Err(FileError::Unsteady)) {
            break;
        }
        read = disk::read(path);
    }
    Ok(read?.ok_or(Problem::Absent)?.bytes)
}
