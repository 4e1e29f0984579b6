//! Access to the store from async code, and scans page by page.

use chassis::blocking::blocking;

use crate::store::{Entry, Fault, ReadEntries, Store};

/// Runs `work` with the store on a thread that may wait for the disk.
pub(super) async fn with_store<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Store) -> T + Send + 'static,
) -> T {
    let store = store.clone();
    blocking(move || work(&store)).await
}

/// A scan of all entries under a prefix. Entries that are written behind its position are not visited.
#[derive(Clone)]
pub(super) struct PagedScan {
    prefix: Vec<u8>,
    page: usize,
    after: Option<Vec<u8>>,
}

impl PagedScan {
    /// Begins a scan with at most `page` entries in a page.
    pub(super) fn new(prefix: impl Into<Vec<u8>>, page: usize) -> Self {
        Self {
            prefix: prefix.into(),
            page,
            after: None,
        }
    }

    /// Returns the next entries; none at the end. Blocking.
    pub(super) fn next<S: ReadEntries>(&mut self, store: &S) -> Result<Vec<Entry>, S::Error> {
        let entries = store.scan(&self.prefix, self.after.as_deref(), self.page)?;
        self.after = entries.last().map(|last| last.key.clone());
        Ok(entries)
    }

    /// Returns the next entries, as [`Self::next`] does, in async code.
    pub(super) async fn next_async(&mut self, store: &Store) -> Result<Vec<Entry>, Fault> {
        let mut scan = self.clone();
        let (scan, entries) = with_store(store, move |store| {
            let entries = scan.next(store);
            (scan, entries)
        })
        .await;
        *self = scan;
        entries
    }
}
