//! What is found out before sled opens a store, because opening changes it.
//!
//! sled cuts a torn log back, clears what it takes for garbage, and replaces its snapshot, all before it answers. So
//! nothing is opened in place that might be refused afterwards:
//!
//! - A directory with any file that neither the store nor its marker knows is refused. sled would take the newest
//!   snapshot for its own, and one that is ahead of `db` ruins the store.
//! - A store that was closed, and whose files still have the lengths and the checksums that its marker gives, is what it
//!   was. It is opened. Its marker must be of this `db`, too: sled does not compress, so the entry that the last group
//!   wrote stands in `db` byte for byte.
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
    files::{self, CONF, DB, LOCK, failed, length, names, storage},
    key_file,
    marker::{self, Files, Marker, State, StoreId, Sum, Tally},
    panics::{Engine, caught},
    space,
};

/// sled takes a `conf` of up to 8 bytes for none, and writes its own.
const CONF_NONE: usize = 8;
/// What a snapshot ends with: its length, and a checksum of what is before both.
const SNAPSHOT_END: (usize, usize) = (8, 4);
/// How sled's index of the log is called; the newest name is the last.
pub(super) const SNAPSHOT: &str = "snap.";
/// Hexadecimal digits after that: how far into the log it reaches.
const POSITION: usize = 16;
/// What it is called until it is whole. Left over, it keeps sled from opening, for ever.
const UNFINISHED: &str = ".generating";
/// Snapshots that do not add up are kept under this name, in which sled does not know them.
const ASIDE: &str = "damaged.";
/// Threads that count entries, at most.
const COUNTERS: usize = 4;
/// The copy, in the store's own directory, so that it costs nothing where the file system can share blocks.
const COPY: &str = "check";
/// The directory in which sled stores large values. A vault's store has no such values.
const BLOBS: &str = "blobs";
/// The files that the vault itself writes. A new file of the vault must be added here.
const OURS: &[&str] = &[
    LOCK,
    marker::FILE,
    marker::UNFINISHED,
    key_file::FILE,
    key_file::UNFINISHED,
    COPY,
    space::FILE,
];
/// Maximum number of stray names that a refusal shows.
const SHOWN: usize = 10;
/// Maximum number of nonzero bytes in the `db` of a store that was created and never used.
const UNUSED: u64 = 4096;

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
    marker: Marker,
    doubt: Doubt,
    snapshots: Snapshots,
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
    missing: bool,
}

/// The files in a store's directory, by their kind.
#[derive(Default)]
struct Inventory {
    snapshots: Snapshots,
    strays: Vec<String>,
}

/// Removes what a process that was killed left over from here.
pub(super) fn tidy(dir: &Path) -> Result<(), OpenError> {
    remove_copy(&dir.join(COPY))
}

/// Looks at a directory, without changing anything in it.
pub(super) fn inspect(dir: &Path) -> Result<Ground, OpenError> {
    let marker = Marker::read(dir)?;
    let Inventory { snapshots, strays } = Inventory::of(dir, marker.as_ref())?;
    if !strays.is_empty() {
        return Err(OpenError::Strays {
            dir: dir.to_owned(),
            names: shortened(strays),
        });
    }
    let data = length(&dir.join(DB))?;
    let Some(marker) = marker else {
        let others = [CONF, key_file::FILE].iter().any(|name| dir.join(name).exists());
        let new = data == 0 && snapshots.are_none() && !others;
        return if new {
            Ok(Ground::New)
        } else {
            Err(OpenError::NoMarker(dir.to_owned()))
        };
    };
    // The file `keys` is made only after the store is complete.
    if marker.state == State::Making && dir.join(key_file::FILE).exists() {
        return Err(disagrees(dir, Disagreement::Used));
    }
    if data == 0 {
        return match marker.state {
            State::Making => Ok(Ground::New),
            State::Opening | State::Open | State::Closed => Err(disagrees(dir, Disagreement::NoData)),
        };
    }
    if marker.state != State::Making && !conf_is_whole(dir)? {
        return Err(OpenError::NoConf(dir.to_owned()));
    }
    let doubt = doubt(dir, &marker, &snapshots)?;
    Ok(Ground::Store(Known {
        dir: dir.to_owned(),
        marker,
        doubt,
        snapshots,
    }))
}

fn doubt(dir: &Path, marker: &Marker, snapshots: &Snapshots) -> Result<Doubt, OpenError> {
    Ok(match marker.state {
        State::Closed if snapshots.are_as_listed() && is_as_closed(dir, marker)? => Doubt::None,
        State::Open if snapshots.are_as_listed() => Doubt::Unclosed,
        State::Opening if snapshots.damaged.is_empty() => Doubt::Unclosed,
        State::Closed | State::Open | State::Opening | State::Making => Doubt::Changed,
    })
}

/// Returns true when `db` and `conf` match the marker of a closed store, and the marker belongs to this `db`.
fn is_as_closed(dir: &Path, marker: &Marker) -> Result<bool, OpenError> {
    let (db, conf) = (dir.join(DB), dir.join(CONF));
    let listed = |name| marker.files.get(name);
    let Some(expected) = listed(DB) else {
        return Ok(false);
    };
    // Comparing lengths is cheaper than the checksum of `db`, and a difference is conclusive.
    if !expected.has_length(length(&db)?)
        || listed(CONF) != Some(&Sum::of(&conf).map_err(failed("read", &conf))?)
    {
        return Ok(false);
    }
    let (sum, describes) = Sum::and_search(&db, &marker.tally.encode()).map_err(failed("read", &db))?;
    Ok(sum == *expected && describes)
}

/// Returns the files of an open store that do not change until the store is closed.
pub(super) fn fixed_files(dir: &Path) -> Result<Files, OpenError> {
    let mut files = Files::new();
    for path in names(dir)? {
        let name = name_of(&path);
        if name == CONF || is_snapshot(&name) {
            files.insert(name, Sum::of(&path).map_err(failed("read", &path))?);
        }
    }
    Ok(files)
}

impl Known {
    /// Proves that the store can be opened safely. Opens a copy of the store for that and returns it, unless the marker
    /// leaves no doubt. A failure leaves the store unchanged.
    pub(super) fn prove(&self, cache_bytes: u64) -> Result<Option<Preview>, OpenError> {
        let needed = self.copy_bytes()?;
        match (self.doubt, files::has_room(&self.dir, needed)?) {
            (Doubt::None, true | false) => Ok(None),
            (Doubt::Unclosed, false) => {
                tracing::warn!(
                    "the store was not closed, and the disk has no room to check a copy of it first"
                );
                Ok(None)
            }
            (Doubt::Changed, false) => Err(self.no_room(needed)),
            (Doubt::Unclosed | Doubt::Changed, true) if self.is_unused() => self.prove_unused(cache_bytes),
            (Doubt::Unclosed | Doubt::Changed, true) => {
                let preview = self.copy(cache_bytes)?;
                self.check_whole(&preview.db)?;
                Ok(Some(preview))
            }
        }
    }

    /// Opens a copy of the store in the folder `to` and checks that it is whole. The copy is removed afterwards.
    pub(super) fn opens_on_copy(&self, to: &Path, cache_bytes: u64) -> Result<(), OpenError> {
        if self.is_unused() {
            return Ok(());
        }
        let preview = self.copy_to(to, cache_bytes)?;
        self.check_whole(&preview.db)?;
        preview.release().map_err(storage(&self.dir))
    }

    /// Makes a copy of the store, to read from before the store is opened.
    pub(super) fn preview(&self, cache_bytes: u64) -> Result<Preview, OpenError> {
        let needed = self.copy_bytes()?;
        if !files::has_room(&self.dir, needed)? {
            return Err(self.no_room(needed));
        }
        let preview = self.copy(cache_bytes)?;
        self.check(&preview.db)?;
        Ok(preview)
    }

    /// The store's id.
    pub(super) fn id(&self) -> StoreId {
        self.marker.tally.id
    }

    /// Returns the value that the marker gives for `key`; `None` when the store may hold another value, or the marker
    /// has no entry for `key`.
    pub(super) fn front(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        match self.doubt {
            Doubt::None => self.marker.front.get(key),
            Doubt::Unclosed | Doubt::Changed => None,
        }
    }

    /// Returns true when no write to the store was ever acknowledged, as its marker says.
    pub(super) fn is_unused(&self) -> bool {
        self.marker.state == State::Making
    }

    /// Returns the marker that the store has while sled opens it.
    pub(super) fn opening(&self) -> Marker {
        let mut files = self.marker.files.clone();
        files.remove(DB);
        Marker {
            tally: self.marker.tally,
            state: State::Opening,
            files,
            front: marker::Front::new(),
        }
    }

    /// Proves that a store whose creation was interrupted holds almost no bytes, and no entry but the one that
    /// describes the store. A store that sled cannot open was interrupted before that entry was written.
    fn prove_unused(&self, cache_bytes: u64) -> Result<Option<Preview>, OpenError> {
        let path = self.dir.join(DB);
        if marker::written(&path).map_err(failed("read", &path))? > UNUSED {
            return Err(self.disagrees(Disagreement::Used));
        }
        let Ok(preview) = self.copy(cache_bytes) else {
            return Ok(None);
        };
        let found = caught(|| preview.db.get(marker::KEY)).map_err(storage(&self.dir))?;
        let unused = found.is_none_or(|bytes| Tally::decode(&bytes) == Some(self.marker.tally));
        if unused && count(&preview.db, 1).map_err(storage(&self.dir))? == 0 {
            return Ok(None);
        }
        Err(self.disagrees(Disagreement::Used))
    }

    fn copy(&self, cache_bytes: u64) -> Result<Preview, OpenError> {
        self.copy_to(&self.dir.join(COPY), cache_bytes)
    }

    fn copy_to(&self, to: &Path, cache_bytes: u64) -> Result<Preview, OpenError> {
        let copy = Copied::of(&self.dir, to, &self.snapshots)?;
        let db = files::open_sled(&copy.0, cache_bytes).map_err(storage(&self.dir))?;
        Ok(Preview { db, _copy: copy })
    }

    fn copy_bytes(&self) -> Result<u64, OpenError> {
        Ok(length(&self.dir.join(DB))?.saturating_add(space::LEAST))
    }

    fn no_room(&self, bytes: u64) -> OpenError {
        OpenError::NoRoom {
            dir: self.dir.clone(),
            bytes,
        }
    }

    /// Whether `db`, a copy of this store, is what it must be, down to the last entry.
    fn check_whole(&self, db: &sled::Db) -> Result<(), OpenError> {
        let tally = self.check(db)?;
        self.count(db, tally)
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

    /// Reads the opened store's own tally and returns it if it agrees with the marker.
    pub(super) fn check(&self, db: &sled::Db) -> Result<Tally, OpenError> {
        let found = caught(|| db.get(marker::KEY)).map_err(storage(&self.dir))?;
        let found = found.and_then(|bytes| Tally::decode(&bytes));
        let found = found.ok_or_else(|| self.disagrees(Disagreement::Undescribed))?;
        match disagreement(self.marker.tally, found) {
            Some(disagreement) => Err(self.disagrees(disagreement)),
            None => Ok(found),
        }
    }

    /// Reads all entries, and fails when their number differs from the tally.
    fn count(&self, db: &sled::Db, tally: Tally) -> Result<(), OpenError> {
        let found = count(db, tally.entries.saturating_add(1)).map_err(storage(&self.dir))?;
        if found == tally.entries {
            return Ok(());
        }
        Err(self.disagrees(Disagreement::Entries {
            expected: tally.entries,
            found,
        }))
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

impl Inventory {
    /// Lists the files of a directory. `marker` is `None` when the marker is missing or cannot be read.
    fn of(dir: &Path, marker: Option<&Marker>) -> Result<Self, OpenError> {
        let mut found = Self::default();
        for path in names(dir)? {
            let name = name_of(&path);
            if is_snapshot(&name) {
                found.add_snapshot(path, name, marker)?;
            } else if is_unfinished(&name) {
                found.snapshots.unfinished.push(path);
            } else if name == BLOBS && path.is_dir() {
                let blobs = names(&path)?;
                found
                    .strays
                    .extend(blobs.iter().map(|blob| format!("{BLOBS}/{}", name_of(blob))));
            } else if ![DB, CONF].contains(&&*name) && !OURS.contains(&&*name) && !name.starts_with(ASIDE) {
                found.strays.push(name);
            }
        }
        found.strays.sort();
        let listed = marker.into_iter().flat_map(|marker| marker.files.keys());
        found.snapshots.missing = listed
            .filter(|name| is_snapshot(name))
            .any(|name| !dir.join(name).exists());
        Ok(found)
    }

    fn add_snapshot(
        &mut self,
        path: PathBuf,
        name: String,
        marker: Option<&Marker>,
    ) -> Result<(), OpenError> {
        let whole = match marker {
            Some(marker) => match (marker.files.get(&name), marker.state) {
                (Some(listed), _) => Sum::of(&path).map_err(failed("read", &path))? == *listed,
                (None, State::Making | State::Opening) => snapshot_is_whole(&path)?,
                (None, State::Open | State::Closed) => {
                    self.strays.push(name);
                    return Ok(());
                }
            },
            None => snapshot_is_whole(&path)?,
        };
        match whole {
            true => self.snapshots.whole.push(path),
            false => self.snapshots.damaged.push(path),
        }
        Ok(())
    }
}

/// Shortens a list of names for a message to the first ones and the number of the others.
fn shortened(mut names: Vec<String>) -> Vec<String> {
    if let Some(more) = names.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        names.truncate(SHOWN);
        names.push(format!("and {more} more"));
    }
    names
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn is_snapshot(name: &str) -> bool {
    let position = name.strip_prefix(SNAPSHOT).unwrap_or_default();
    position.len() == POSITION && position.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(UNFINISHED).is_some_and(is_snapshot)
}

impl Snapshots {
    fn are_none(&self) -> bool {
        self.whole.is_empty() && self.damaged.is_empty() && self.unfinished.is_empty()
    }

    fn are_as_listed(&self) -> bool {
        self.damaged.is_empty() && self.unfinished.is_empty() && !self.missing
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

/// An opened copy of a store.
pub(super) struct Preview {
    pub(super) db: Engine,
    _copy: Copied,
}

impl Preview {
    /// Closes the copy and removes it.
    pub(super) fn release(self) -> Result<(), Fault> {
        self.db.release()
    }
}

/// A copy of a store; removed when dropped.
struct Copied(PathBuf);

impl Copied {
    /// Of what there is of `db` and `conf`, and of the snapshots that are whole.
    fn of(dir: &Path, to: &Path, snapshots: &Snapshots) -> Result<Self, OpenError> {
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

pub(super) fn remove_copy(path: &Path) -> Result<(), OpenError> {
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
