//! Reading a store that may be damaged, as far as it can be read, and without touching it: on a copy.

use std::{
    fs::{File, TryLockError},
    mem::ManuallyDrop,
    ops::{Bound, ControlFlow},
    path::{Path, PathBuf},
};

use super::{
    Entry, Fault, KeyFileError, OpenError,
    files::{self, DB, failed},
    guard::{self, Copied, Ground, Snapshots},
    key_file,
    panics::{Engine, caught},
    watchdog,
};

/// How often a part that cannot be read is halved, to find what is readable within.
const HALVINGS: u32 = 12;
/// Bytes of a key in which halves are told apart, after what both ends have in common.
const WIDTH: usize = 8;

/// A copy of a store, opened.
pub struct Salvage {
    /// Never dropped: of a damaged log even letting go may hang, and the process ends soon.
    db: ManuallyDrop<Engine>,
    refusal: Option<OpenError>,
    dir: PathBuf,
    _copy: Copied,
    _locks: Vec<File>,
}

impl Salvage {
    /// Copies the store in `dir` into the folder `scratch`, and opens it there. Blocking.
    pub fn open(dir: &Path, scratch: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        let (at, to) = (dir.to_owned(), scratch.to_owned());
        watchdog::opening(dir, move || open(&at, &to, cache_bytes))
    }

    /// Why the vault would not open the store, if it would not.
    pub fn refusal(&self) -> Option<&OpenError> {
        self.refusal.as_ref()
    }

    /// The content of the store's file `keys`, if there is one.
    pub fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        key_file::read(&self.dir, None)
    }

    /// The value at `key`, if it can be read.
    pub fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        Ok(super::read(&self.db, key)?.map(|value| value.to_vec()))
    }

    /// Every entry that can be read and whose key starts with `prefix`; how many gaps are between them.
    pub fn each(&self, prefix: &[u8], mut found: impl FnMut(Entry)) -> u64 {
        let mut end = prefix.to_vec();
        // No key of ours begins with 255.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        self.between(prefix.to_vec(), end, HALVINGS, &mut found)
    }

    /// From both ends, and where they do not meet, from the middle.
    fn between(&self, from: Vec<u8>, end: Vec<u8>, halvings: u32, found: &mut dyn FnMut(Entry)) -> u64 {
        let Err(from) = self.forward(from, &end, found) else {
            return 0;
        };
        let Err(end) = self.backward(&from, end, found) else {
            return 0;
        };
        match halvings.checked_sub(1).zip(middle(&from, &end)) {
            None => 1,
            Some((left, middle)) => {
                let below = self.between(from, middle.clone(), left, found);
                let above = self.between(middle, end, left, found);
                // A gap around the middle is one.
                (below + above).max(1)
            }
        }
    }

    /// Up to `end`; otherwise where it became unreadable.
    fn forward(&self, from: Vec<u8>, end: &[u8], found: &mut dyn FnMut(Entry)) -> Result<(), Vec<u8>> {
        let mut at = from;
        let range = (Bound::Included(at.clone()), Bound::Excluded(end.to_vec()));
        let ended = caught(|| {
            let read = self.db.range(range).try_for_each(|entry| match entry {
                Ok((key, value)) => {
                    at = key.to_vec();
                    at.push(0);
                    found(entry_of(&key, &value));
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error),
            });
            read.break_value().map_or(Ok(()), Err)
        });
        ended.map_err(|_unreadable| at)
    }

    /// Down to `from`; otherwise where it became unreadable.
    fn backward(&self, from: &[u8], end: Vec<u8>, found: &mut dyn FnMut(Entry)) -> Result<(), Vec<u8>> {
        let mut at = end;
        let range = (Bound::Included(from.to_vec()), Bound::Excluded(at.clone()));
        let ended = caught(|| {
            let read = self.db.range(range).rev().try_for_each(|entry| match entry {
                Ok((key, value)) => {
                    at = key.to_vec();
                    found(entry_of(&key, &value));
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error),
            });
            read.break_value().map_or(Ok(()), Err)
        });
        ended.map_err(|_unreadable| at)
    }
}

fn open(dir: &Path, scratch: &Path, cache_bytes: u64) -> Result<Salvage, OpenError> {
    let locks = lock(dir)?;
    let (ground, snapshots) = (guard::inspect(dir), Snapshots::find(dir)?);
    if let Ok(Ground::New) = ground {
        return Err(OpenError::NotAStore(dir.to_owned()));
    }
    let to = scratch.join(format!("aerostack-{}", std::process::id()));
    // Without its index sled finds more of some logs, and less of others.
    let (copy, db) = match open_copy(dir, &to, &snapshots, cache_bytes) {
        Ok(opened) => opened,
        Err(_unreadable) => open_copy(dir, &to, &Snapshots::default(), cache_bytes)?,
    };
    let refusal = match ground {
        Ok(Ground::New) => None,
        Ok(Ground::Store(known)) => known.check_whole(&db).err(),
        Err(refusal) => Some(refusal),
    };
    Ok(Salvage {
        db: ManuallyDrop::new(db),
        refusal,
        dir: dir.to_owned(),
        _copy: copy,
        _locks: locks,
    })
}

fn open_copy(
    dir: &Path,
    to: &Path,
    snapshots: &Snapshots,
    cache_bytes: u64,
) -> Result<(Copied, Engine), OpenError> {
    let copy = Copied::of(dir, to, snapshots)?;
    let opened = files::open_sled(&copy.0, cache_bytes).map_err(files::storage(dir));
    opened.map(|db| (copy, db))
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

/// A key between two others, or none when they are close.
fn middle(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    let common = low.iter().zip(high).take_while(|(low, high)| low == high).count();
    let number = |key: &[u8]| {
        let mut digits = [0; WIDTH];
        for (digit, byte) in digits.iter_mut().zip(key.get(common..).unwrap_or_default()) {
            *digit = *byte;
        }
        u64::from_be_bytes(digits)
    };
    let (low_number, high_number) = (number(low), number(high));
    let half = high_number.checked_sub(low_number)? / 2;
    let middle = (low_number + half).to_be_bytes();
    (half > 0).then(|| [low.get(..common).unwrap_or_default(), &middle].concat())
}

fn entry_of(key: &[u8], value: &[u8]) -> Entry {
    Entry {
        key: key.to_vec(),
        value: value.to_vec(),
    }
}
