//! Faults of the disk. The tests replace the sync of `db`, to hold it, to count it or to make it fail.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    pin::pin,
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc as std_mpsc,
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::*;
use crate::store::{checkpoint::FIRST_GENERATION, key_file::Replace, marker::Marker};

/// Opens a store that calls `fdatasync` after each real sync.
fn with_fdatasync(dir: &Path, mut fdatasync: impl FnMut() -> io::Result<()> + Send + 'static) -> Store {
    let mut opened = open_files(dir, CACHE).unwrap();
    let mut real = opened.fdatasync;
    opened.fdatasync = Box::new(move || real().and_then(|()| fdatasync()));
    Store::start(opened, Watchdog::default()).unwrap()
}

/// Opens a store whose sync number `n` calls `fail`. Also returns the count of syncs.
fn failing_at(dir: &Path, n: usize, fail: fn() -> io::Result<()>) -> (Store, Arc<AtomicUsize>) {
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&syncs);
    let store = with_fdatasync(dir, move || match counted.fetch_add(1, Ordering::SeqCst) + 1 {
        now if now == n => fail(),
        _ => Ok(()),
    });
    (store, syncs)
}

fn io_error() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(5))
}

/// Copies the directory of a failed store, which stays locked until the process ends.
fn after_restart(dir: &Path) -> PathBuf {
    copied(dir, "restarted")
}

fn copied(dir: &Path, name: &str) -> PathBuf {
    let copy = dir.with_extension(name);
    std::fs::create_dir(&copy).unwrap();
    for name in std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
    {
        // The reserve is 16 MiB without content.
        if dir.join(&name).is_file() && name != "reserve" {
            std::fs::copy(dir.join(&name), copy.join(&name)).unwrap();
        }
    }
    copy
}

#[tokio::test]
async fn a_failed_sync_fails_its_commit_and_no_further_sync_is_tried() {
    for n in 1..=4 {
        let (_parent, dir) = dir();
        let (store, syncs) = failing_at(&dir, n, io_error);
        for i in 1..n {
            store
                .commit(Batch::new().put(i.to_be_bytes(), "v"))
                .await
                .unwrap();
        }
        assert_eq!(store.health(), Health::Ready);
        for attempt in 0..3 {
            let failed = store.commit(Batch::new().put(n.to_be_bytes(), "v")).await;
            match (attempt, &failed) {
                (0, Err(CommitError::OutcomeUnknown(_))) | (1.., Err(CommitError::Unavailable(_))) => {}
                _ => panic!("{attempt}: {failed:?}"),
            }
            assert_eq!(store.health(), Health::Stopped);
            assert_eq!(store.read(&n.to_be_bytes()).unwrap(), None);
        }
        let first = store.read(&1usize.to_be_bytes()).unwrap();
        assert_eq!(first.as_deref(), (n > 1).then_some(&b"v"[..]));
        let closed = store.close().await;
        assert!(matches!(closed, Err(CommitError::Unavailable(_))), "{closed:?}");
        assert_eq!(syncs.load(Ordering::SeqCst), n);
        // The store keeps sled: a drop would flush and sync again.
        assert!(matches!(Store::open(&dir, CACHE), Err(StoreOpenError::InUse(_))));
        let restarted = open(&after_restart(&dir));
        for i in 1..n {
            assert_eq!(restarted.read(&i.to_be_bytes()).unwrap().unwrap(), b"v");
        }
    }
}

#[tokio::test]
async fn a_failed_sync_fails_all_waiting_commits() {
    let (_parent, dir) = dir();
    let (store, syncs) = failing_at(&dir, 1, io_error);
    let tasks = (0..2_000u16).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(Batch::new().put(i.to_be_bytes(), "v")).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        let failed = task.await.unwrap();
        assert!(
            matches!(
                failed,
                Err(CommitError::OutcomeUnknown(_) | CommitError::Unavailable(_))
            ),
            "{failed:?}"
        );
    }
    assert_eq!(store.scan(b"", None, 10).unwrap(), []);
    assert_eq!(syncs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_full_disk_is_reported_as_full_and_reads_go_on() {
    let (_parent, dir) = dir();
    let (store, _syncs) = failing_at(&dir, 2, || Err(io::ErrorKind::StorageFull.into()));
    store.commit(Batch::new().put("a", "1")).await.unwrap();
    let full = store.commit(Batch::new().put("b", "2")).await;
    assert!(
        matches!(&full, Err(CommitError::OutcomeUnknown(fault)) if fault.is_full()),
        "{full:?}"
    );
    let late = store.commit(Batch::new().put("b", "2")).await;
    assert!(matches!(late, Err(CommitError::Unavailable(_))), "{late:?}");
    assert_eq!(store.health(), Health::Stopped);
    assert_eq!(store.read(b"a").unwrap().unwrap(), b"1");
    assert_eq!(store.read(b"b").unwrap(), None);
    assert_eq!(open(&after_restart(&dir)).read(b"a").unwrap().unwrap(), b"1");
}

macro_rules! assert_waits {
    ($commit:expr) => {
        tokio::select! {
            biased;
            answer = $commit.as_mut() => panic!("answered before its sync ended: {answer:?}"),
            () = std::future::ready(()) => {}
        }
    };
}

impl Store {
    /// Opens a store on a simulated disk with `free` MiB of free space in addition to the reserve.
    pub(crate) fn on_disk(dir: &Path, free: u64) -> (Self, Arc<AtomicU64>) {
        on_disk(dir, free)
    }
}

fn on_disk(dir: &Path, free: u64) -> (Store, Arc<AtomicU64>) {
    let mut opened = open_files(dir, CACHE).unwrap();
    let free = Arc::new(AtomicU64::new(free));
    let (said, reserve) = (Arc::clone(&free), dir.join("reserve"));
    opened.disk_space.free_bytes = Box::new(move || {
        // The simulated disk gets the space of the reserve when the file is emptied.
        let held = std::fs::metadata(&reserve).map_or(0, |reserve| reserve.len());
        Some((said.load(Ordering::SeqCst) << 20) + (16 << 20) - held)
    });
    (Store::start(opened, Watchdog::default()).unwrap(), free)
}

#[tokio::test]
async fn commits_are_refused_on_an_almost_full_disk_until_there_is_room() {
    let (_parent, dir) = dir();
    let (store, free) = on_disk(&dir, 100);
    store.commit(Batch::new().put("a", "1")).await.unwrap();

    free.store(16, Ordering::SeqCst);
    let full = store.commit(Batch::new().put("a", "2")).await;
    assert!(matches!(full, Err(CommitError::Full)), "{full:?}");
    assert_eq!(store.health(), Health::DiskFull);
    assert_eq!(store.read(b"a").unwrap().unwrap(), b"1");
    // The refused commit writes nothing.
    store.commit(Batch::new().expect_value("a", "1")).await.unwrap();

    free.store(100, Ordering::SeqCst);
    assert_eq!(store.health(), Health::Ready);
    store.commit(Batch::new().put("a", "3")).await.unwrap();
}

#[tokio::test]
async fn deletes_go_on_when_the_disk_is_full_and_the_reserve_is_filled_again_later() {
    let (_parent, dir) = dir();
    let (store, free) = on_disk(&dir, 100);
    let batch = (0..100u8).fold(Batch::new(), |batch, key| batch.put([key], vec![1; 200]));
    store.commit(batch).await.unwrap();
    let reserve = || std::fs::metadata(dir.join("reserve")).unwrap().len();
    assert_eq!(reserve(), 16 << 20);

    // Deletes use the space that puts must leave free, and then the reserve.
    for (mib, held) in [(10, 16), (1, 0), (0, 0)] {
        free.store(mib, Ordering::SeqCst);
        let put = store.commit(Batch::new().put("new", "1")).await;
        assert!(matches!(put, Err(CommitError::Full)), "{put:?}");
        let key = [u8::try_from(mib).unwrap()];
        store
            .commit(Batch::new().delete(key).add("count", 1, None))
            .await
            .unwrap();
        assert_eq!(store.read(&key).unwrap(), None);
        assert_eq!(reserve(), held << 20, "with {mib} MiB free");
        assert_eq!(
            store.health(),
            Health::DiskFull,
            "what deletes use is not for puts"
        );
    }

    free.store(100, Ordering::SeqCst);
    store.commit(Batch::new().put("new", "1")).await.unwrap();
    assert_eq!(reserve(), 16 << 20);
    store.close().await.unwrap();
    open(&dir).close().await.unwrap();
}

#[tokio::test]
async fn a_caller_that_was_refused_for_lack_of_room_is_told_within_seconds_that_there_is_room() {
    let (_parent, dir) = dir();
    let (store, free) = on_disk(&dir, 0);
    let full = store.commit(Batch::new().put("a", "1")).await;
    assert!(matches!(full, Err(CommitError::Full)), "{full:?}");
    let mut again = pin!(store.wait_for_room());
    assert_waits!(again);
    free.store(100, Ordering::SeqCst);
    tokio::time::timeout(Duration::from_secs(20), again)
        .await
        .unwrap();
    store.commit(Batch::new().put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn a_panic_in_the_commit_thread_fails_all_waiting_commits() {
    let (_parent, dir) = dir();
    let (store, _syncs) = failing_at(&dir, 1, || panic!("as sled would"));
    for _ in 0..2 {
        let failed = store.commit(Batch::new().put("a", "1")).await;
        let Err(CommitError::OutcomeUnknown(fault) | CommitError::Unavailable(fault)) = failed else {
            panic!("{failed:?}")
        };
        assert!(matches!(*fault, Fault::Panicked));
    }
    assert_eq!(store.health(), Health::Stopped);
}

/// Control of syncs: each sync reports its start and waits for its release.
struct SyncControl {
    entered: mpsc::UnboundedReceiver<()>,
    release: std_mpsc::Sender<()>,
}

impl SyncControl {
    /// Waits until a sync has started.
    async fn begun(&mut self) {
        let entered = tokio::time::timeout(Duration::from_secs(10), self.entered.recv()).await;
        entered
            .expect("a sync begins before anything is acknowledged")
            .unwrap();
    }
}

fn with_held_syncs(dir: &Path) -> (Store, SyncControl) {
    let (announce, entered) = mpsc::unbounded_channel();
    let (release, released) = std_mpsc::channel();
    let store = with_fdatasync(dir, move || {
        announce.send(()).unwrap();
        released.recv().map_err(io::Error::other)
    });
    (store, SyncControl { entered, release })
}

#[tokio::test]
async fn a_commit_is_answered_after_the_sync_of_its_own_group() {
    let (_parent, dir) = dir();
    let (store, mut sync) = with_held_syncs(&dir);
    let mut first = pin!(store.commit(Batch::new().put("a", "1")));
    assert_waits!(first);
    sync.begun().await;
    // The running sync does not include these commits.
    let mut second = pin!(store.commit(Batch::new().put("b", "2")));
    let mut conflict = pin!(store.commit(Batch::new().expect_absent("b").put("c", "3")));
    assert_waits!(second);
    assert_waits!(conflict);
    assert_waits!(first);
    assert_eq!(store.read(b"a").unwrap(), None);

    sync.release.send(()).unwrap();
    first.await.unwrap();
    sync.begun().await;
    assert_waits!(second);
    // The batch that caused the conflict is not durable yet, so the conflict is not reported yet.
    assert_waits!(conflict);
    sync.release.send(()).unwrap();
    second.await.unwrap();
    let refused = conflict.await;
    assert!(matches!(refused, Err(CommitError::Conflict)), "{refused:?}");

    // A close syncs once more.
    sync.release.send(()).unwrap();
    store.clone().close().await.unwrap();
}

#[tokio::test]
async fn a_group_is_limited_in_batches_and_in_bytes() {
    for (waiting, size, together) in [(300u16, 1, 256), (4, 90_000, 2)] {
        let (_parent, dir) = dir();
        let (store, mut sync) = with_held_syncs(&dir);
        let mut first = pin!(store.commit(Batch::new().put("first", "1")));
        assert_waits!(first);
        sync.begun().await;
        let key = |number: u16, part: u8| [&number.to_be_bytes()[..], &[part]].concat();
        let batch = |number| (0..6).fold(Batch::new(), |b, part| b.put(key(number, part), vec![1; size]));
        let commits = (0..waiting).map(|number| Box::pin(store.commit(batch(number))));
        let mut commits: Vec<_> = commits.collect();
        for commit in &mut commits {
            assert_waits!(commit);
        }
        sync.release.send(()).unwrap();
        first.await.unwrap();
        sync.begun().await;
        let is_applied = |number: &u16| {
            scan::read(store.shared.data.db(), &key(*number, 0))
                .unwrap()
                .is_some()
        };
        let applied = (0..waiting).filter(is_applied);
        assert_eq!(applied.count(), together);
        // The other groups and the close need three more releases.
        (0..3).for_each(|_| sync.release.send(()).unwrap());
        for commit in commits {
            commit.await.unwrap();
        }
        store.clone().close().await.unwrap();
    }
}

#[tokio::test]
async fn the_marker_counts_a_group_only_once_it_is_durable() {
    let (_parent, dir) = dir();
    let mut opened = open_files(&dir, CACHE).unwrap();
    opened.marker.interval = Duration::ZERO;
    let generation = {
        let dir = dir.clone();
        move || Marker::read(&dir).unwrap().unwrap().checkpoint.generation
    };
    let (syncing, mut while_syncing) = mpsc::unbounded_channel();
    let seen = generation.clone();
    opened.fdatasync = Box::new(move || syncing.send(seen()).map_err(io::Error::other));
    let store = Store::start(opened, Watchdog::default()).unwrap();
    for group in 1..4u64 {
        store.commit(Batch::new().put("a", "1")).await.unwrap();
        assert_eq!(while_syncing.recv().await, Some(FIRST_GENERATION + group - 1));
        assert_eq!(generation(), FIRST_GENERATION + group);
    }
}

#[tokio::test]
async fn the_marker_counts_the_last_group_of_an_idle_store() {
    let (_parent, dir) = dir();
    let mut opened = open_files(&dir, CACHE).unwrap();
    opened.marker.interval = Duration::from_millis(500);
    let store = Store::start(opened, Watchdog::default()).unwrap();
    for _ in 0..2 {
        store.commit(Batch::new().put("a", "1")).await.unwrap();
    }
    let generation = || Marker::read(&dir).unwrap().unwrap().checkpoint.generation;
    let started = Instant::now();
    while generation() < FIRST_GENERATION + 2 {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "it is {}",
            generation()
        );
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_close_syncs_once_more_and_reports_a_failure() {
    let (_parent, dir) = dir();
    let (store, syncs) = failing_at(&dir, 2, io_error);
    store.commit(Batch::new().put("a", "1")).await.unwrap();
    let closed = store.close().await;
    assert!(matches!(closed, Err(CommitError::Unavailable(_))), "{closed:?}");
    assert_eq!(syncs.load(Ordering::SeqCst), 2);
}

impl Store {
    /// Opens a store that replaces the file `keys` by the function that `wrap` returns.
    pub(crate) fn with_key_file(dir: &Path, wrap: impl FnOnce(Replace) -> Replace) -> Self {
        let mut opened = open_files(dir, CACHE).unwrap();
        opened.key_file.replace = wrap(opened.key_file.replace);
        Self::start(opened, Watchdog::default()).unwrap()
    }

    /// Opens a store whose syncs wait for a message, and count as hanging at once. The store fails when the sender is dropped.
    pub(crate) fn hanging(dir: &Path) -> (Self, std_mpsc::Sender<()>) {
        let (store, SyncControl { entered: _, release }) = with_expired_watchdog(dir);
        (store, release)
    }
}

fn with_expired_watchdog(dir: &Path) -> (Store, SyncControl) {
    let mut opened = open_files(dir, CACHE).unwrap();
    let (announce, entered) = mpsc::unbounded_channel();
    let (release, released) = std_mpsc::channel();
    opened.fdatasync = Box::new(move || {
        // A send fails when the test no longer listens.
        let _ = announce.send(());
        released.recv().map_err(io::Error::other)
    });
    // A limit of zero reports every running call.
    let store = Store::start(opened, Watchdog::with_limit(Duration::ZERO)).unwrap();
    (store, SyncControl { entered, release })
}

#[tokio::test]
async fn a_disk_that_does_not_answer_is_reported_until_it_answers() {
    let (_parent, dir) = dir();
    let (store, mut sync) = with_expired_watchdog(&dir);
    assert_eq!(store.health(), Health::Ready);
    let mut commit = pin!(store.commit(Batch::new().put("a", "1")));
    assert_waits!(commit);
    sync.begun().await;
    assert_eq!(store.health(), Health::Unresponsive);
    sync.release.send(()).unwrap();
    commit.await.unwrap();
    // The commit is answered a moment before the watched call ends.
    while store.health() != Health::Ready {
        std::thread::yield_now();
    }
    sync.release.send(()).unwrap();
    store.clone().close().await.unwrap();
}

#[tokio::test]
async fn a_slow_disk_is_not_reported_as_unresponsive() {
    let (_parent, dir) = dir();
    let (store, mut sync) = with_held_syncs(&dir);
    let mut commit = pin!(store.commit(Batch::new().put("a", "1")));
    assert_waits!(commit);
    sync.begun().await;
    assert_eq!(store.health(), Health::Ready);
    sync.release.send(()).unwrap();
    commit.await.unwrap();
    sync.release.send(()).unwrap();
    store.clone().close().await.unwrap();
}

#[tokio::test]
async fn a_batch_that_writes_nothing_costs_no_sync() {
    let (_parent, dir) = dir();
    let (store, syncs) = failing_at(&dir, 1, io_error);
    store.commit(Batch::new().expect_absent("a")).await.unwrap();
    assert!(
        store
            .commit(Batch::new().expect_value("a", "1").put("a", "2"))
            .await
            .is_err()
    );
    assert_eq!(syncs.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_batch_that_a_crash_wrote_in_part_is_not_found_at_all() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store
        .commit(Batch::new().put("a", "old").put("b", "old"))
        .await
        .unwrap();
    let length = || std::fs::metadata(dir.join("db")).unwrap().len();
    let before = length();
    let marker = std::fs::read(dir.join("marker")).unwrap();
    let batch = ["a", "b", "c"]
        .into_iter()
        .fold(Batch::new(), |b, k| b.put(k, vec![b'n'; 300]));
    store.commit(batch).await.unwrap();
    let after = length();
    let mut torn = 0;
    for cut in (before..after).step_by(29).chain([after]) {
        let copy = copied(&dir, &cut.to_string());
        // The later marker, which may exist by now, would refuse the truncated log.
        std::fs::write(copy.join("marker"), &marker).unwrap();
        let db = std::fs::File::options()
            .write(true)
            .open(copy.join("db"))
            .unwrap();
        db.set_len(cut).unwrap();
        let store = open(&copy);
        let is_new = |key: &[u8]| {
            store
                .read(key)
                .unwrap()
                .is_some_and(|value| value == vec![b'n'; 300])
        };
        let is_old = |key: &[u8]| store.read(key).unwrap().as_deref() == Some(b"old".as_slice());
        let whole = is_new(b"a") && is_new(b"b") && is_new(b"c");
        let nothing = is_old(b"a") && is_old(b"b") && store.read(b"c").unwrap().is_none();
        assert!(
            if cut == after { whole } else { nothing },
            "cut at {cut} of {before}..{after}"
        );
        torn += 1;
    }
    assert!(torn > 20, "the batch was written in several messages");
}

/// Fills a store with some entries, and closes it.
async fn with_entries(dir: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let store = open(dir);
    let batch = (0..40u8).fold(Batch::new(), |batch, number| {
        batch.put([b'k', 2 * number], [number])
    });
    store.commit(batch).await.unwrap();
    let entries = store.scan(b"", None, usize::MAX).unwrap();
    store.close().await.unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect()
}

/// Returns a batch that puts new entries between the old ones, replaces some and deletes others.
fn changes() -> Batch {
    let numbers = 0..40u8;
    numbers.fold(Batch::new(), |batch, number| match number % 4 {
        0 => batch.put([b'k', 2 * number + 1], "new"),
        1 => batch.put([b'k', 2 * number], "replaced"),
        2 => batch.delete([b'k', 2 * number]),
        _ => batch,
    })
}

/// Asserts that every kind of read returns exactly this content.
fn assert_reads(store: &Store, content: &BTreeMap<Vec<u8>, Vec<u8>>) {
    for number in 0..=u8::MAX {
        let key = [b'k', number];
        let expected = content.get(&key[..]);
        assert_eq!(store.read(&key).unwrap().as_ref(), expected);
        let often = store.read_and_cache(&key).unwrap();
        assert_eq!(often.as_deref(), expected.map(Vec::as_slice));
        if let Some(recent) = store.cached(&key) {
            assert_eq!(Some(&*recent), expected.map(Vec::as_slice));
        }
    }
    for limit in [1, 3, 7, usize::MAX] {
        let (mut found, mut after) = (BTreeMap::new(), None::<Vec<u8>>);
        loop {
            let page = store.scan(b"k", after.as_deref(), limit).unwrap();
            after = page.last().map(|entry| entry.key.clone());
            found.extend(page.into_iter().map(|entry| (entry.key, entry.value)));
            if after.is_none() {
                break;
            }
        }
        assert_eq!(&found, content, "in pages of {limit}");
    }
}

#[tokio::test]
async fn a_write_is_read_once_it_is_durable_and_not_before() {
    let (_parent, dir) = dir();
    let before = with_entries(&dir).await;
    let (store, mut sync) = with_held_syncs(&dir);
    assert_reads(&store, &before);
    let mut commit = pin!(store.commit(changes()));
    assert_waits!(commit);
    sync.begun().await;
    assert!(
        scan::read(store.shared.data.db(), b"k\x01").unwrap().is_some(),
        "sled has it"
    );
    assert_reads(&store, &before);
    assert_reads(&store, &before);
    sync.release.send(()).unwrap();
    commit.await.unwrap();
    let after = store.scan(b"", None, usize::MAX).unwrap();
    let after: BTreeMap<_, _> = after.into_iter().map(|entry| (entry.key, entry.value)).collect();
    assert_eq!(after.len(), before.len());
    assert_ne!(after, before);
    assert_reads(&store, &after);
    sync.release.send(()).unwrap();
    store.clone().close().await.unwrap();
}

#[tokio::test]
async fn a_failed_write_is_never_read_and_a_restart_finds_all_or_nothing_of_it() {
    let faults: [fn() -> io::Result<()>; 3] = [
        io_error,
        || Err(io::ErrorKind::StorageFull.into()),
        || panic!("as sled would"),
    ];
    for fail in faults {
        let (_parent, dir) = dir();
        let before = with_entries(&dir).await;
        let (store, _) = failing_at(&dir, 1, fail);
        assert_reads(&store, &before);
        let failed = store.commit(changes()).await;
        assert!(
            matches!(failed, Err(CommitError::OutcomeUnknown(_))),
            "{failed:?}"
        );
        assert!(
            scan::read(store.shared.data.db(), b"k\x01").unwrap().is_some(),
            "sled has it"
        );
        assert_reads(&store, &before);
        let exported = store.export().map(|mut export| export.next_part());
        assert!(
            !matches!(exported, Ok(Ok(None))),
            "an export of a failed store does not end well"
        );
        let restarted = open(&after_restart(&dir));
        let now = restarted.scan(b"k", None, usize::MAX).unwrap();
        let whole = now.iter().any(|entry| entry.value == b"replaced");
        assert_eq!(whole, restarted.read(b"k\x01").unwrap().is_some());
    }
}
