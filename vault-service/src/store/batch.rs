//! Batches: preconditions and writes that happen together or not at all.

use std::collections::BTreeMap;

use super::{CommitError, checkpoint::CHECKPOINT_KEY};

/// Maximum size of an entry, key and value together. A leaf's 19 entries of this size stay below sled's limit for a page in
/// the log (2 MiB of an 8 MiB segment). sled would put a larger page into `blobs/`, which it never syncs.
pub(crate) const MAX_ENTRY: usize = 96 * 1024;

/// Maximum size of a batch. Together with the limit of a group it keeps the bytes that sled applies at once well below a
/// segment, so that hardly any of them reach the disk before all of them are applied.
pub(crate) const MAX_BATCH: usize = 1024 * 1024;

/// Key of the entry that gives one writer the store for itself, also after a crash. While the entry exists, only batches
/// that expect its value are applied; a writer creates and deletes the entry by such batches.
pub const EXCLUSIVE_WRITER: &[u8] = b"hold";

/// Preconditions and writes that happen together or not at all.
///
/// Preconditions compare with the state before the batch. A batch writes each key at most once.
#[derive(Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    /// Expected values; `None` for a key that must have no value.
    pub(super) expected: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) writes: BTreeMap<Vec<u8>, Write>,
}

pub(super) enum Write {
    Put(Vec<u8>),
    Delete,
    Add { delta: i64, limit: Option<u64> },
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the precondition that `key` has no value.
    pub fn expect_absent(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.expected.push((key.into(), None));
        self
    }

    /// Adds the precondition that `key` has exactly this value.
    pub fn expect_value(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.expected.push((key.into(), Some(value.into())));
        self
    }

    pub fn put(self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.write(key, Write::Put(value.into()))
    }

    /// Removes the value of `key` if there is one.
    pub fn delete(self, key: impl Into<Vec<u8>>) -> Self {
        self.write(key, Write::Delete)
    }

    /// Adds `delta` to the counter at `key`: a big-endian `u64`, which has no entry while it is 0.
    ///
    /// A batch whose increase passes `limit` is refused; a decrease is never refused for the limit. The sum is computed
    /// when the batch is applied, so that many writers can change one counter without retries.
    pub fn add(self, key: impl Into<Vec<u8>>, delta: i64, limit: Option<u64>) -> Self {
        self.write(key, Write::Add { delta, limit })
    }

    fn write(mut self, key: impl Into<Vec<u8>>, write: Write) -> Self {
        let replaced = self.writes.insert(key.into(), write);
        debug_assert!(replaced.is_none(), "a batch writes each key once");
        self
    }

    /// Returns the size of all written keys and values, in bytes.
    pub(super) fn size(&self) -> usize {
        self.writes.iter().map(entry_size).sum()
    }

    /// Checks the size, and that no key is the checkpoint's.
    pub(super) fn check(&self) -> Result<(), CommitError> {
        let fits = self.size() <= MAX_BATCH && self.writes.iter().all(|entry| entry_size(entry) <= MAX_ENTRY);
        let mut keys = self.writes.keys().chain(self.expected.iter().map(|(key, _)| key));
        match (fits, keys.any(|key| key == CHECKPOINT_KEY)) {
            (true, false) => Ok(()),
            (false, _) => Err(CommitError::TooLarge),
            (true, true) => Err(CommitError::Reserved),
        }
    }
}

impl Write {
    /// Returns the value after the write; `None` for no value.
    pub(super) fn apply(self, before: Option<&[u8]>) -> Result<Option<sled::IVec>, CommitError> {
        match self {
            Self::Put(value) => Ok(Some(value.into())),
            Self::Delete => Ok(None),
            Self::Add { delta, limit } => {
                let count = counter_sum(before, delta, limit)?;
                Ok((count > 0).then(|| sled::IVec::from(&count.to_be_bytes())))
            }
        }
    }
}

fn counter_sum(before: Option<&[u8]>, delta: i64, limit: Option<u64>) -> Result<u64, CommitError> {
    let before = match before {
        Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| CommitError::Counter)?),
        None => 0,
    };
    let count = before.checked_add_signed(delta).ok_or(CommitError::Counter)?;
    match limit {
        Some(limit) if delta > 0 && count > limit => Err(CommitError::LimitReached),
        Some(_) | None => Ok(count),
    }
}

fn entry_size((key, write): (&Vec<u8>, &Write)) -> usize {
    let value = match write {
        Write::Put(value) => value.len(),
        Write::Delete => 0,
        Write::Add { .. } => size_of::<u64>(),
    };
    key.len().saturating_add(value)
}
