//! Merging of the batches of a group into one sled batch.

use std::collections::HashMap;

use super::{
    CommitError,
    batch::{Batch, EXCLUSIVE_WRITER},
    checkpoint::{CHECKPOINT_KEY, Checkpoint},
    durable::BeforeImages,
    scan::read,
};

/// The merged writes of a group's batches.
///
/// sled gets the group as one batch, because it writes and awaits one or two buffers for each batch: 64 separate batches
/// would cost a hundred waits for the disk instead of one.
pub(super) struct StagedGroup<'a> {
    db: &'a sled::Db,
    writes: HashMap<Vec<u8>, Option<sled::IVec>>,
    before_images: BeforeImages,
    /// True when batches may make the store larger.
    may_grow: bool,
    /// Number of entries that the group adds to the store.
    added: i64,
}

impl<'a> StagedGroup<'a> {
    pub(super) fn new(db: &'a sled::Db, may_grow: bool) -> Self {
        Self {
            db,
            writes: HashMap::new(),
            before_images: BeforeImages::new(),
            may_grow,
            added: 0,
        }
    }

    /// Checks the batch against the staged and stored values, and stages all of its writes or none.
    pub(super) fn stage(&mut self, batch: Batch) -> Result<(), CommitError> {
        self.check_preconditions(&batch)?;
        let (mut added, mut grown) = (0, 0);
        let mut writes = Vec::with_capacity(batch.writes.len());
        for (key, write) in batch.writes {
            // The old value is read even for a put. If its page is damaged, that read refuses this batch; otherwise sled
            // would fail in the middle of the group, and the store would have to stop.
            let before = self.current(&key)?;
            let after = write.apply(before.as_deref())?;
            added += i64::from(after.is_some()) - i64::from(before.is_some());
            grown += entry_size(&key, after.as_deref()) - entry_size(&key, before.as_deref());
            writes.push((key, before, after));
        }
        if !self.may_grow && grown >= 0 && !writes.is_empty() {
            return Err(CommitError::Full);
        }
        self.added += added;
        for (key, before, after) in writes {
            // For a key that several batches write, the first of them has the value from before the group.
            self.before_images.entry(key.clone()).or_insert(before);
            self.writes.insert(key, after);
        }
        Ok(())
    }

    fn check_preconditions(&self, batch: &Batch) -> Result<(), CommitError> {
        let is_exclusive = batch.expected.iter().any(|(key, _)| key == EXCLUSIVE_WRITER);
        if !is_exclusive && self.current(EXCLUSIVE_WRITER)?.is_some() {
            return Err(CommitError::ExclusiveWriter);
        }
        for (key, expected) in &batch.expected {
            if self.current(key)?.as_deref() != expected.as_deref() {
                return Err(CommitError::Conflict);
            }
        }
        Ok(())
    }

    fn current(&self, key: &[u8]) -> Result<Option<sled::IVec>, CommitError> {
        match self.writes.get(key) {
            Some(staged) => Ok(staged.clone()),
            None => read(self.db, key).map_err(CommitError::Unreadable),
        }
    }

    /// Returns the number of entries that the group adds; `None` when the group writes nothing.
    pub(super) fn added(&self) -> Option<i64> {
        (!self.writes.is_empty()).then_some(self.added)
    }

    /// Returns the sled batch, which contains the writes and the checkpoint, and the group's before-images.
    pub(super) fn into_sled(self, checkpoint: &Checkpoint) -> (sled::Batch, BeforeImages) {
        let mut batch = sled::Batch::default();
        batch.insert(CHECKPOINT_KEY, checkpoint.encode());
        for (key, value) in self.writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        (batch, self.before_images)
    }
}

/// Returns the size of an entry in bytes; 0 when the entry does not exist.
fn entry_size(key: &[u8], value: Option<&[u8]>) -> i64 {
    let size = value.map_or(0, |value| key.len() + value.len());
    i64::try_from(size).unwrap_or(i64::MAX)
}
