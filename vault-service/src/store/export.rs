//! Exports: all entries of the store as of one moment, while commits go on.
//!
//! An export reads the entries in the order of their keys, chunk by chunk, and holds no lock between two chunks. Meanwhile
//! the commit thread records the keys that it changes ([`ChangedKeys`]). The export reads these keys again, in rounds that
//! get shorter. The commit thread itself reads the last round, between two groups: the changes that the export returned
//! then add up to exactly the content of the store at that moment. So commits wait only for one short round.
//!
//! [`ChangedKeys`]: super::changed_keys::ChangedKeys

use std::{
    collections::{BTreeSet, btree_set},
    ops::Bound,
};

use tokio::sync::oneshot;

use super::{
    Entry, ExportError, Fault, Store, batch::EXCLUSIVE_WRITER, changed_keys::is_exported, commit::Request,
    durable::DurableData, scan::Chunk, shared::Shared,
};

/// Minimum size of the changes that are returned at once, in bytes, unless fewer are left.
const PART_BYTES: usize = 256 * 1024;
/// Size of the changed keys, in bytes, from which on they are read again before the scan goes on.
const REREAD_BYTES: usize = 4 * 1024 * 1024;
/// Maximum number of keys, and about the maximum bytes of entries, that the commit thread reads in the last round. Reading
/// these takes some milliseconds.
const LAST_ROUND: Limits = Limits {
    keys: 1024,
    bytes: 1024 * 1024,
};
/// Maximum number of rounds after the scan. Few are needed, unless entries change faster than the export reads them.
const MAX_ROUNDS: usize = 1000;

/// A change of an exported entry. It replaces an earlier change of the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Delete(Vec<u8>),
}

/// A running export. A store has at most one.
pub struct Export {
    store: Store,
    /// Lower bound of the keys that the scan has not read yet; `None` after the scan.
    scan_from: Option<Bound<Vec<u8>>>,
    /// Keys that the current round has not read yet.
    round: btree_set::IntoIter<Vec<u8>>,
    rounds_left: usize,
    is_complete: bool,
}

#[derive(Clone, Copy)]
struct Limits {
    keys: usize,
    bytes: usize,
}

struct LastRound {
    changes: Vec<Change>,
    is_complete: bool,
}

impl Store {
    /// Starts an export of all entries.
    pub fn export(&self) -> Result<Export, ExportError> {
        Export::start(self)
    }
}

impl Export {
    fn start(store: &Store) -> Result<Self, ExportError> {
        refuse_exclusive_writer(&store.shared.data)?;
        store.shared.changed_keys.start()?;
        Ok(Self {
            store: store.clone(),
            scan_from: Some(Bound::Unbounded),
            round: BTreeSet::new().into_iter(),
            rounds_left: MAX_ROUNDS,
            is_complete: false,
        })
    }

    /// Returns the next changes; `None` once all changes add up to the content of the store at the time of the last read.
    ///
    /// Blocks. The export needs memory for one part and the changed keys, whatever the size of the store.
    pub fn next_part(&mut self) -> Result<Option<Vec<Change>>, ExportError> {
        while !self.is_complete {
            let part = self.step()?;
            if !part.is_empty() {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    /// Continues the current round, else the scan, else begins another round.
    fn step(&mut self) -> Result<Vec<Change>, ExportError> {
        let limits = Limits {
            keys: usize::MAX,
            bytes: PART_BYTES,
        };
        let changes = read_keys(&self.store.shared.data, &mut self.round, limits)?;
        if !changes.is_empty() {
            return Ok(changes);
        }
        let changed_bytes = self.store.shared.changed_keys.bytes()?;
        match self.scan_from.take() {
            Some(from) if changed_bytes < REREAD_BYTES => Ok(self.scan(from)?),
            scan_from => {
                self.scan_from = scan_from;
                self.next_round()
            }
        }
    }

    fn scan(&mut self, from: Bound<Vec<u8>>) -> Result<Vec<Change>, Fault> {
        let range = (from.as_ref().map(Vec::as_slice), Bound::Unbounded);
        let Chunk { entries, rest } = self.store.shared.data.chunk(range, usize::MAX, PART_BYTES)?;
        self.scan_from = rest.map(|last| Bound::Excluded(last.to_vec()));
        let exported = entries.into_iter().filter(|(key, _)| is_exported(key));
        Ok(exported
            .map(|(key, value)| change(key.to_vec(), Some(value)))
            .collect())
    }

    /// Begins a round over the changed keys. After the scan, the commit thread does a round that is small enough.
    fn next_round(&mut self) -> Result<Vec<Change>, ExportError> {
        let changed_keys = &self.store.shared.changed_keys;
        if self.scan_from.is_none() {
            self.rounds_left = self.rounds_left.checked_sub(1).ok_or(ExportError::Outpaced)?;
            if changed_keys.count()? <= LAST_ROUND.keys {
                let LastRound { changes, is_complete } = self.last_round()?;
                self.is_complete = is_complete;
                return Ok(changes);
            }
        }
        self.round = changed_keys.take()?.into_iter();
        Ok(Vec::new())
    }

    /// Has the commit thread read the changed keys.
    fn last_round(&self) -> Result<LastRound, ExportError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || ExportError::Stopped(self.store.shared.stopped());
        let request = Request::RunBetweenGroups(Box::new(move |shared| {
            // A send fails only when the export was dropped.
            let _ = reply.send(read_last_round(shared));
        }));
        self.store.queue.blocking_send(request).map_err(|_| stopped())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(stopped()))
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.store.shared.changed_keys.stop();
    }
}

/// Reads the changed keys on the commit thread, up to the limits of the last round. An error fails the export only.
fn read_last_round(shared: &Shared) -> Result<LastRound, ExportError> {
    refuse_exclusive_writer(&shared.data)?;
    let mut keys = shared.changed_keys.take()?.into_iter();
    let changes = read_keys(&shared.data, &mut keys, LAST_ROUND)?;
    let left: Vec<_> = keys.collect();
    let is_complete = left.is_empty();
    shared.changed_keys.record(left);
    Ok(LastRound { changes, is_complete })
}

/// Reads the values of the next keys, and stops once a limit is reached.
fn read_keys(
    data: &DurableData,
    keys: &mut btree_set::IntoIter<Vec<u8>>,
    Limits {
        keys: max_keys,
        mut bytes,
    }: Limits,
) -> Result<Vec<Change>, Fault> {
    let mut changes = Vec::new();
    while bytes > 0 && changes.len() < max_keys {
        let Some(key) = keys.next() else { break };
        let value = data.read(&key)?;
        let size = key.len() + value.as_ref().map_or(0, |value| value.len());
        bytes = bytes.saturating_sub(size.max(1));
        changes.push(change(key, value));
    }
    Ok(changes)
}

fn change(key: Vec<u8>, value: Option<sled::IVec>) -> Change {
    match value {
        Some(value) => Change::Put(Entry {
            key,
            value: value.to_vec(),
        }),
        None => Change::Delete(key),
    }
}

/// Refuses a store that an exclusive writer may have filled only in part.
fn refuse_exclusive_writer(data: &DurableData) -> Result<(), ExportError> {
    match data.read(EXCLUSIVE_WRITER)? {
        Some(_) => Err(ExportError::ExclusiveWriter),
        None => Ok(()),
    }
}
