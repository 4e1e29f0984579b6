//! Tests of the store's promises.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod compact;
mod damage;
mod export;
mod faults;
pub(super) mod model;
mod refusals;
mod repair;

use std::{os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;

use super::*;

const CACHE: u64 = 16 << 20;

fn dir() -> (TempDir, std::path::PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("vault");
    (parent, dir)
}

fn open(dir: &Path) -> Store {
    Store::open(dir, CACHE).unwrap()
}

/// Opens the files of a store without starting its commit thread, so that a test can replace some of them.
fn open_files(dir: &Path, cache_bytes: u64) -> Result<OpenedStore, StoreOpenError> {
    UnopenedStore::inspect(dir, cache_bytes, &[])?.open_files()
}

fn counter(store: &Store, key: &[u8]) -> u64 {
    store
        .read(key)
        .unwrap()
        .map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| std::str::from_utf8(&entry.key).unwrap())
        .collect()
}

#[tokio::test]
async fn all_writes_of_a_batch_whose_preconditions_hold_are_applied() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store
        .commit(Batch::new().put("a", "1").put("b", "2"))
        .await
        .unwrap();
    let batch = Batch::new()
        .expect_value("a", "1")
        .expect_absent("c")
        .put("a", "3")
        .put("c", "4")
        .delete("b");
    store.commit(batch).await.unwrap();
    assert_eq!(store.read(b"a").unwrap().unwrap(), b"3");
    assert_eq!(store.read(b"b").unwrap(), None);
    assert_eq!(store.read(b"c").unwrap().unwrap(), b"4");
}

#[tokio::test]
async fn a_conflict_changes_nothing() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store
        .commit(Batch::new().put("a", "1").put("b", "2"))
        .await
        .unwrap();
    let conflicts = [
        Batch::new().expect_absent("a"),
        Batch::new().expect_value("a", "2"),
        Batch::new().expect_value("missing", ""),
        Batch::new().expect_value("a", "1").expect_absent("b"),
    ];
    for batch in conflicts {
        let refused = store
            .commit(batch.put("a", "9").delete("b").add("n", 1, None))
            .await;
        assert!(matches!(refused, Err(CommitError::Conflict)), "{refused:?}");
    }
    assert_eq!(store.scan(b"", None, 10).unwrap().len(), 2);
    assert_eq!(store.read(b"a").unwrap().unwrap(), b"1");
}

#[tokio::test]
async fn a_refused_batch_does_not_affect_other_batches_of_its_group() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let writes = (0..64).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .commit(Batch::new().expect_absent("one").put("one", [i]))
                .await
        })
    });
    let mut won = 0;
    for write in writes.collect::<Vec<_>>() {
        match write.await.unwrap() {
            Ok(()) => won += 1,
            Err(error) => assert!(matches!(error, CommitError::Conflict), "{error:?}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_counter_never_passes_its_limit_and_never_loses_a_count() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let tasks = (0..64u8).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut added = 0u64;
            for i in 0..10u8 {
                match store
                    .commit(Batch::new().put([task, i], "x").add("n", 1, Some(500)))
                    .await
                {
                    Ok(()) => added += 1,
                    Err(error) => assert!(matches!(error, CommitError::LimitReached), "{error:?}"),
                }
                assert!(counter(&store, b"n") <= 500);
            }
            added
        })
    });
    let mut added = 0;
    for task in tasks.collect::<Vec<_>>() {
        added += task.await.unwrap();
    }
    assert_eq!(added, 500);
    assert_eq!(counter(&store, b"n"), 500);
    assert_eq!(store.scan(b"", None, 1_000).unwrap().len(), 501);
}

#[tokio::test]
async fn a_counter_above_a_lowered_limit_can_decrease_and_has_no_entry_at_zero() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store.commit(Batch::new().add("n", 3, Some(3))).await.unwrap();
    let up = store.commit(Batch::new().add("n", 1, Some(2))).await;
    assert!(matches!(up, Err(CommitError::LimitReached)), "{up:?}");
    store.commit(Batch::new().add("n", -1, Some(0))).await.unwrap();
    assert_eq!(counter(&store, b"n"), 2);
    store.commit(Batch::new().add("n", -2, Some(0))).await.unwrap();
    assert_eq!(store.read(b"n").unwrap(), None);
    let below = store.commit(Batch::new().add("n", -1, None).put("a", "1")).await;
    assert!(matches!(below, Err(CommitError::Counter)), "{below:?}");
    assert_eq!(store.read(b"a").unwrap(), None);
}

#[tokio::test]
async fn an_addition_to_a_value_that_is_no_counter_is_refused() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store.commit(Batch::new().put("n", "abc")).await.unwrap();
    let refused = store.commit(Batch::new().add("n", 1, None)).await;
    assert!(matches!(refused, Err(CommitError::Counter)), "{refused:?}");
    assert_eq!(store.health(), Health::Ready);
}

#[tokio::test]
async fn a_scan_pages_in_order_and_stays_within_its_prefix() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let batch = ["a", "s/", "s/1", "s/2", "s/20", "s/3", "s0", "t"]
        .into_iter()
        .fold(Batch::new(), |b, k| b.put(k, k));
    store.commit(batch).await.unwrap();
    let first = store.scan(b"s/", None, 2).unwrap();
    assert_eq!(keys(&first), ["s/", "s/1"]);
    assert_eq!(
        keys(&store.scan(b"s/", Some(b"s/1"), 2).unwrap()),
        ["s/2", "s/20"]
    );
    assert_eq!(keys(&store.scan(b"s/", Some(b"s/20"), 2).unwrap()), ["s/3"]);
    assert_eq!(keys(&store.scan(b"s/", Some(b"s/3"), 2).unwrap()), [""; 0]);
    assert_eq!(keys(&store.scan(b"s/", Some(b"a"), 1).unwrap()), ["s/"]);
    assert_eq!(
        keys(&store.scan(b"s/", Some(b"s/15"), 9).unwrap()),
        ["s/2", "s/20", "s/3"]
    );
    assert_eq!(keys(&store.scan(b"s/", None, 0).unwrap()), [""; 0]);
    assert_eq!(store.scan(b"", None, 100).unwrap().len(), 8);
}

#[tokio::test]
async fn the_largest_values_stay_in_the_log() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let value = |seed: u16| vec![seed.to_be_bytes()[1]; batch::MAX_ENTRY - 2];
    // Ascending and descending keys, replaced values and deletes split, rewrite and merge leaves.
    let order = (0..60u16).chain((60..120).rev()).chain(0..120);
    for key in order {
        store
            .commit(Batch::new().put(key.to_be_bytes(), value(key)))
            .await
            .unwrap();
    }
    for key in (0..120u16).filter(|key| key % 5 != 0) {
        store
            .commit(Batch::new().delete(key.to_be_bytes()))
            .await
            .unwrap();
    }
    store.close().await.unwrap();
    assert_eq!(std::fs::read_dir(dir.join("blobs")).unwrap().count(), 0);
    let store = open(&dir);
    for key in (0..120u16).step_by(5) {
        assert_eq!(store.read(&key.to_be_bytes()).unwrap().unwrap(), value(key));
    }
}

#[tokio::test]
async fn an_entry_or_batch_above_the_size_limit_is_refused() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let entry = Batch::new().put("k", vec![0; batch::MAX_ENTRY]);
    let batch =
        (0..=batch::MAX_BATCH / 65_536).fold(Batch::new(), |b, i| b.put(i.to_be_bytes(), vec![0; 65_536]));
    for large in [entry, batch] {
        let refused = store.commit(large).await;
        assert!(matches!(refused, Err(CommitError::TooLarge)), "{refused:?}");
    }
}

#[tokio::test]
async fn acknowledged_data_is_found_after_a_reopen() {
    let (_parent, dir) = dir();
    for round in 0..5u8 {
        let store = open(&dir);
        assert_eq!(store.scan(b"", None, 100).unwrap().len(), usize::from(round));
        store.commit(Batch::new().put([round], "v")).await.unwrap();
        // A close and a drop both release the store cleanly.
        if round % 2 == 0 {
            store.close().await.unwrap();
        } else {
            drop_and_wait(store, &dir);
        }
    }
}

/// Drops the last handle, and waits until the commit thread has released the files.
fn drop_and_wait(store: Store, dir: &Path) {
    drop(store);
    std::fs::File::open(dir.join("lock")).unwrap().lock().unwrap();
}

#[tokio::test]
async fn a_close_commits_all_queued_batches_and_later_ones_are_refused() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let clone = store.clone();
    let (first, closed) = tokio::join!(biased_commit(&clone), store.close());
    first.unwrap();
    closed.unwrap();
    let late = clone.commit(Batch::new().put("b", "2")).await;
    assert!(matches!(late, Err(CommitError::Closed)), "{late:?}");
    assert!(matches!(clone.clone().close().await, Err(CommitError::Closed)));
    assert_eq!(clone.health(), Health::Stopped);
    assert_eq!(clone.read(b"a").unwrap().unwrap(), b"1");
}

async fn biased_commit(store: &Store) -> Result<(), CommitError> {
    store.commit(Batch::new().put("a", "1")).await
}

#[tokio::test]
async fn a_closed_store_opens_again_while_its_last_clone_is_being_dropped() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let clone = store.clone();
    store.commit(Batch::new().put("a", "1")).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(clone.read(b"a").unwrap().unwrap(), b"1");
    // The file `lock` is free already, so the next open waits for sled's own lock.
    std::fs::File::open(dir.join("lock")).unwrap().try_lock().unwrap();
    // The wait for sled's lock ends after a time limit.
    let refused = Store::open(&dir, CACHE).err().unwrap();
    assert!(matches!(refused, StoreOpenError::InUse(_)), "{refused:?}");
    let again = dir.clone();
    let opening = std::thread::spawn(move || open(&again));
    drop(clone);
    assert_eq!(opening.join().unwrap().read(b"a").unwrap().unwrap(), b"1");
}

#[tokio::test]
async fn a_second_open_is_refused_with_the_reason() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let refused = Store::open(&dir, CACHE).err().unwrap();
    assert!(matches!(refused, StoreOpenError::InUse(_)), "{refused:?}");
    assert!(
        refused
            .to_string()
            .ends_with("is already open in another process"),
        "{refused}"
    );
    store.close().await.unwrap();
    // The file `lock` alone keeps others out, also before sled has opened the store.
    let lock = std::fs::File::open(dir.join("lock")).unwrap();
    lock.try_lock().unwrap();
    let refused = Store::open(&dir, CACHE).err().unwrap();
    assert!(matches!(refused, StoreOpenError::InUse(_)), "{refused:?}");
    drop(lock);
    open(&dir);
}

#[tokio::test]
async fn an_open_gives_the_directory_and_its_files_to_the_owner_only() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    assert_modes(&dir);
    store.close().await.unwrap();
    // A Kubernetes `fsGroup` sets these modes.
    set_mode(&dir, 0o2775);
    set_mode(&dir.join("db"), 0o660);
    set_mode(&dir.join("blobs"), 0o2775);
    let _store = open(&dir);
    assert_modes(&dir);
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn assert_modes(dir: &Path) {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(dir), 0o700);
    let names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    for name in ["lock", "db", "conf", "blobs"] {
        assert!(names.contains(&dir.join(name)), "{names:?}");
    }
    for path in names {
        assert_eq!(mode(&path), if path.is_dir() { 0o700 } else { 0o600 }, "{path:?}");
    }
}

#[test]
fn a_directory_with_other_files_is_refused_and_unchanged() {
    let (_parent, dir) = dir();
    std::fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o755);
    std::fs::write(dir.join("precious"), "x").unwrap();
    assert!(matches!(
        Store::open(&dir, CACHE),
        Err(StoreOpenError::NotAStore(_))
    ));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    assert_eq!(
        std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o755
    );
}

#[tokio::test]
async fn a_store_without_conf_is_refused_and_unchanged() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store.commit(Batch::new().put("a", "1")).await.unwrap();
    store.close().await.unwrap();
    let conf = std::fs::read(dir.join("conf")).unwrap();
    let db = std::fs::read(dir.join("db")).unwrap();
    std::fs::remove_file(dir.join("conf")).unwrap();
    assert!(matches!(
        Store::open(&dir, CACHE),
        Err(StoreOpenError::InvalidConf(_))
    ));
    std::fs::write(dir.join("conf"), "").unwrap();
    assert!(matches!(
        Store::open(&dir, CACHE),
        Err(StoreOpenError::InvalidConf(_))
    ));
    assert_eq!(std::fs::read(dir.join("db")).unwrap(), db);
    std::fs::write(dir.join("conf"), conf).unwrap();
    assert_eq!(open(&dir).read(b"a").unwrap().unwrap(), b"1");
}

#[tokio::test]
async fn an_unfinished_snapshot_does_not_prevent_an_open() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store.commit(Batch::new().put("a", "1")).await.unwrap();
    store.close().await.unwrap();
    std::fs::write(dir.join("snap.7FFFFFFFFFFFFFFF.generating"), "torn").unwrap();
    assert_eq!(open(&dir).read(b"a").unwrap().unwrap(), b"1");
}
