//! A batch, and how batches of one group are checked and staged for sled.

use std::collections::{BTreeMap, HashMap};

use super::{CommitError, marker, read, reading::Images};

/// Largest key and value together. A leaf's 19 entries of this size stay below sled's limit for a page
/// in the log (2 MiB of an 8 MiB segment); above it they would go to `blobs/`, which is never synced.
pub(crate) const MAX_ENTRY: usize = 96 * 1024;

/// Largest batch. With a group's bound it keeps what sled applies at once well below a segment, so that
/// hardly any of it goes to the disk before all of it was applied.
pub(crate) const MAX_BATCH: usize = 1024 * 1024;

/// While there is something at this key, only batches that say what they expect there are applied: whoever put it there
/// has the store to itself, after a crash too.
pub const EXCLUSIVE_WRITER: &[u8] = b"hold";

/// Preconditions and writes that happen together or not at all.
///
/// Preconditions look at what was there before the batch. Each key is written at most once; a second
/// write to it takes the place of the first.
#[derive(Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    expected: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    writes: BTreeMap<Vec<u8>, Write>,
}

enum Write {
    Put(Vec<u8>),
    Delete,
    Add { delta: i64, limit: Option<u64> },
}

impl Batch {
    /// A batch without writes, which always holds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds if there is nothing at `key`.
    pub fn expect_absent(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.expected.push((key.into(), None));
        self
    }

    /// Holds if exactly `value` is at `key`.
    pub fn expect_value(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.expected.push((key.into(), Some(value.into())));
        self
    }

    /// Sets `key` to `value`.
    pub fn put(self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.write(key, Write::Put(value.into()))
    }

    /// Removes `key`, if it is there.
    pub fn delete(self, key: impl Into<Vec<u8>>) -> Self {
        self.write(key, Write::Delete)
    }

    /// Adds `delta` to the counter at `key`: a big-endian `u64`, absent while it is 0.
    ///
    /// An increase beyond `limit` refuses the batch; a decrease never does. It is computed when the
    /// batch is applied, so that many writers may change one counter without retries.
    pub fn add(self, key: impl Into<Vec<u8>>, delta: i64, limit: Option<u64>) -> Self {
        self.write(key, Write::Add { delta, limit })
    }

    fn write(mut self, key: impl Into<Vec<u8>>, write: Write) -> Self {
        let replaced = self.writes.insert(key.into(), write);
        debug_assert!(replaced.is_none(), "a batch writes each key once");
        self
    }

    /// Bytes of its keys and values, preconditions aside.
    pub(super) fn size(&self) -> usize {
        self.writes.iter().map(entry_size).sum()
    }

    pub(super) fn check(&self) -> Result<(), CommitError> {
        let fits = self.size() <= MAX_BATCH && self.writes.iter().all(|entry| entry_size(entry) <= MAX_ENTRY);
        let mut keys = self.writes.keys().chain(self.expected.iter().map(|(key, _)| key));
        match (fits, keys.any(|key| key == marker::KEY)) {
            (true, false) => Ok(()),
            (false, _) => Err(CommitError::TooLarge),
            (true, true) => Err(CommitError::Reserved),
        }
    }

    /// Checks the batch against what is staged and stored, and stages its writes, all or none.
    pub(super) fn stage(self, staged: &mut Staged<'_>) -> Result<(), CommitError> {
        let holds = self.expected.iter().any(|(key, _)| key == EXCLUSIVE_WRITER);
        if !holds && staged.current(EXCLUSIVE_WRITER)?.is_some() {
            return Err(CommitError::ExclusiveWriter);
        }
        for (key, expected) in &self.expected {
            if staged.current(key)?.as_deref() != expected.as_deref() {
                return Err(CommitError::Conflict);
            }
        }
        let (mut added, mut grown) = (0, 0);
        let mut writes = Vec::with_capacity(self.writes.len());
        for (key, write) in self.writes {
            // Read even what is overwritten: a damaged page then refuses this batch, instead of
            // failing sled in the middle of a group, after which the store would have to stop.
            let now = staged.current(&key)?;
            let then = write.outcome(now.as_deref())?;
            added += i64::from(then.is_some()) - i64::from(now.is_some());
            grown += size_of_entry(&key, then.as_deref()) - size_of_entry(&key, now.as_deref());
            writes.push((key, now, then));
        }
        if !staged.may_grow && grown >= 0 && !writes.is_empty() {
            return Err(CommitError::Full);
        }
        staged.added += added;
        for (key, now, then) in writes {
            // Only the first batch of the group that writes a key saw the value from before the group.
            staged.before.entry(key.clone()).or_insert(now);
            staged.writes.insert(key, then);
        }
        Ok(())
    }
}

/// The writes of one group so far, over what is stored.
///
/// sled gets them as one batch: it writes and awaits a buffer or two for each, so that a group of 64
/// would cost a hundred waits for the disk, not one.
pub(super) struct Staged<'a> {
    db: &'a sled::Db,
    writes: HashMap<Vec<u8>, Option<sled::IVec>>,
    before: Images,
    /// True when batches may make the store larger.
    may_grow: bool,
    /// Number of entries that the group adds to the store.
    added: i64,
}

impl<'a> Staged<'a> {
    pub(super) fn over(db: &'a sled::Db, may_grow: bool) -> Self {
        Self {
            db,
            writes: HashMap::new(),
            before: Images::new(),
            may_grow,
            added: 0,
        }
    }

    fn current(&self, key: &[u8]) -> Result<Option<sled::IVec>, CommitError> {
        match self.writes.get(key) {
            Some(staged) => Ok(staged.clone()),
            None => read(self.db, key).map_err(CommitError::Unreadable),
        }
    }

    /// How many entries the writes add, if there are any writes.
    pub(super) fn added(&self) -> Option<i64> {
        (!self.writes.is_empty()).then_some(self.added)
    }

    /// Returns the sled batch, which contains the writes and the store's updated tally, and the values from before the
    /// group.
    pub(super) fn into_sled(self, tally: &marker::Tally) -> (sled::Batch, Images) {
        let mut batch = sled::Batch::default();
        batch.insert(marker::KEY, tally.encode());
        for (key, value) in self.writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        (batch, self.before)
    }
}

impl Write {
    /// What the key holds afterwards.
    fn outcome(self, now: Option<&[u8]>) -> Result<Option<sled::IVec>, CommitError> {
        match self {
            Self::Put(value) => Ok(Some(value.into())),
            Self::Delete => Ok(None),
            Self::Add { delta, limit } => {
                let count = added(now, delta, limit)?;
                Ok((count > 0).then(|| sled::IVec::from(&count.to_be_bytes())))
            }
        }
    }
}

fn added(now: Option<&[u8]>, delta: i64, limit: Option<u64>) -> Result<u64, CommitError> {
    let now = match now {
        Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| CommitError::Counter)?),
        None => 0,
    };
    let count = now.checked_add_signed(delta).ok_or(CommitError::Counter)?;
    match limit {
        Some(limit) if delta > 0 && count > limit => Err(CommitError::LimitReached),
        Some(_) | None => Ok(count),
    }
}

/// Returns the size of an entry in bytes; 0 when the entry does not exist.
fn size_of_entry(key: &[u8], value: Option<&[u8]>) -> i64 {
    let size = value.map_or(0, |value| key.len() + value.len());
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn entry_size((key, write): (&Vec<u8>, &Write)) -> usize {
    let value = match write {
        Write::Put(value) => value.len(),
        Write::Delete => 0,
        Write::Add { .. } => size_of::<u64>(),
    };
    key.len().saturating_add(value)
}
