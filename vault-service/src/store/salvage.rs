//! Reading a store that may be damaged, as far as it can be read, and without touching it.

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

/// A store, as its log has it.
pub struct Salvage {
    log: Log,
    refusal: Option<OpenError>,
    /// Whether more was acknowledged than can be read, wherever in the log it was.
    is_short: bool,
    /// The newest description of the store: the log's or the marker's.
    acknowledged: Option<Tally>,
    dir: PathBuf,
    _locks: Vec<File>,
}

/// What the log says of one key: its state, and when in the log's order it came to it.
#[derive(Clone, Copy)]
pub struct Trace<'a> {
    salvage: &'a Salvage,
    trace: &'a log::Trace,
}

/// How much of the log could be read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Legibility {
    /// Parts that could not be read, and their bytes.
    pub gaps: u64,
    /// Bytes of these parts.
    pub bytes: u64,
    /// Changes that could be read but for the names in them.
    pub nameless: u64,
    /// Messages with one flipped bit, which was flipped back.
    pub corrected: u64,
    /// Bytes of the last write, if it is not whole.
    pub torn: u64,
    /// Whether changes are missing, and it is not known where.
    pub is_short: bool,
    /// Groups of changes that were acknowledged after the last one that can be read.
    pub missing_groups: u64,
}

impl Legibility {
    /// Whether all was read that was acknowledged.
    pub fn is_whole(&self) -> bool {
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

impl Salvage {
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

    /// Compares the log with what it and the marker say must be there.
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
        // Gaps in the log explain missing entries, and say more of them.
        let has_gaps = self.log.gaps().count() > 0;
        self.is_short = !(has_gaps && matches!(found, Disagreement::Entries { .. }));
        self.refusal.get_or_insert(OpenError::Disagrees {
            dir: dir.to_owned(),
            found,
        });
    }

    /// The last description of the store in the log.
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
            // The refusal is known.
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

    /// Why the vault would not open the store, as far as that is known.
    pub fn refusal(&self) -> Option<&OpenError> {
        self.refusal.as_ref()
    }

    /// The content of the store's file `keys`, if there is one.
    pub fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        key_file::read(&self.dir, None)
    }

    /// How much of the log could be read.
    pub fn legibility(&self) -> Legibility {
        Legibility {
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

    /// Whether a change that is so many messages of the log, made after `after`, may be in what cannot be read.
    pub fn may_hide(&self, messages: u64, after: u64) -> bool {
        self.is_short || self.log.gaps().messages_after(after) >= messages
    }

    /// What the log says of `key`, if it ever had a value.
    pub fn trace(&self, key: &[u8]) -> Option<Trace<'_>> {
        let trace = self.log.trace(key)?;
        Some(Trace { salvage: self, trace })
    }

    /// The value at `key`, if it has one that can be read.
    pub fn read(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.trace(key)
            .filter(|trace| !trace.is_deleted())?
            .values()
            .next()
    }

    /// Every key that has a value or had one, and starts with `prefix`.
    pub fn keys(&self, prefix: &[u8]) -> BTreeSet<&[u8]> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let live = self.log.live().range::<[u8], _>(from);
        let deleted = self.log.deleted().range::<[u8], _>(from);
        let with_prefix = |(key, _): &(&Vec<u8>, _)| key.starts_with(prefix);
        let live = live.take_while(with_prefix).map(|(key, _)| key.as_slice());
        let deleted = deleted.take_while(with_prefix).map(|(key, _)| key.as_slice());
        live.chain(deleted).collect()
    }

    /// Every key that has a value and starts with `prefix`.
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

impl<'a> Trace<'a> {
    /// Whether the key has no value any more.
    pub fn is_deleted(self) -> bool {
        self.trace.is_deleted()
    }

    /// When the key came to its state, in the log's order.
    pub fn since(self) -> u64 {
        self.trace.since()
    }

    /// When the log said for the last time that this is the key's state.
    pub fn confirmed(self) -> u64 {
        self.trace.confirmed()
    }

    /// The key's values, the newest first, as far as they are in the log and can be read.
    pub fn values(self) -> impl Iterator<Item = Vec<u8>> + use<'a> {
        let log = &self.salvage.log;
        self.trace.values().filter_map(|value| log.value(value).ok())
    }

    /// The same, of those that the key got after it was deleted for the last time.
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

/// Where the store in `dir` is copied to. Whoever copies it has the store's lock, so a copy that is there was left behind
/// by a process that was killed, and is removed.
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
