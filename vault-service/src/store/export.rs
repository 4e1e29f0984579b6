//! All that is in the store at one moment, while commits go on.
//!
//! Entries are read in the order of their keys, part by part; nothing is held meanwhile. The commit thread notes the
//! keys that it changes. They are read again, in rounds that get shorter, and the last round is done by the commit
//! thread itself, between two groups: what was given then adds up to exactly what is there. So commits wait once, for
//! one short round.
//!
//! A key is noted only after readers see its change. A key noted earlier could be read again before its change is
//! visible, and the change would be missing.

use std::{
    collections::{BTreeSet, btree_set},
    mem,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{
    EXCLUSIVE_WRITER, Entry, ExportError, Fault, Shared, Store, commit::Request, marker, reading::Chunk,
};

/// Bytes after which a part is given.
const PART: usize = 256 * 1024;
/// Noted keys, with what each takes beside its bytes: from here on they are read again before more is.
const MANY: usize = 4 * 1024 * 1024;
/// From here on the export is given up: whoever reads it is too slow.
const TOO_MANY: usize = 64 * 1024 * 1024;
/// What a noted key takes beside its bytes, roughly.
const OVERHEAD: usize = 48;
/// Keys that the commit thread reads in the last round, and bytes of their values: some milliseconds.
const LAST: (usize, usize) = (1024, 1024 * 1024);
/// Rounds after all was read once. Few are needed, unless changes come faster than they are read.
const ROUNDS: usize = 1000;

/// What was found at a key. It takes the place of what was given for that key before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This entry.
    Put(Entry),
    /// Nothing, at this key.
    Delete(Vec<u8>),
}

/// An export under way; there is one at a time.
pub struct Export {
    store: Store,
    /// The key after which the first reading goes on; none when it is over.
    scan: Option<Bound<Vec<u8>>>,
    /// Keys of the round under way.
    round: btree_set::IntoIter<Vec<u8>>,
    rounds_left: usize,
    over: bool,
}

/// The keys that were changed since an export began.
#[derive(Default)]
pub(super) struct Watch(Mutex<Noted>);

#[derive(Default)]
enum Noted {
    /// No export is under way.
    #[default]
    Nothing,
    Keys {
        keys: BTreeSet<Vec<u8>>,
        bytes: usize,
    },
    TooMany,
}

/// The last round, as a request to the commit thread.
pub(super) struct Settle(oneshot::Sender<Result<Settled, ExportError>>);

struct Settled {
    changes: Vec<Change>,
    /// Whether no key is left to be read again.
    over: bool,
}

impl Store {
    /// Begins to give all that is in the store.
    pub fn export(&self) -> Result<Export, ExportError> {
        refuse_held(&self.shared)?;
        self.shared.watch.begin()?;
        Ok(Export {
            store: self.clone(),
            scan: Some(Bound::Unbounded),
            round: BTreeSet::new().into_iter(),
            rounds_left: ROUNDS,
            over: false,
        })
    }
}

impl Export {
    /// The next changes; none when they add up to what was there at the moment when the last ones were read.
    ///
    /// Blocking. It takes as much memory as a part and the noted keys, however large the store is.
    pub fn next_part(&mut self) -> Result<Option<Vec<Change>>, ExportError> {
        while !self.over {
            let part = self.go_on()?;
            if !part.is_empty() {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    /// Finishes a round before it begins another; in between it reads what was not read yet.
    fn go_on(&mut self) -> Result<Vec<Change>, ExportError> {
        let again = read_keys(&self.store.shared, &mut self.round, (usize::MAX, PART))?;
        if !again.is_empty() {
            return Ok(again);
        }
        let noted = self.store.shared.watch.size()?;
        match self.scan.take() {
            Some(from) if noted < MANY => Ok(self.scan(from)?),
            scan => {
                self.scan = scan;
                self.next_round()
            }
        }
    }

    fn scan(&mut self, from: Bound<Vec<u8>>) -> Result<Vec<Change>, Fault> {
        let range = (from.as_ref().map(Vec::as_slice), Bound::Unbounded);
        let Chunk { entries, rest } = self.store.shared.chunk(range, usize::MAX, PART)?;
        self.scan = rest.map(|last| Bound::Excluded(last.to_vec()));
        let travelling = entries.into_iter().filter(|(key, _)| travels(key));
        Ok(travelling
            .map(|(key, value)| found(key.to_vec(), Some(value)))
            .collect())
    }

    /// Reads again what was changed: all of it, here; or the little that is left, on the commit thread.
    fn next_round(&mut self) -> Result<Vec<Change>, ExportError> {
        let watch = &self.store.shared.watch;
        if self.scan.is_none() {
            self.rounds_left = self.rounds_left.checked_sub(1).ok_or(ExportError::Outpaced)?;
            if watch.count()? <= LAST.0 {
                let Settled { changes, over } = self.settle()?;
                self.over = over;
                return Ok(changes);
            }
        }
        self.round = watch.take()?.into_iter();
        Ok(Vec::new())
    }

    fn settle(&self) -> Result<Settled, ExportError> {
        let (reply, answer) = oneshot::channel();
        let ended = || ExportError::Ended(self.store.shared.why_ended());
        let sent = self.store.queue.blocking_send(Request::Settle(Settle(reply)));
        sent.map_err(|_| ended())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.store.shared.watch.end();
    }
}

impl Settle {
    /// On the commit thread. Whatever fails here fails the export, and nothing else.
    pub(super) fn run(self, shared: &Shared) {
        // That the export was given up meanwhile is not our concern.
        let _ = self.0.send(settled(shared));
    }
}

fn settled(shared: &Shared) -> Result<Settled, ExportError> {
    refuse_held(shared)?;
    let mut keys = shared.watch.take()?.into_iter();
    let changes = read_keys(shared, &mut keys, LAST)?;
    let left: Vec<_> = keys.collect();
    let over = left.is_empty();
    shared.watch.note(left);
    Ok(Settled { changes, over })
}

impl Watch {
    /// Notes changed keys. Must be called after readers see the changes.
    pub(super) fn note(&self, changed: Vec<Vec<u8>>) {
        let mut noted = self.noted();
        let Noted::Keys { keys, bytes } = &mut *noted else {
            return;
        };
        for key in changed.into_iter().filter(|key| travels(key)) {
            let size = key.len() + OVERHEAD;
            if keys.insert(key) {
                *bytes += size;
            }
        }
        if *bytes > TOO_MANY {
            *noted = Noted::TooMany;
        }
    }

    fn begin(&self) -> Result<(), ExportError> {
        let mut noted = self.noted();
        match *noted {
            Noted::Nothing => {
                *noted = Noted::none();
                Ok(())
            }
            Noted::Keys { .. } | Noted::TooMany => Err(ExportError::UnderWay),
        }
    }

    fn end(&self) {
        *self.noted() = Noted::Nothing;
    }

    fn take(&self) -> Result<BTreeSet<Vec<u8>>, ExportError> {
        match mem::replace(&mut *self.noted(), Noted::none()) {
            Noted::Keys { keys, .. } => Ok(keys),
            Noted::Nothing | Noted::TooMany => Err(ExportError::Outpaced),
        }
    }

    fn size(&self) -> Result<usize, ExportError> {
        self.noted().keys().map(|(_, bytes)| bytes)
    }

    fn count(&self) -> Result<usize, ExportError> {
        self.noted().keys().map(|(keys, _)| keys.len())
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn none() -> Self {
        Self::Keys {
            keys: BTreeSet::new(),
            bytes: 0,
        }
    }

    fn keys(&self) -> Result<(&BTreeSet<Vec<u8>>, usize), ExportError> {
        match self {
            Self::Keys { keys, bytes } => Ok((keys, *bytes)),
            Self::Nothing | Self::TooMany => Err(ExportError::Outpaced),
        }
    }
}

/// What is at the next keys, up to so many, and so many bytes.
fn read_keys(
    shared: &Shared,
    keys: &mut btree_set::IntoIter<Vec<u8>>,
    (most, mut bytes): (usize, usize),
) -> Result<Vec<Change>, Fault> {
    let mut changes = Vec::new();
    while bytes > 0 && changes.len() < most {
        let Some(key) = keys.next() else { break };
        let value = shared.read(&key)?.value;
        let size = key.len() + value.as_ref().map_or(0, |value| value.len());
        bytes = bytes.saturating_sub(size.max(1));
        changes.push(found(key, value));
    }
    Ok(changes)
}

fn found(key: Vec<u8>, value: Option<sled::IVec>) -> Change {
    match value {
        Some(value) => Change::Put(Entry {
            key,
            value: value.to_vec(),
        }),
        None => Change::Delete(key),
    }
}

/// What is the store's own, or says something of this store alone, does not leave it.
fn travels(key: &[u8]) -> bool {
    key != EXCLUSIVE_WRITER && key != marker::KEY
}

/// Who has the store to itself may have filled it by half.
fn refuse_held(shared: &Shared) -> Result<(), ExportError> {
    match shared.read(EXCLUSIVE_WRITER)?.value {
        Some(_) => Err(ExportError::ExclusiveWriter),
        None => Ok(()),
    }
}
