//! Reader of a store that may be damaged. It reads as much as possible, and changes nothing in the store.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    ops::Bound,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    KeyFileError, OpenError,
    error::Disagreement,
    files::{self, DB, failed},
    guard::{self, Ground},
    key_file,
    log::{self, Log, Unfinished},
    marker::{self, Marker, Tally},
    repairing, watchdog,
};

/// A store as its log contains it.
pub struct SalvageReader {
    log: Log,
    refusal: Option<OpenError>,
    /// True when acknowledged data cannot be read and its place in the log is unknown.
    is_short: bool,
    /// The newest description of the store: the log's or the marker's.
    acknowledged: Option<Tally>,
    dir: PathBuf,
    _locks: Vec<File>,
}

/// The history of one key in the log: its state, and the position in the log at which it got that state.
#[derive(Clone, Copy)]
pub struct KeyHistory<'a> {
    salvage: &'a SalvageReader,
    trace: &'a log::History,
}

/// Extent to which the log could be read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LogDamage {
    /// Number of parts of the log that could not be read.
    pub gaps: u64,
    /// Total size of these parts, in bytes.
    pub bytes: u64,
    /// Number of changes that could be read except for the names in them.
    pub nameless: u64,
    /// Messages with one flipped bit, which was flipped back.
    pub corrected: u64,
    /// Bytes of the last write, if it is not whole.
    pub torn: u64,
    /// True when changes are missing and their place in the log is unknown.
    pub is_short: bool,
    /// Groups of changes that were acknowledged after the last one that can be read.
    pub missing_groups: u64,
}

impl LogDamage {
    /// Returns true when all acknowledged data was read.
    pub fn lost_nothing(&self) -> bool {
        let Self {
            gaps,
            bytes: _,
            nameless,
            corrected: _,
            torn: _,
            is_short,
            missing_groups: _,
        } = self;
        (*gaps, *nameless, *is_short) == (0, 0, false)
    }
}

impl SalvageReader {
    /// Reads the store in `dir`. Blocking.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        repairing::refuse(dir)?;
        let locks = lock(dir)?;
        let ground = guard::inspect(dir);
        if let Ok(Ground::New) = ground {
            return Err(OpenError::NotAStore(dir.to_owned()));
        }
        let marker = Marker::read(dir).ok().flatten().map(|marker| marker.tally);
        let mut salvage = Self {
            log: read(dir, Unfinished::LeftOut)?,
            refusal: ground.err(),
            is_short: false,
            acknowledged: None,
            dir: dir.to_owned(),
            _locks: locks,
        };
        let acknowledged = marker.map_or(0, |tally| tally.generation);
        if salvage.tally().map_or(0, |tally| tally.generation) < acknowledged {
            salvage.log = read(dir, Unfinished::Read)?;
        }
        salvage.compare(dir, marker);
        Ok(salvage)
    }

    /// Compares the entries of the log with the newest tally, which is the log's or the marker's.
    fn compare(&mut self, dir: &Path, marker: Option<Tally>) {
        let (tally, entries) = (self.tally(), self.entries());
        let newest = [tally, marker].into_iter().flatten();
        let Some(newest) = newest.max_by_key(|tally| tally.generation) else {
            return;
        };
        self.acknowledged = Some(newest);
        let found = match tally {
            None => Disagreement::Undescribed,
            Some(tally) if tally.generation < newest.generation => Disagreement::Older {
                expected: newest.generation,
                found: tally.generation,
            },
            Some(_) if newest.entries != entries => Disagreement::Entries {
                expected: newest.entries,
                found: entries,
            },
            Some(_) => return,
        };
        // Gaps in the log explain missing entries, and also tell where the entries were.
        let has_gaps = self.log.gaps().count() > 0;
        self.is_short = !(has_gaps && matches!(found, Disagreement::Entries { .. }));
        self.refusal.get_or_insert(OpenError::Disagrees {
            dir: dir.to_owned(),
            found,
        });
    }

    /// Reads the store's last tally in the log.
    fn tally(&self) -> Option<Tally> {
        let value = self.log.trace(marker::KEY)?.values().next()?;
        Tally::decode(&self.log.value(value).ok()?)
    }

    fn entries(&self) -> u64 {
        let own = self.log.live().contains_key(marker::KEY);
        self.log.live().len() as u64 - u64::from(own)
    }

    /// Finds out whether the vault would open the store, on a copy in the folder `scratch`. Blocking.
    pub fn try_open(&mut self, dir: &Path, scratch: &Path, cache_bytes: u64) -> Result<(), OpenError> {
        let Ok(Ground::Store(known)) = guard::inspect(dir) else {
            // `refusal` already holds the reason.
            return Ok(());
        };
        let to = copy_of(dir, scratch)?;
        let opened = watchdog::opening(dir, move || Ok(known.opens_on_copy(&to, cache_bytes)));
        match opened.and_then(|opened| opened) {
            Ok(()) => {}
            Err(error @ OpenError::Files { .. }) => return Err(error),
            Err(refusal) => self.refusal = Some(refusal),
        }
        Ok(())
    }

    /// Returns the error with which the vault would refuse to open the store, as far as it is known.
    pub fn refusal(&self) -> Option<&OpenError> {
        self.refusal.as_ref()
    }

    /// Returns the content of the store's file `keys`; `None` when the file does not exist.
    pub fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        key_file::read(&self.dir, None)
    }

    /// Returns the extent to which the log could be read.
    pub fn log_damage(&self) -> LogDamage {
        LogDamage {
            gaps: self.log.gaps().count(),
            bytes: self.log.gaps().bytes(),
            nameless: self.log.nameless(),
            corrected: self.log.corrections(),
            torn: self.log.torn(),
            is_short: self.is_short,
            missing_groups: self.missing_groups(),
        }
    }

    fn missing_groups(&self) -> u64 {
        let generation = |tally: Option<Tally>| tally.map_or(0, |tally| tally.generation);
        generation(self.acknowledged).saturating_sub(generation(self.tally()))
    }

    /// Returns true when the unreadable parts may contain a change that consists of `messages` log messages and was
    /// made after the position `after`.
    pub fn may_hide(&self, messages: u64, after: u64) -> bool {
        self.is_short || self.log.gaps().messages_after(after) >= messages
    }

    /// Returns the history of `key`; `None` when the log does not mention `key`.
    pub fn history(&self, key: &[u8]) -> Option<KeyHistory<'_>> {
        let trace = self.log.trace(key)?;
        Some(KeyHistory { salvage: self, trace })
    }

    /// Returns the value at `key`; `None` when the key has no value or the value cannot be read.
    pub fn read(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.history(key)
            .filter(|trace| !trace.is_deleted())?
            .values()
            .next()
    }

    /// Returns every key that starts with `prefix` and has or had a value.
    pub fn keys(&self, prefix: &[u8]) -> BTreeSet<&[u8]> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let live = self.log.live().range::<[u8], _>(from);
        let deleted = self.log.deleted().range::<[u8], _>(from);
        let with_prefix = |(key, _): &(&Vec<u8>, _)| key.starts_with(prefix);
        let live = live.take_while(with_prefix).map(|(key, _)| key.as_slice());
        let deleted = deleted.take_while(with_prefix).map(|(key, _)| key.as_slice());
        live.chain(deleted).collect()
    }

    /// Returns every key that starts with `prefix` and has a value.
    pub fn live(&self, prefix: &[u8]) -> impl Iterator<Item = &[u8]> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let live = self
            .log
            .live()
            .range::<[u8], _>(from)
            .map(|(key, _)| key.as_slice());
        let prefix = prefix.to_vec();
        live.take_while(move |key| key.starts_with(&prefix))
    }
}

impl<'a> KeyHistory<'a> {
    /// Returns true when the key has no value any more.
    pub fn is_deleted(self) -> bool {
        self.trace.is_deleted()
    }

    /// Returns the position in the log at which the key got its current state.
    pub fn changed_at(self) -> u64 {
        self.trace.changed_at()
    }

    /// Returns the position in the log that last confirms the key's current state.
    pub fn confirmed_at(self) -> u64 {
        self.trace.confirmed_at()
    }

    /// Returns the key's readable values, the newest first.
    pub fn values(self) -> impl Iterator<Item = Vec<u8>> + use<'a> {
        let log = &self.salvage.log;
        self.trace.values().filter_map(|value| log.value(value).ok())
    }

    /// Returns the key's readable values from after its last deletion, the newest first.
    pub fn values_since_deletion(self) -> impl Iterator<Item = Vec<u8>> + use<'a> {
        let log = &self.salvage.log;
        let values = self.trace.values_since_deletion();
        values.filter_map(|value| log.value(value).ok())
    }
}

fn read(dir: &Path, unfinished: Unfinished) -> Result<Log, OpenError> {
    Log::read(&dir.join(DB), unfinished).map_err(|error| match error {
        OpenError::Files { source, .. } if source.kind() == io::ErrorKind::NotFound => OpenError::Disagrees {
            dir: dir.to_owned(),
            found: Disagreement::NoData,
        },
        error => error,
    })
}

/// Returns the path for a copy of the store in `dir`. A process copies a store only while it holds the store's lock, so
/// an existing copy was left by a killed process, and is removed.
fn copy_of(dir: &Path, scratch: &Path) -> Result<PathBuf, OpenError> {
    let at = fs::metadata(dir).map_err(failed("read", dir))?;
    let to = scratch.join(format!("aerostack-check-{:x}-{:x}", at.dev(), at.ino()));
    guard::remove_copy(&to)?;
    Ok(to)
}

/// As the vault locks it, but makes nothing.
fn lock(dir: &Path) -> Result<Vec<File>, OpenError> {
    let mut locks = Vec::new();
    for name in [files::LOCK, DB] {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let file = File::open(&path).map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => locks.push(file),
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
    }
    Ok(locks)
}
