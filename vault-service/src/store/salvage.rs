//! Reader of a store that may be damaged. It reads as much as possible, and changes nothing in the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    ops::Bound,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    KeyFileError,
    checkpoint::{CHECKPOINT_KEY, Checkpoint},
    error::{Mismatch, StoreOpenError},
    fs::remove_dir_if_exists,
    inspection::{Inspection, inspect},
    key_file,
    lock::lock_existing,
    log::{History, Log, UnfinishedBatch},
    marker::Marker,
    repair_file::refuse_unfinished_repair,
    sled_files::DB,
    watchdog,
};

/// The content of a store, read from its log.
pub struct SalvageReader {
    log: Log,
    /// Reason why the vault would refuse the store, as far as it is known.
    refusal: Option<StoreOpenError>,
    has_unlocated_loss: bool,
    /// The newest checkpoint, from the log or from the marker.
    acknowledged: Option<Checkpoint>,
    dir: PathBuf,
    _locks: Vec<File>,
}

/// The history of one key in the log: its states, and their positions in the log.
#[derive(Clone, Copy)]
pub struct KeyHistory<'a> {
    reader: &'a SalvageReader,
    history: &'a History,
}

/// Damage to a store's log.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LogDamage {
    /// Number of parts of the log that could not be read.
    pub gaps: u64,
    /// Total size of the gaps.
    pub gap_bytes: u64,
    /// Number of changes that were read but whose keys are unknown.
    pub unnamed_changes: u64,
    /// Number of messages with one flipped bit, which was corrected.
    pub corrected_messages: u64,
    /// Missing or unreadable bytes of the last write.
    pub torn_bytes: u64,
    /// True when acknowledged changes are missing and their place in the log is unknown.
    pub has_unlocated_loss: bool,
    /// Number of acknowledged groups after the last one that was read.
    pub missing_groups: u64,
}

impl LogDamage {
    /// Returns true when all acknowledged data was read.
    pub fn lost_nothing(&self) -> bool {
        let Self {
            gaps,
            gap_bytes: _,
            unnamed_changes,
            corrected_messages: _,
            torn_bytes: _,
            has_unlocated_loss,
            missing_groups: _,
        } = self;
        (*gaps, *unnamed_changes, *has_unlocated_loss) == (0, 0, false)
    }
}

impl SalvageReader {
    /// Locks and reads the store in `dir`. Blocks.
    pub fn open(dir: &Path) -> Result<Self, StoreOpenError> {
        refuse_unfinished_repair(dir)?;
        let locks = lock_existing(dir)?;
        let inspection = inspect(dir);
        if let Ok(Inspection::New) = inspection {
            return Err(StoreOpenError::NotAStore(dir.to_owned()));
        }
        let marker = Marker::read(dir).ok().flatten().map(|marker| marker.checkpoint);
        let mut reader = Self {
            log: read_log(dir, UnfinishedBatch::Ignore)?,
            refusal: inspection.err(),
            has_unlocated_loss: false,
            acknowledged: None,
            dir: dir.to_owned(),
            _locks: locks,
        };
        if generation(reader.checkpoint()) < generation(marker) {
            reader.log = read_log(dir, UnfinishedBatch::Read)?;
        }
        reader.compare(dir, marker);
        Ok(reader)
    }

    /// Compares the content of the log with the newest checkpoint, which is the log's or the marker's.
    fn compare(&mut self, dir: &Path, marker: Option<Checkpoint>) {
        let (checkpoint, entries) = (self.checkpoint(), self.entries());
        let newest = [checkpoint, marker].into_iter().flatten();
        let Some(newest) = newest.max_by_key(|checkpoint| checkpoint.generation) else {
            return;
        };
        self.acknowledged = Some(newest);
        let found = match checkpoint {
            None => Mismatch::NoCheckpoint,
            Some(checkpoint) if checkpoint.generation < newest.generation => Mismatch::Older {
                expected: newest.generation,
                found: checkpoint.generation,
            },
            Some(_) if newest.entries != entries => Mismatch::Entries {
                expected: newest.entries,
                found: entries,
            },
            Some(_) => return,
        };
        // Gaps in the log explain missing entries, and tell where the entries were.
        let has_gaps = self.log.gaps().count() > 0;
        self.has_unlocated_loss = !(has_gaps && matches!(found, Mismatch::Entries { .. }));
        self.refusal.get_or_insert(StoreOpenError::mismatch(dir, found));
    }

    /// Returns the last checkpoint in the log.
    fn checkpoint(&self) -> Option<Checkpoint> {
        let value = self.log.history(CHECKPOINT_KEY)?.values().next()?;
        Checkpoint::decode(&self.log.value(value).ok()?)
    }

    fn entries(&self) -> u64 {
        let has_checkpoint = self.log.live().contains_key(CHECKPOINT_KEY);
        self.log.live().len() as u64 - u64::from(has_checkpoint)
    }

    /// Finds out whether the vault would open the store, on a copy in the directory `scratch`. The result is in
    /// [`Self::refusal`]. Blocks.
    pub fn try_open(&mut self, dir: &Path, scratch: &Path, cache_bytes: u64) -> Result<(), StoreOpenError> {
        let Ok(Inspection::Store(store)) = inspect(dir) else {
            // `refusal` already holds the reason.
            return Ok(());
        };
        let to = copy_path(dir, scratch)?;
        let opened = watchdog::open_with_limit(dir, move || Ok(store.check_on_copy(&to, cache_bytes)));
        match opened.and_then(|opened| opened) {
            Ok(()) => {}
            Err(error @ StoreOpenError::Files { .. }) => return Err(error),
            Err(refusal) => self.refusal = Some(refusal),
        }
        Ok(())
    }

    /// Returns the error with which the vault would refuse to open the store, as far as it is known.
    pub fn refusal(&self) -> Option<&StoreOpenError> {
        self.refusal.as_ref()
    }

    /// Returns the content of the store's file `keys`; `None` when the file does not exist.
    pub fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        key_file::read(&self.dir, None)
    }

    pub fn log_damage(&self) -> LogDamage {
        LogDamage {
            gaps: self.log.gaps().count(),
            gap_bytes: self.log.gaps().bytes(),
            unnamed_changes: self.log.unnamed_changes(),
            corrected_messages: self.log.corrected_messages(),
            torn_bytes: self.log.torn_bytes(),
            has_unlocated_loss: self.has_unlocated_loss,
            missing_groups: generation(self.acknowledged).saturating_sub(generation(self.checkpoint())),
        }
    }

    /// Returns true when the unreadable parts may contain a change that consists of `messages` log messages and was
    /// made after the position `after`.
    pub fn may_hide(&self, messages: u64, after: u64) -> bool {
        self.has_unlocated_loss || self.log.gaps().messages_after(after) >= messages
    }

    /// Returns the history of `key`; `None` when the log does not mention `key`.
    pub fn history(&self, key: &[u8]) -> Option<KeyHistory<'_>> {
        let history = self.log.history(key)?;
        Some(KeyHistory {
            reader: self,
            history,
        })
    }

    /// Returns the value at `key`; `None` when the key has no value or the value cannot be read.
    pub fn read(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.history(key)
            .filter(|history| !history.is_deleted())?
            .values()
            .next()
    }

    /// Returns every key that starts with `prefix` and has or had a value.
    pub fn keys(&self, prefix: &[u8]) -> BTreeSet<&[u8]> {
        let deleted = keys_with_prefix(self.log.deleted(), prefix);
        self.live(prefix).chain(deleted).collect()
    }

    /// Returns every key that starts with `prefix` and has a value.
    pub fn live(&self, prefix: &[u8]) -> impl Iterator<Item = &[u8]> {
        keys_with_prefix(self.log.live(), prefix)
    }
}

fn keys_with_prefix<'a>(
    histories: &'a BTreeMap<Vec<u8>, History>,
    prefix: &[u8],
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let from = (Bound::Included(prefix), Bound::Unbounded);
    let keys = histories.range::<[u8], _>(from).map(|(key, _)| key.as_slice());
    let prefix = prefix.to_vec();
    keys.take_while(move |key| key.starts_with(&prefix))
}

fn generation(checkpoint: Option<Checkpoint>) -> u64 {
    checkpoint.map_or(0, |checkpoint| checkpoint.generation)
}

impl<'a> KeyHistory<'a> {
    /// Returns true when the key has no value any more.
    pub fn is_deleted(self) -> bool {
        self.history.is_deleted()
    }

    /// Returns the position in the log at which the key got its current state.
    pub fn changed_at(self) -> u64 {
        self.history.changed_at()
    }

    /// Returns the position in the log that last confirms the key's current state.
    pub fn confirmed_at(self) -> u64 {
        self.history.confirmed_at()
    }

    /// Returns the key's readable values, the newest first.
    pub fn values(self) -> impl Iterator<Item = Vec<u8>> + use<'a> {
        let log = &self.reader.log;
        self.history.values().filter_map(|value| log.value(value).ok())
    }

    /// Returns the key's readable values from after its last deletion, the newest first.
    pub fn values_since_deletion(self) -> impl Iterator<Item = Vec<u8>> + use<'a> {
        let log = &self.reader.log;
        let values = self.history.values_since_deletion();
        values.filter_map(|value| log.value(value).ok())
    }
}

fn read_log(dir: &Path, unfinished: UnfinishedBatch) -> Result<Log, StoreOpenError> {
    Log::read(&dir.join(DB), unfinished).map_err(|error| match error {
        StoreOpenError::Files { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            StoreOpenError::mismatch(dir, Mismatch::NoData)
        }
        error => error,
    })
}

/// Returns the path for a copy of the store in `dir`. A process copies a store only while it holds the store's lock, so
/// an existing copy was left by a killed process, and is removed.
fn copy_path(dir: &Path, scratch: &Path) -> Result<PathBuf, StoreOpenError> {
    let at = fs::metadata(dir).map_err(StoreOpenError::files("read", dir))?;
    let to = scratch.join(format!("aerostack-check-{:x}-{:x}", at.dev(), at.ino()));
    remove_dir_if_exists(&to)?;
    Ok(to)
}
