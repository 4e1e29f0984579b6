//! A store that is compacted, and one for which that was stopped.

use std::{fs, path::PathBuf};

use super::*;
use crate::store::compact::{CompactionStage, compact_in_stages};

/// Returns the number of keys, and how often each is put, with values of 8 KiB. `CHURN=3600,100` measures a larger store.
fn churn() -> (usize, usize) {
    let churn = std::env::var("CHURN").unwrap_or_default();
    let (keys, puts) = churn.split_once(',').unwrap_or(("100", "30"));
    (keys.parse().unwrap(), puts.parse().unwrap())
}

fn value(number: usize) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(8 * 1024, 7);
    value
}

/// Fills a store with many replaced values, closes it, and returns its content.
async fn churned(dir: &Path) -> Vec<Entry> {
    let store = open(dir);
    let (keys, rounds) = churn();
    for round in 0..rounds {
        let puts = (0..keys).map(|key| {
            let store = store.clone();
            let batch = Batch::new().put(format!("k{key:03}"), value(round * keys + key));
            tokio::spawn(async move { store.commit(batch).await.unwrap() })
        });
        for put in puts.collect::<Vec<_>>() {
            put.await.unwrap();
        }
    }
    store.commit(Batch::new().delete("k007")).await.unwrap();
    store.replace_key_file(b"keys").unwrap();
    let entries = store.scan(&[], None, usize::MAX).unwrap();
    store.close().await.unwrap();
    entries
}

fn holds(dir: &Path, entries: &[Entry]) -> Store {
    let store = open(dir);
    assert!(
        store.scan(&[], None, usize::MAX).unwrap() == entries,
        "{}",
        dir.display()
    );
    assert_eq!(store.key_file().unwrap().unwrap(), b"keys");
    store
}

fn names_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_compacted_store_has_the_same_content_and_the_size_of_a_new_store() {
    let (parent, dir) = dir();
    let entries = churned(&dir).await;
    let compacted = compact(&dir, CACHE, &[]).await.unwrap();
    assert_eq!(compacted.entries, entries.len() as u64);
    assert_eq!(names_in(parent.path()), ["vault"]);
    holds(&dir, &entries).close().await.unwrap();

    let fresh = parent.path().join("fresh");
    let store = open(&fresh);
    for chunk in entries.chunks(32) {
        let batch = chunk.iter().fold(Batch::new(), |batch, entry| {
            batch.put(entry.key.clone(), entry.value.clone())
        });
        store.commit(batch).await.unwrap();
    }
    store.close().await.unwrap();
    let length = |dir: &Path| fs::metadata(dir.join("db")).unwrap().len();
    assert!(length(&dir) <= length(&fresh) + 8 * 1024 * 1024);
    println!("{compacted:?}");
    assert!(compacted.after < compacted.before, "{compacted:?}");
    // The compacted store accepts writes.
    let store = open(&dir);
    store.commit(Batch::new().put("new", "entry")).await.unwrap();
    assert_eq!(store.read(b"new").unwrap().unwrap(), b"entry");
    store.close().await.unwrap();
}

/// Copies a directory with all of its content.
fn copied(from: &Path, to: PathBuf) -> PathBuf {
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => drop(copied(&path, to)),
            false => drop(fs::copy(&path, to).unwrap()),
        }
    }
    to
}

#[tokio::test]
async fn a_store_whose_compaction_was_interrupted_is_complete_and_the_other_copy_is_removed() {
    let (parent, dir) = dir();
    let entries = churned(&dir).await;
    let crashes = tempfile::tempdir().unwrap();
    let mut stages = Vec::new();
    let done = compact_in_stages(&dir, CACHE, &[], |stage| {
        copied(parent.path(), crashes.path().join(format!("{stage:?}")));
        stages.push(stage);
    });
    done.await.unwrap();
    assert_eq!(
        stages,
        [
            CompactionStage::Created,
            CompactionStage::Copied,
            CompactionStage::Closed,
            CompactionStage::Exchanged
        ]
    );
    for stage in stages {
        let crashed = crashes.path().join(format!("{stage:?}"));
        assert_eq!(names_in(&crashed), [".vault.compacting", "vault"]);
        holds(&crashed.join("vault"), &entries).close().await.unwrap();
        assert_eq!(names_in(&crashed), ["vault"], "{stage:?}");
    }
}

#[tokio::test]
async fn an_open_changed_or_incomplete_store_is_not_compacted() {
    let (parent, dir) = dir();
    let entries = churned(&dir).await;
    let store = open(&dir);
    let refused = compact(&dir, CACHE, &[]).await;
    assert!(
        matches!(refused, Err(CompactError::Open(StoreOpenError::InUse(_)))),
        "{refused:?}"
    );
    store.close().await.unwrap();

    // Another process opens the store after it was closed for the exchange, and writes.
    let at = dir.clone();
    let (made, written) = (tempfile::tempdir().unwrap(), std::cell::Cell::new(false));
    let refused = compact_in_stages(&dir, CACHE, &[], |stage| {
        if stage == CompactionStage::Closed {
            let other = copied(&at, made.path().join("other"));
            let writing = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    let store = open(&other);
                    store.commit(Batch::new().put("late", "write")).await.unwrap();
                    store.close().await.unwrap();
                });
            });
            writing.join().unwrap();
            fs::remove_dir_all(&at).unwrap();
            copied(&made.path().join("other"), at.clone());
            written.set(true);
        }
    })
    .await;
    assert!(matches!(refused, Err(CompactError::Changed)), "{refused:?}");
    assert!(written.get());
    assert_eq!(names_in(parent.path()), ["vault"]);
    let store = open(&dir);
    assert_eq!(store.read(b"late").unwrap().unwrap(), b"write");
    store.commit(Batch::new().delete("late")).await.unwrap();
    store
        .commit(
            Batch::new()
                .expect_absent(EXCLUSIVE_WRITER)
                .put(EXCLUSIVE_WRITER, "filling"),
        )
        .await
        .unwrap();
    store.close().await.unwrap();
    let refused = compact(&dir, CACHE, &[]).await;
    assert!(
        matches!(refused, Err(CompactError::ExclusiveWriter)),
        "{refused:?}"
    );
    let store = open(&dir);
    let release = Batch::new()
        .expect_value(EXCLUSIVE_WRITER, "filling")
        .delete(EXCLUSIVE_WRITER);
    store.commit(release).await.unwrap();
    store.close().await.unwrap();
    holds(&dir, &entries).close().await.unwrap();
}
