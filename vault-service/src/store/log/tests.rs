//! Comparisons of the reader with sled: on sound logs the reader finds the same entries, and on damaged ones everything
//! that is left.

use std::{collections::BTreeMap, fs, path::PathBuf};

use tempfile::TempDir;

use super::{
    frame::{self, Budget},
    *,
};
use crate::store::{Batch, Store, checkpoint::CHECKPOINT_KEY, tests::model::Random};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

const CACHE: u64 = 1 << 20;

fn found(log: &Log) -> Content {
    let entries = log.live().iter().filter(|(key, _)| *key != CHECKPOINT_KEY);
    entries
        .map(|(key, history)| (key.clone(), log.value(history.values().next().unwrap()).unwrap()))
        .collect()
}

fn content(store: &Store) -> Content {
    let entries = store.scan(b"", None, usize::MAX).unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect()
}

/// Puts and deletes with keys that share prefixes of many lengths, so that pages split, merge and are rewritten.
async fn churn(store: &Store, random: &mut Random, batches: u32, size: u32) {
    for _ in 0..batches {
        let keys: std::collections::BTreeSet<_> = (0..=random.below(4))
            .map(|_| format!("{}/{:03}/{}", random.below(3), random.below(200), random.below(3)))
            .collect();
        let batch = keys.into_iter().fold(Batch::new(), |batch, key| {
            if random.below(3) == 0 {
                batch.delete(key)
            } else {
                let value = vec![random.below(256).to_be_bytes()[3]; random.below(size) as usize];
                batch.put(key, value)
            }
        });
        store.commit(batch).await.unwrap();
    }
}

/// Makes a store that was opened several times, and returns its content too.
async fn churned(size: u32) -> (TempDir, PathBuf, Content) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let mut random = Random(11);
    for _ in 0..3 {
        let store = Store::open(&dir, CACHE).unwrap();
        churn(&store, &mut random, 300, size).await;
        store.close().await.unwrap();
    }
    let store = Store::open(&dir, CACHE).unwrap();
    let content = content(&store);
    store.close().await.unwrap();
    (parent, dir.join("db"), content)
}

fn read(db: &Path) -> Log {
    Log::read(db, UnfinishedBatch::Ignore).unwrap()
}

#[tokio::test]
async fn a_sound_log_is_read_as_sled_reads_it() {
    let (_parent, db, content) = churned(300).await;
    let log = read(&db);
    assert!(found(&log) == content, "other entries were found");
    assert_eq!(
        (
            log.gaps().count(),
            log.unnamed_changes(),
            log.corrected_messages(),
            log.torn_bytes()
        ),
        (0, 0, 0, 0)
    );
}

/// Values of up to 60 KB fill 8 MiB several times, so that segments are freed and used again.
#[tokio::test]
async fn a_log_whose_segments_were_used_again_is_read_as_sled_reads_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let mut random = Random(5);
    let store = Store::open(&dir, CACHE).unwrap();
    churn(&store, &mut random, 900, 60_000).await;
    let expected = content(&store);
    // The copy is in the state after a kill: stale messages may follow the last one.
    let copy = parent.path().join("db");
    fs::copy(dir.join("db"), &copy).unwrap();
    assert!(found(&read(&copy)) == expected, "other entries were found");
    store.close().await.unwrap();
    let log = read(&dir.join("db"));
    assert!(found(&log) == expected, "other entries were found");
    assert_eq!((log.gaps().count(), log.unnamed_changes()), (0, 0));
}

#[tokio::test]
async fn a_flipped_bit_is_flipped_back_wherever_it_is() {
    let (_parent, db, content) = churned(100).await;
    let bytes = fs::read(&db).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let mut random = Random(3);
    let mut corrected = 0;
    for _ in 0..60 {
        let at = 20 + random.below(u32::try_from(written - 20).unwrap()) as usize;
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << random.below(8);
        fs::write(&db, damaged).unwrap();
        let log = read(&db);
        assert!(found(&log) == content, "byte {at}: other entries were found");
        assert_eq!((log.gaps().count(), log.unnamed_changes()), (0, 0), "byte {at}");
        corrected += log.corrected_messages();
    }
    assert_eq!(corrected, 60);
}

#[tokio::test]
async fn messages_behind_unreadable_bytes_are_read_and_the_bytes_are_told() {
    let (_parent, db, content) = churned(300).await;
    let bytes = fs::read(&db).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for part in 1..10 {
        let mut damaged = bytes.clone();
        let at = written / 10 * part;
        damaged[at..at + 4096].fill(0xA5);
        fs::write(&db, damaged).unwrap();
        let log = read(&db);
        let found = found(&log);
        let same = content
            .iter()
            .filter(|(key, value)| found.get(*key) == Some(value));
        let share = same.count() * 100 / content.len();
        assert!(share >= 90, "{share} % were found");
        assert_eq!(log.gaps().count(), 1);
        let bytes = log.gaps().bytes();
        assert!((4096..3 * 4096).contains(&bytes), "{bytes}");
        // The log reports every key with a wrong value as possibly changed in the gap.
        for (key, value) in &found {
            let may_differ = log
                .history(key)
                .is_some_and(|history| log.gaps().messages_after(history.confirmed_at()) > 0);
            assert!(may_differ || content.get(key) == Some(value), "{key:?}");
        }
    }
}

#[tokio::test]
async fn a_log_without_its_first_pages_or_in_which_all_is_damaged_is_read_without_a_panic() {
    let (_parent, db, _) = churned(100).await;
    let bytes = fs::read(&db).unwrap();
    let mut random = Random(9);
    for damage in 0..40usize {
        let mut damaged = bytes.clone();
        let length = damaged.len();
        match damage {
            0 => damaged.fill(0xFF),
            1 => damaged.fill(8),
            2 => damaged.clear(),
            3 => damaged.truncate(length / 2 + 3),
            4 => damaged[..length / 4].fill(0),
            5 => damaged[length / 8..].fill(0),
            _ => {
                for _ in 0..damage * damage {
                    let at = random.below(u32::try_from(length).unwrap()) as usize;
                    damaged[at] = random.below(256).to_be_bytes()[3];
                }
            }
        }
        fs::write(&db, damaged).unwrap();
        let log = read(&db);
        for trace in log.live().values().chain(log.deleted().values()) {
            for value in trace.values() {
                log.value(value).unwrap();
            }
        }
    }
}

/// The segment is crafted to be slow: every message claims the maximum length.
#[test]
fn hostile_bytes_take_a_bounded_time() {
    let header = [1, 2, 3, 4, 2, 250, 0, 0, 0x40, 0, 1];
    let bytes: Vec<u8> = header.iter().copied().cycle().take(SEGMENT).collect();
    let started = std::time::Instant::now();
    let scanned = scan::segment(&bytes, 0);
    assert!(scanned.frames.is_empty());
    assert!(started.elapsed() < std::time::Duration::from_secs(20));
}

#[test]
fn every_flipped_bit_of_a_message_is_found() {
    let body = b"\x01\x05a/key";
    let mut message = vec![0, 0, 0, 0, 10, 7, 3, 9];
    message.extend(body);
    let mut crc = crc32fast::Hasher::new();
    crc.update(body);
    crc.update(&message[4..8]);
    message[..4].copy_from_slice(&(!crc.finalize()).to_le_bytes());
    let whole = frame::whole(&message).unwrap();
    for bit in 0..message.len() * 8 {
        let mut flipped = message.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // The reader also sees the bytes that follow a message in its segment.
        flipped.extend([0; 64]);
        assert_eq!(frame::whole(&flipped), None, "bit {bit}");
        let (header, flip) = frame::corrected(&flipped, &mut Budget::of_segment()).unwrap();
        assert_eq!((flip.byte, flip.mask), (bit / 8, 1 << (bit % 8)), "bit {bit}");
        assert_eq!(
            (header.kind, header.segment, header.page),
            (whole.kind, 3, 9),
            "bit {bit}"
        );
    }
}
