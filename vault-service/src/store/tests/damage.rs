//! Damaged stores: nothing is lost, or they are refused and stay as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use super::{model::Random, *};
use crate::store::{
    checkpoint::CHECKPOINT_KEY,
    marker::{FileSums, Marker, MarkerState},
};

pub(super) type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// The end of the process that had the store open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Killed,
}

/// A store whose process has ended, and its acknowledged content.
pub(super) struct StoreFixture {
    _parent: TempDir,
    pub(super) dir: PathBuf,
    pub(super) content: Content,
}

impl StoreFixture {
    /// Makes a store with `count` entries of up to `size` bytes, some replaced and some deleted, by several processes.
    pub(super) async fn ended_by(end: End, entries: u32, size: u32) -> Self {
        let (parent, dir) = dir();
        let (mut random, mut content) = (Random(7), Content::new());
        for generation in 0..3 {
            let mut opened = open_files(&dir, CACHE).unwrap();
            opened.marker.interval = Duration::ZERO;
            let store = Store::start(opened, Watchdog::default()).unwrap();
            for _ in 0..entries / 30 {
                let keys: BTreeSet<_> = (0..10).map(|_| random.below(entries).to_be_bytes()).collect();
                let mut batch = Batch::new();
                for key in keys {
                    let value = vec![random.below(256).to_be_bytes()[3]; random.below(size) as usize];
                    content.insert(key.to_vec(), value.clone());
                    batch = batch.put(key, value);
                }
                store.commit(batch).await.unwrap();
            }
            let gone = content.keys().next().unwrap().clone();
            content.remove(&gone);
            store.commit(Batch::new().delete(gone)).await.unwrap();
            if (generation, end) == (2, End::Killed) {
                let copy = dir.with_extension("killed");
                copy_files(&dir, &copy);
                return Self {
                    _parent: parent,
                    dir: copy,
                    content,
                };
            }
            store.close().await.unwrap();
        }
        Self {
            _parent: parent,
            dir,
            content,
        }
    }

    /// Copies the store, and damages the copy.
    pub(super) fn damaged(&self, name: &str, damage: impl FnOnce(&Path)) -> PathBuf {
        let copy = self.dir.with_extension(name);
        let _ = fs::remove_dir_all(&copy);
        copy_files(&self.dir, &copy);
        damage(&copy);
        copy
    }

    /// Opens a damaged store, which must either have all entries, or be refused with advice and be unchanged. Returns true
    /// when the store opened.
    pub(super) async fn opens(&self, dir: &Path, what: &str) -> bool {
        let (before, started) = (snapshot(dir), Instant::now());
        let opened = Store::open(dir, CACHE);
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{what} took {:?}",
            started.elapsed()
        );
        match opened {
            Ok(store) => {
                assert!(
                    content(&store) == self.content,
                    "{what}: something was lost, and it opened"
                );
                store.close().await.unwrap();
                true
            }
            Err(refused) => {
                let said = refused.to_string();
                assert!(
                    said.contains("vault-service restore") && said.contains("vault-service repair")
                        || matches!(
                            refused,
                            StoreOpenError::UnknownFormat { .. } | StoreOpenError::UnknownFiles { .. }
                        ),
                    "{what}: {said}"
                );
                assert!(snapshot(dir) == before, "{what}: refused, and changed: {said}");
                false
            }
        }
    }
}

pub(super) fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        // The reserve is 16 MiB without content.
        if path.is_file() && !path.ends_with("reserve") {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Returns the contents of all files but the lock, which an open may create.
pub(super) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| !path.ends_with("lock"))
        .map(|path| (path.clone(), fs::read(&path).ok()))
        .collect()
}

pub(super) fn content(store: &Store) -> Content {
    let entries = store.scan(b"", None, usize::MAX).unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect()
}

fn truncate(path: &Path, percent: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() * percent / 100)
        .unwrap();
}

pub(super) fn snap(dir: &Path) -> Option<PathBuf> {
    let mut names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_snap = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("snap.");
    names.find(is_snap)
}

pub(super) const ENDS: [End; 2] = [End::Closed, End::Killed];

#[tokio::test]
async fn a_truncated_store_has_all_entries_or_is_refused_and_unchanged() {
    for end in ENDS {
        let fixture = StoreFixture::ended_by(end, 4_000, 10_000).await;
        assert!(
            fixture.opens(&fixture.damaged("whole", |_| ()), "whole").await,
            "{end:?}"
        );
        let mut opened = 0;
        for percent in [99, 90, 50, 10, 0] {
            let what = format!("{end:?}, {percent} % of db");
            let dir = fixture.damaged("cut", |dir| truncate(&dir.join("db"), percent));
            opened += u32::from(fixture.opens(&dir, &what).await);
            // Without the snapshots, only the marker can reveal the damage.
            let dir = fixture.damaged("cut", |dir| {
                truncate(&dir.join("db"), percent);
                fs::remove_file(snap(dir).unwrap()).unwrap();
            });
            opened += u32::from(fixture.opens(&dir, &format!("{what}, and no snapshot")).await);
        }
        assert_eq!(opened, 0, "{end:?}: each cut takes something away");
        let dir = fixture.damaged("gone", |dir| fs::remove_file(dir.join("db")).unwrap());
        assert!(!fixture.opens(&dir, "no db").await);
    }
}

#[tokio::test]
async fn a_store_with_damaged_small_files_has_all_entries_or_is_refused() {
    for end in ENDS {
        let fixture = StoreFixture::ended_by(end, 600, 4_000).await;
        for name in ["conf", "marker"] {
            for length in [None, Some(0), Some(5)] {
                let dir = fixture.damaged("file", |dir| match length {
                    None => fs::remove_file(dir.join(name)).unwrap(),
                    Some(length) => {
                        let file = fs::File::options().write(true).open(dir.join(name)).unwrap();
                        file.set_len(length).unwrap();
                    }
                });
                assert!(
                    !fixture
                        .opens(&dir, &format!("{end:?}, {name} of {length:?}"))
                        .await
                );
            }
        }
        // sled can make a snapshot again, so damaged and unfinished ones are no reason for a refusal.
        let dir = fixture.damaged("snap", |dir| fs::write(snap(dir).unwrap(), "torn").unwrap());
        assert!(fixture.opens(&dir, &format!("{end:?}, a torn snapshot")).await);
        let aside = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        assert_eq!(
            aside
                .filter(|name| name.to_str().unwrap().starts_with("damaged.snap."))
                .count(),
            1
        );
        let dir = fixture.damaged("snap", |dir| fs::remove_file(snap(dir).unwrap()).unwrap());
        assert!(fixture.opens(&dir, &format!("{end:?}, no snapshot")).await);
        let dir = fixture.damaged("snap", |dir| {
            fs::write(dir.join("snap.7FFFFFFFFFFFFFFF.generating"), "torn").unwrap();
        });
        assert!(
            fixture
                .opens(&dir, &format!("{end:?}, a snapshot half written"))
                .await
        );
    }
}

/// Flips single bits, nearly all of them in the written part of `db`.
async fn flip(end: End, seed: u64) {
    let (mut random, mut refused) = (Random(seed), 0);
    let fixture = StoreFixture::ended_by(end, 600, 2_000).await;
    for round in 0..500 {
        let name = match round % 25 {
            0 => PathBuf::from("conf"),
            1 => PathBuf::from("marker"),
            2 => snap(&fixture.dir).unwrap().file_name().unwrap().into(),
            _ => PathBuf::from("db"),
        };
        let mut bytes = fs::read(fixture.dir.join(&name)).unwrap();
        let written = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0);
        let written: Vec<_> = written.map(|(at, _)| at).collect();
        let at = written[random.below(u32::try_from(written.len()).unwrap()) as usize];
        let bit = random.below(8);
        bytes[at] ^= 1 << bit;
        let dir = fixture.damaged("flipped", |dir| fs::write(dir.join(&name), bytes).unwrap());
        let what = format!(
            "{end:?}, seed {seed}, bit {bit} of byte {at} of {}",
            name.display()
        );
        refused += u32::from(!fixture.opens(&dir, &what).await);
    }
    eprintln!("{end:?}: {refused} of 500 refused");
    assert!(
        refused > 100,
        "only {refused} were refused: what was flipped did not matter"
    );
}

#[tokio::test]
async fn a_closed_store_with_a_flipped_bit_has_all_entries_or_is_refused() {
    flip(End::Closed, 0xB17).await;
}

#[tokio::test]
async fn a_killed_store_with_a_flipped_bit_has_all_entries_or_is_refused() {
    flip(End::Killed, 0xF11B).await;
}

#[tokio::test]
async fn an_older_copy_of_the_data_with_the_current_marker_is_refused() {
    let fixture = StoreFixture::ended_by(End::Closed, 600, 1_000).await;
    let older = fixture.damaged("older", |_| ());
    let store = open(&fixture.dir);
    store.commit(Batch::new().put("one", "more")).await.unwrap();
    store.close().await.unwrap();
    fs::copy(fixture.dir.join("marker"), older.join("marker")).unwrap();
    fs::remove_file(snap(&older).unwrap()).unwrap();
    let refused = Store::open(&older, CACHE).err().unwrap();
    assert!(
        matches!(
            refused,
            StoreOpenError::Mismatch {
                found: Mismatch::Older { .. },
                ..
            }
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_empty_or_foreign_store_with_the_marker_is_refused() {
    let fixture = StoreFixture::ended_by(End::Killed, 600, 1_000).await;
    let (_parent, dir) = dir();
    open(&dir).close().await.unwrap();
    let another = fixture.damaged("another", |copy| {
        for name in ["db", "conf"] {
            fs::copy(dir.join(name), copy.join(name)).unwrap();
        }
        fs::remove_file(snap(copy).unwrap()).unwrap();
    });
    let refused = Store::open(&another, CACHE).err().unwrap();
    assert!(
        refused.to_string().contains("its marker is of another store"),
        "{refused}"
    );

    let empty = fixture.damaged("empty", |copy| {
        for name in ["db", "conf"] {
            fs::remove_file(copy.join(name)).unwrap();
        }
        fs::remove_file(snap(copy).unwrap()).unwrap();
        drop(sled_in(copy));
    });
    let refused = Store::open(&empty, CACHE).err().unwrap();
    assert!(
        refused.to_string().contains("its checkpoint entry is missing"),
        "{refused}"
    );
}

#[tokio::test]
async fn entries_that_were_removed_outside_of_the_store_are_noticed() {
    let fixture = StoreFixture::ended_by(End::Closed, 600, 1_000).await;
    let db = sled_in(&fixture.dir);
    db.remove(fixture.content.keys().next().unwrap()).unwrap();
    drop(db);
    fs::remove_file(snap(&fixture.dir).unwrap()).unwrap();
    let refused = Store::open(&fixture.dir, CACHE).err().unwrap();
    let entries = fixture.content.len() as u64;
    assert!(
        matches!(refused, StoreOpenError::Mismatch { found: Mismatch::Entries { expected, found }, .. }
            if expected == entries && found == entries - 1),
        "{refused:?}"
    );
}

/// Opens sled alone, once the store is released.
fn sled_in(dir: &Path) -> engine::Engine {
    lock::wait_for_release(dir).unwrap();
    engine::Engine::open(dir, CACHE).unwrap()
}

/// Makes a store that was never used, and closes it.
async fn unused() -> (TempDir, PathBuf) {
    let (parent, dir) = dir();
    open(&dir).close().await.unwrap();
    (parent, dir)
}

#[tokio::test]
async fn a_store_whose_creation_was_interrupted_is_created_again() {
    let (_parent, made) = unused().await;
    let making = Marker {
        state: MarkerState::Creating,
        files: FileSums::new(),
        ..Marker::read(&made).unwrap().unwrap()
    };
    for (name, gone, percent) in [
        ("first", &["conf", "db"][..], 100),
        ("no conf", &["conf"], 100),
        ("no db", &["db"], 100),
        ("whole", &[], 100),
        ("half", &[], 50),
        ("torn", &[], 1),
    ] {
        let dir = made.with_extension(name);
        copy_files(&made, &dir);
        making.write(&dir).unwrap();
        truncate(&dir.join("db"), percent);
        for gone in gone {
            fs::remove_file(dir.join(gone)).unwrap();
        }
        let store = open(&dir);
        assert_eq!(store.scan(b"", None, 1).unwrap(), []);
        store.close().await.unwrap();
        assert_eq!(Marker::read(&dir).unwrap().unwrap().state, MarkerState::Closed);
    }
}

#[tokio::test]
async fn a_store_that_was_killed_while_sled_opened_it_opens() {
    let fixture = StoreFixture::ended_by(End::Closed, 60, 1_000).await;
    let before = snap(&fixture.dir).unwrap();
    let opened = open_files(&fixture.dir, CACHE).unwrap();
    let after = snap(&fixture.dir).unwrap();
    assert_ne!(before, after);
    let opening = |with: &[&Path]| {
        fixture.damaged("opening", |dir| {
            let marker = Marker::read(dir).unwrap().unwrap();
            fs::remove_file(snap(dir).unwrap()).unwrap();
            for path in with {
                fs::copy(&after, dir.join(path.file_name().unwrap())).unwrap();
            }
            Marker {
                state: MarkerState::Opening,
                ..marker
            }
            .write(dir)
            .unwrap();
        })
    };
    let unfinished = before.with_file_name("snap.7FFFFFFFFFFFFFFF.generating");
    for with in [&[&*after][..], &[&after, &unfinished], &[&unfinished], &[]] {
        let dir = opening(with);
        assert!(fixture.opens(&dir, &format!("{with:?}")).await);
    }
    drop(opened);
}

#[tokio::test]
async fn the_marker_of_a_new_store_is_written_before_any_file_of_sled() {
    let (_parent, dir) = dir();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("lock"), "").unwrap();
    // sled creates this directory first, so a file of that name makes its open fail.
    std::os::unix::fs::symlink("nowhere", dir.join("blobs")).unwrap();
    let failed = open::create(&dir, CACHE).err().unwrap();
    assert!(matches!(failed, StoreOpenError::Storage { .. }), "{failed:?}");
    assert!(!dir.join("db").exists() && !dir.join("conf").exists());
    assert_eq!(Marker::read(&dir).unwrap().unwrap().state, MarkerState::Creating);
    fs::remove_file(dir.join("blobs")).unwrap();
    open(&dir).close().await.unwrap();
}

/// A small file system in memory, which is unmounted on drop. Only root can mount one.
struct Disk(PathBuf);

impl Disk {
    fn mount(parent: &Path) -> Option<Self> {
        let at = parent.join("disk");
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(&at)
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }

    /// Fills the file system up to this number of free bytes.
    fn fill(&self, left: u64) {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        let more = disk.f_bavail * disk.f_frsize - left;
        let more = vec![1; usize::try_from(more).unwrap()];
        fs::write(self.0.join("filler"), more).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn without_room_for_a_copy_a_killed_store_is_opened_and_a_changed_one_is_refused() {
    for end in ENDS {
        let fixture = StoreFixture::ended_by(end, 600, 1_000).await;
        let Some(disk) = Disk::mount(fixture._parent.path()) else {
            eprintln!("not tested: no file system can be mounted here");
            return;
        };
        let dir = disk.0.join("vault");
        copy_files(&fixture.dir, &dir);
        if end == End::Closed {
            truncate(&dir.join("db"), 99);
        }
        // The remaining room suffices for an open without a copy.
        disk.fill(14 << 20);
        let before = snapshot(&dir);
        match (end, Store::open(&dir, CACHE)) {
            (End::Killed, Ok(store)) => assert!(content(&store) == fixture.content),
            (End::Closed, Err(StoreOpenError::NoRoom { .. })) => assert!(snapshot(&dir) == before),
            (_, opened) => panic!("{end:?}: {:?}", opened.err()),
        }
    }
}

#[tokio::test]
async fn the_checkpoint_entry_can_neither_be_read_nor_written() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store.commit(Batch::new().put("a", "1")).await.unwrap();
    assert_eq!(store.read(CHECKPOINT_KEY).unwrap(), None);
    assert_eq!(store.read_and_cache(CHECKPOINT_KEY).unwrap(), None);
    assert_eq!(keys(&store.scan(b"", None, 1).unwrap()), ["a"]);
    assert_eq!(store.scan(CHECKPOINT_KEY, None, 1).unwrap(), []);
    for batch in [
        Batch::new().put(CHECKPOINT_KEY, "x"),
        Batch::new().delete(CHECKPOINT_KEY),
        Batch::new().add(CHECKPOINT_KEY, 1, None),
        Batch::new().expect_absent(CHECKPOINT_KEY),
    ] {
        let refused = store.commit(batch).await;
        assert!(matches!(refused, Err(CommitError::Reserved)), "{refused:?}");
    }
}
