//! What is found out before sled opens a store, because opening changes it.
//!
//! sled cuts a torn log back, clears what it takes for garbage, and replaces its snapshot, all before it answers. So
//! nothing is opened in place that might be refused afterwards:
//!
//! - A store that was closed, and whose `db` still has the length and the checksum that its marker gives, is what it
//!   was. It is opened.
//! - Any other is opened on a copy first, with everything read and counted. Only when the copy is what the marker
//!   promises is the store itself opened; else it is refused, as it lies there.
//!
//! A disk without room for the copy gets none for a store that was merely not closed: it would keep a healthy store
//! from starting just when the disk is full.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{
    Fault, OpenError,
    error::Disagreement,
    files::{self, CONF, DB, failed, length, names, storage},
    marker::{self, Marker, State, Tally},
    panics::caught,
};

/// sled takes a `conf` of up to 8 bytes for none, and writes its own.
const CONF_NONE: usize = 8;
/// What a snapshot ends with: its length, and a checksum of what is before both.
const SNAPSHOT_END: (usize, usize) = (8, 4);
/// How sled's index of the log is called; the newest name is the last.
pub(super) const SNAPSHOT: &str = "snap.";
/// What it is called until it is whole. Left over, it keeps sled from opening, for ever.
const UNFINISHED: &str = ".generating";
/// Snapshots that do not add up are kept under this name, in which sled does not know them.
const ASIDE: &str = "damaged.";
/// Threads that count entries, at most.
const COUNTERS: usize = 4;
/// The copy, in the store's own directory, so that it costs nothing where the file system can share blocks.
const COPY: &str = "check";

/// What a directory holds.
pub(super) enum Ground {
    /// Nothing that was ever acknowledged.
    New,
    /// A store.
    Store(Known),
}

/// A store that may be opened once it was proved.
pub(super) struct Known {
    dir: PathBuf,
    expected: Expected,
    doubt: Doubt,
    snapshots: Snapshots,
}

/// What a store must hold.
#[derive(Clone, Copy)]
enum Expected {
    /// It is of a release without markers: anything but nothing.
    Unmarked,
    /// This or more.
    Marked(Tally),
}

/// Whether a store has to be proved on a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Not a byte changed since it was closed.
    None,
    /// It was not closed; nothing looks wrong.
    Unclosed,
    /// Something is not as it was left.
    Changed,
}

/// sled's indexes of the log, by what is the matter with them.
#[derive(Default)]
pub(super) struct Snapshots {
    whole: Vec<PathBuf>,
    damaged: Vec<PathBuf>,
    unfinished: Vec<PathBuf>,
}

/// Removes what a process that was killed left over from here.
pub(super) fn tidy(dir: &Path) -> Result<(), OpenError> {
    remove_copy(&dir.join(COPY))
}

/// Looks at a directory, without changing anything in it.
pub(super) fn inspect(dir: &Path) -> Result<Ground, OpenError> {
    let snapshots = Snapshots::find(dir)?;
    let marker = Marker::read(dir)?;
    let data = length(&dir.join(DB))?;
    let expected = match marker {
        None if data == 0 && snapshots.are_none() && !dir.join(CONF).exists() => return Ok(Ground::New),
        None => Expected::Unmarked,
        Some(Marker {
            state: State::Making, ..
        }) => return Ok(Ground::New),
        Some(Marker {
            tally,
            state: State::Open | State::Closed(_),
        }) => Expected::Marked(tally),
    };
    if data == 0 {
        return Err(disagrees(dir, Disagreement::NoData));
    }
    if !conf_is_whole(dir)? {
        return Err(OpenError::NoConf(dir.to_owned()));
    }
    let doubt = doubt(dir, marker, data, &snapshots)?;
    Ok(Ground::Store(Known {
        dir: dir.to_owned(),
        expected,
        doubt,
        snapshots,
    }))
}

fn doubt(dir: &Path, marker: Option<Marker>, data: u64, snapshots: &Snapshots) -> Result<Doubt, OpenError> {
    let path = dir.join(DB);
    let sum = || marker::Sum::of(&path).map_err(failed("read", &path));
    match marker.map(|marker| marker.state) {
        Some(State::Closed(closed)) if snapshots.are_whole() => {
            let same = closed.has_length(data) && sum()? == closed;
            Ok(if same { Doubt::None } else { Doubt::Changed })
        }
        Some(State::Open | State::Making) | None if snapshots.are_whole() => Ok(Doubt::Unclosed),
        Some(State::Closed(_) | State::Open | State::Making) | None => Ok(Doubt::Changed),
    }
}

impl Known {
    /// Makes sure that opening this store will not be regretted. Nothing of it was changed if this fails.
    pub(super) fn prove(&self, cache_bytes: u64) -> Result<(), OpenError> {
        let needed = length(&self.dir.join(DB))?.saturating_add(files::RESERVE);
        match (self.doubt, files::has_room(&self.dir, needed)?) {
            (Doubt::None, true | false) => return Ok(()),
            (Doubt::Unclosed, false) => {
                tracing::warn!(
                    "the store was not closed, and the disk has no room to check a copy of it first"
                );
                return Ok(());
            }
            (Doubt::Changed, false) => {
                return Err(OpenError::NoRoom {
                    dir: self.dir.clone(),
                    bytes: needed,
                });
            }
            (Doubt::Unclosed | Doubt::Changed, true) => {}
        }
        let copy = Copied::of(&self.dir, &self.dir.join(COPY), &self.snapshots)?;
        let db = files::open_sled(&copy.0, cache_bytes).map_err(storage(&self.dir))?;
        let proved = self.check_whole(&db);
        // Of a damaged log even letting go may panic.
        let dropped = caught(|| {
            drop(db);
            Ok::<_, io::Error>(())
        });
        proved.and(dropped.map_err(storage(&self.dir)))
    }

    /// Whether `db`, a copy of this store, is what it must be, down to the last entry.
    pub(super) fn check_whole(&self, db: &sled::Db) -> Result<(), OpenError> {
        let tally = self.check(db)?;
        self.count(db, tally).map(drop)
    }

    /// Puts away what would keep sled from opening.
    pub(super) fn clear(&self) -> Result<(), OpenError> {
        for path in &self.snapshots.unfinished {
            fs::remove_file(path).map_err(failed("remove", path))?;
        }
        for path in &self.snapshots.damaged {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let aside = path.with_file_name(format!("{ASIDE}{name}"));
            fs::rename(path, aside).map_err(failed("rename", path))?;
        }
        Ok(())
    }

    /// What the opened store says of itself; one that never said anything is counted.
    pub(super) fn tally(&self, db: &sled::Db) -> Result<Tally, OpenError> {
        match self.check(db)? {
            Some(tally) => Ok(tally),
            None => {
                let entries = self.count(db, None)?;
                Tally::first(entries).map_err(failed("name the store in", &self.dir))
            }
        }
    }

    /// What the store says of itself, if it may: none only for a store without a marker.
    fn check(&self, db: &sled::Db) -> Result<Option<Tally>, OpenError> {
        let found = caught(|| db.get(marker::KEY)).map_err(storage(&self.dir))?;
        let found = match found {
            None => None,
            Some(bytes) => match Tally::decode(&bytes) {
                Some(tally) => Some(tally),
                None => return Err(self.disagrees(Disagreement::Undescribed)),
            },
        };
        match (self.expected, found) {
            (Expected::Unmarked, None) => Ok(None),
            // Its marker was about to be written when the process ended.
            (Expected::Unmarked, Some(tally)) if tally.generation == marker::FIRST => Ok(Some(tally)),
            (Expected::Unmarked, Some(_)) => Err(OpenError::NoMarker(self.dir.clone())),
            (Expected::Marked(_), None) => Err(self.disagrees(Disagreement::Undescribed)),
            (Expected::Marked(least), Some(tally)) => match disagreement(least, tally) {
                Some(disagreement) => Err(self.disagrees(disagreement)),
                None => Ok(Some(tally)),
            },
        }
    }

    /// Reads everything: there must be as many entries as the store says, and it may not be empty without saying so.
    fn count(&self, db: &sled::Db, tally: Option<Tally>) -> Result<u64, OpenError> {
        let most = tally.map_or(u64::MAX, |tally| tally.entries.saturating_add(1));
        let found = count(db, most).map_err(storage(&self.dir))?;
        match tally {
            Some(tally) if found == tally.entries => Ok(found),
            Some(tally) => Err(self.disagrees(Disagreement::Entries {
                expected: tally.entries,
                found,
            })),
            None if found == 0 => Err(self.disagrees(Disagreement::NoData)),
            None => Ok(found),
        }
    }

    fn disagrees(&self, found: Disagreement) -> OpenError {
        disagrees(&self.dir, found)
    }
}

fn disagreement(least: Tally, found: Tally) -> Option<Disagreement> {
    if found.id != least.id {
        Some(Disagreement::AnotherStore)
    } else if found.generation < least.generation {
        Some(Disagreement::Older {
            expected: least.generation,
            found: found.generation,
        })
    } else {
        None
    }
}

/// The store's entries, without its own; not many more than `most`. Reading them all is most of what opening takes, so some
/// threads share them, by the first byte of their keys; one key has none.
fn count(db: &sled::Db, most: u64) -> Result<u64, Fault> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let keyless = caught(|| db.contains_key([]))?;
    let (first_bytes, found) = (Mutex::new(0..=u8::MAX), AtomicU64::new(keyless.into()));
    let next = || first_bytes.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(byte) = next()
            && found.load(Ordering::Relaxed) < most
        {
            count_of(db, byte, &found, most)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(COUNTERS)).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let theirs = others
            .into_iter()
            .map(|other| other.join().unwrap_or(Err(Fault::Panicked)));
        theirs.fold(mine, Result::and)
    })?;
    Ok(found.into_inner())
}

/// Adds the entries whose keys begin with `byte`.
fn count_of(db: &sled::Db, byte: u8, found: &AtomicU64, most: u64) -> Result<(), Fault> {
    caught(|| {
        // A damaged page makes sled's iterator repeat its error for ever.
        for entry in db.scan_prefix([byte]) {
            if entry?.0 != marker::KEY && found.fetch_add(1, Ordering::Relaxed) + 1 >= most {
                break;
            }
        }
        Ok::<_, sled::Error>(())
    })
}

/// Whether `conf` adds up, which says how sled splits the log: with another one it would lose most of it.
fn conf_is_whole(dir: &Path) -> Result<bool, OpenError> {
    let path = dir.join(CONF);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let whole = bytes
        .split_last_chunk()
        .is_some_and(|(conf, crc)| crc32fast::hash(conf) == u32::from_le_bytes(*crc));
    Ok(whole && bytes.len() > CONF_NONE)
}

impl Snapshots {
    pub(super) fn find(dir: &Path) -> Result<Self, OpenError> {
        let mut found = Self::default();
        for path in names(dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let kind = match (name.starts_with(SNAPSHOT), name.ends_with(UNFINISHED)) {
                (false, _) => continue,
                (true, true) => &mut found.unfinished,
                (true, false) if snapshot_is_whole(&path)? => &mut found.whole,
                (true, false) => &mut found.damaged,
            };
            kind.push(path);
        }
        Ok(found)
    }

    fn are_none(&self) -> bool {
        self.whole.is_empty() && self.are_whole()
    }

    fn are_whole(&self) -> bool {
        self.damaged.is_empty() && self.unfinished.is_empty()
    }
}

/// As sled decides it, which refuses to open beside one that is not.
fn snapshot_is_whole(path: &Path) -> Result<bool, OpenError> {
    let bytes = fs::read(path).map_err(failed("read", path))?;
    let (length, crc) = SNAPSHOT_END;
    let whole = || {
        let (rest, crc_found) = bytes.split_at_checked(bytes.len().checked_sub(crc)?)?;
        let (index, _) = rest.split_at_checked(rest.len().checked_sub(length)?)?;
        let crc_found = u32::from_le_bytes(crc_found.try_into().ok()?);
        (!index.is_empty()).then(|| crc32fast::hash(index) == crc_found)
    };
    Ok(whole().unwrap_or(false))
}

/// A copy of a store; removed when dropped.
pub(super) struct Copied(pub(super) PathBuf);

impl Copied {
    /// Of what there is of `db` and `conf`, and of the snapshots that are whole.
    pub(super) fn of(dir: &Path, to: &Path, snapshots: &Snapshots) -> Result<Self, OpenError> {
        DirBuilder::new()
            .mode(0o700)
            .create(to)
            .map_err(failed("create", to))?;
        let copy = Self(to.to_owned());
        let mut files = vec![dir.join(DB)];
        // sled makes one that is not whole anew, with the settings that never changed.
        if conf_is_whole(dir)? {
            files.push(dir.join(CONF));
        }
        for path in files.iter().chain(&snapshots.whole) {
            let name = path.file_name().unwrap_or_default();
            fs::copy(path, to.join(name)).map_err(failed("copy", path))?;
        }
        Ok(copy)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // What is left is removed by the next open.
        let _ = remove_copy(&self.0);
    }
}

fn remove_copy(path: &Path) -> Result<(), OpenError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn disagrees(dir: &Path, found: Disagreement) -> OpenError {
    OpenError::Disagrees {
        dir: dir.to_owned(),
        found,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::store::{Batch, Store};

    const CACHE: u64 = 8 << 20;

    fn doubt(dir: &Path) -> Doubt {
        match inspect(dir).unwrap() {
            Ground::Store(known) => known.doubt,
            Ground::New => panic!("there is a store"),
        }
    }

    #[tokio::test]
    async fn entries_are_counted_whatever_their_keys_begin_with() {
        let parent = tempfile::tempdir().unwrap();
        let store = Store::open(&parent.path().join("store"), CACHE).unwrap();
        let keys = [
            &[][..],
            &[0],
            b"\0storf",
            b"a",
            b"ab",
            b"b",
            &[0x7F, 1],
            &[u8::MAX],
            &[u8::MAX; 4],
        ];
        let batch = keys
            .iter()
            .fold(Batch::new(), |batch, &key| batch.put(key, vec![1]));
        store.commit(batch).await.unwrap();
        let db = &store.shared.db;
        let all = u64::try_from(keys.len()).unwrap();
        assert_eq!(count(db, u64::MAX).unwrap(), all);
        // One more than there should be is enough to know.
        let most = count(db, 3).unwrap();
        assert!((3..=all).contains(&most), "{most}");
    }

    #[tokio::test]
    async fn only_a_store_that_was_closed_and_not_changed_since_is_opened_without_a_copy() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("store");
        for _ in 0..2 {
            let store = Store::open(&dir, CACHE).unwrap();
            assert_eq!(doubt(&dir), Doubt::Unclosed);
            store
                .commit(Batch::new().put("a", vec![1; 50_000]))
                .await
                .unwrap();
            store.close().await.unwrap();
            assert_eq!(doubt(&dir), Doubt::None);
        }
        let path = dir.join(DB);
        let mut bytes = fs::read(&path).unwrap();
        bytes[40_000] ^= 1;
        fs::write(path, bytes).unwrap();
        assert_eq!(doubt(&dir), Doubt::Changed);
    }
}
