//! An export beside commits, against a model.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use super::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Applies all changes of an export to an empty map.
fn all_of(mut export: Export) -> Result<Model, ExportError> {
    let mut found = Model::new();
    while let Some(part) = export.next_part()? {
        apply(&mut found, part);
    }
    Ok(found)
}

fn apply(found: &mut Model, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Put(Entry { key, value }) => found.insert(key, value),
            Change::Delete(key) => found.remove(&key),
        };
    }
}

const WRITERS: u64 = 64;
const ACCOUNTS: u64 = 10;
/// Number of entries between the accounts and the entries of the writers, which an export takes a while to read.
const BULK: u16 = 4000;

/// Returns the changes of a writer's own keys in the batch number `step`.
fn own_writes(writer: u64, step: u64) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let number = |salt: u64| {
        (writer << 40 | step << 8 | salt)
            .wrapping_add(1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            >> 33
    };
    (0..3)
        .map(|salt| {
            let key = format!("own/{writer:02}/{:02}", number(salt) % 40).into_bytes();
            let value = format!(
                "{step} {}",
                "x".repeat(usize::try_from(number(salt + 3) % 300).unwrap())
            );
            (key, (number(salt + 6) % 3 > 0).then(|| value.into_bytes()))
        })
        .collect()
}

/// Returns a batch with related entries: the writer's step, its own keys, a count of all batches, and a transfer of money.
fn batch(writer: u64, step: u64) -> Batch {
    let account = |number: u64| format!("account/{}", number % ACCOUNTS);
    let batch = Batch::new()
        .put(format!("step/{writer:02}"), step.to_be_bytes())
        .add("batches", 1, None)
        .add(account(writer + step), -1, None)
        .add(account(writer + step + 1 + writer % 7), 1, None);
    own_writes(writer, step)
        .into_iter()
        .fold(batch, |batch, (key, value)| match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        })
}

fn number(model: &Model, key: &str) -> u64 {
    model.get(key.as_bytes()).map_or(0, |bytes| {
        u64::from_be_bytes(bytes.as_slice().try_into().unwrap())
    })
}

/// Asserts that the content is exactly that after these steps of the writers.
fn assert_is_a_moment(found: &Model, steps: &[u64]) {
    let mut expected = Model::new();
    for (writer, last) in (0..).zip(steps) {
        for step in 1..=*last {
            for (key, value) in own_writes(writer, step) {
                match value {
                    Some(value) => expected.insert(key, value),
                    None => expected.remove(&key),
                };
            }
        }
    }
    let own: Model = found
        .iter()
        .filter(|(key, _)| key.starts_with(b"own/"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    assert_eq!(own, expected);
    assert_eq!(number(found, "batches"), steps.iter().sum::<u64>());
    let money: u64 = (0..ACCOUNTS)
        .map(|n| number(found, &format!("account/{n}")))
        .sum();
    assert_eq!(money, ACCOUNTS * 1_000_000);
    let bulk = found.iter().filter(|(key, _)| key.starts_with(b"bulk/"));
    assert_eq!(bulk.count(), usize::from(BULK));
    let others = |key: &&Vec<u8>| !key.starts_with(b"own/") && !key.starts_with(b"bulk/");
    let others = found.keys().filter(others).count();
    let steps_taken = steps.iter().filter(|step| **step > 0).count();
    assert_eq!(others, usize::try_from(ACCOUNTS).unwrap() + steps_taken + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_export_under_load_has_the_content_of_one_moment_after_its_start() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    for number in 0..ACCOUNTS {
        let key = format!("account/{number}");
        store
            .commit(Batch::new().add(key, 1_000_000, None))
            .await
            .unwrap();
    }
    for numbers in (0..BULK).collect::<Vec<_>>().chunks(400) {
        let bulk = numbers.iter().fold(Batch::new(), |batch, number| {
            batch.put(format!("bulk/{number}"), vec![b'b'; 2000])
        });
        store.commit(bulk).await.unwrap();
    }
    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let enough = Arc::new(AtomicBool::new(false));
    let writers = (0..WRITERS).map(|writer| {
        let (store, acknowledged, enough) = (store.clone(), acknowledged.clone(), enough.clone());
        tokio::spawn(async move {
            let mut step = 0;
            while !enough.load(Ordering::Relaxed) {
                step += 1;
                store.commit(batch(writer, step)).await.unwrap();
                acknowledged[usize::try_from(writer).unwrap()].store(step, Ordering::SeqCst);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let so_far = || -> Vec<u64> {
        acknowledged
            .iter()
            .map(|step| step.load(Ordering::SeqCst))
            .collect()
    };
    while so_far().contains(&0) {
        tokio::task::yield_now().await;
    }
    let mut under_load = 0;
    for _ in 0..20 {
        let before = so_far();
        let export = store.export().unwrap();
        let found = tokio::task::spawn_blocking(|| all_of(export))
            .await
            .unwrap()
            .unwrap();
        let after = so_far();
        let steps: Vec<u64> = (0..WRITERS)
            .map(|w| number(&found, &format!("step/{w:02}")))
            .collect();
        for ((before, step), after) in before.iter().zip(&steps).zip(&after) {
            // The export may contain one batch more than was acknowledged so far.
            assert!(before <= step && *step <= after + 1, "{before} {step} {after}");
        }
        assert_is_a_moment(&found, &steps);
        under_load += usize::from(after > before);
    }
    assert!(under_load > 5, "only {under_load} exports were made under load");
    enough.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let export = store.export().unwrap();
    let found = tokio::task::spawn_blocking(|| all_of(export))
        .await
        .unwrap()
        .unwrap();
    assert_is_a_moment(&found, &so_far());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_all_writes_of_a_concurrent_large_batch_or_none() {
    // Each batch has more keys than the last round reads.
    const KEYS: u16 = 1500;
    let (_parent, dir) = dir();
    let mut opened = open_files(&dir, CACHE).unwrap();
    opened.fdatasync = Box::new(|| Ok(()));
    let store = Store::start(opened, Watchdog::default()).unwrap();
    let batch = |step: u64| {
        (0..KEYS).fold(Batch::new(), |batch, key| {
            batch.put(key.to_be_bytes(), step.to_be_bytes())
        })
    };
    store.commit(batch(0)).await.unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, enough) = (store.clone(), enough.clone());
        async move {
            for step in 1.. {
                store.commit(batch(step)).await.unwrap();
                if enough.load(Ordering::Relaxed) {
                    return step;
                }
                // The pause is long enough for an export to end, and short enough for a change during every export.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            unreachable!("steps do not run out")
        }
    });
    for _ in 0..100 {
        let export = store.export().unwrap();
        let found = tokio::task::spawn_blocking(|| all_of(export)).await.unwrap();
        let found = found.unwrap();
        assert_eq!(found.len(), usize::from(KEYS));
        let first = found.values().next().unwrap();
        assert!(found.values().all(|value| value == first));
    }
    enough.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 10);
}

#[tokio::test]
async fn a_change_of_an_entry_that_the_scan_has_passed_is_exported() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    for key in 0..32u8 {
        store
            .commit(Batch::new().put([key], vec![key; 64 * 1024]))
            .await
            .unwrap();
    }
    let mut export = store.export().unwrap();
    let mut found = Model::new();
    let (mut export, part) = tokio::task::spawn_blocking(move || (export.next_part().unwrap(), export))
        .await
        .map(|(part, export)| (export, part.unwrap()))
        .unwrap();
    assert!(part.len() < 8, "a part is bounded");
    apply(&mut found, part);
    let changes = Batch::new()
        .put([0], "new")
        .delete([1])
        .put([2, 0], "made")
        .delete([31]);
    store.commit(changes).await.unwrap();
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = Vec::new();
        while let Some(part) = export.next_part().unwrap() {
            rest.extend(part);
        }
        rest
    });
    let rest = rest.await.unwrap();
    assert!(rest.contains(&Change::Delete(vec![1])));
    apply(&mut found, rest);
    let expected: Model = store
        .scan(b"", None, 100)
        .unwrap()
        .into_iter()
        .map(|Entry { key, value }| (key, value))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 31);
}

#[tokio::test]
async fn many_changed_keys_are_read_again_before_the_scan_goes_on() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store
        .commit(Batch::new().put("a", "1").put("b", "2"))
        .await
        .unwrap();
    let mut export = store.export().unwrap();
    for number in 0..60u8 {
        let key = [vec![b'x', number], vec![0; 90_000]].concat();
        store.commit(Batch::new().put(key, "v")).await.unwrap();
    }
    let (first, found) = tokio::task::spawn_blocking(move || {
        let first = export.next_part().unwrap().unwrap();
        let mut found = Model::new();
        apply(&mut found, first.clone());
        apply(&mut found, all_of(export).unwrap().into_iter().map(put).collect());
        (first, found)
    })
    .await
    .unwrap();
    let of_the_scan = |change: &Change| matches!(change, Change::Put(entry) if entry.key == b"a");
    assert!(!first.iter().any(of_the_scan));
    assert_eq!(found.len(), 62);
}

fn put((key, value): (Vec<u8>, Vec<u8>)) -> Change {
    Change::Put(Entry { key, value })
}

#[tokio::test]
async fn changes_above_the_limits_of_the_last_round_are_exported_in_further_rounds() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store.commit(Batch::new().put("z", "1")).await.unwrap();
    let mut export = store.export().unwrap();
    let (export, first) = tokio::task::spawn_blocking(move || {
        let first = export.next_part().unwrap();
        (export, first.unwrap())
    })
    .await
    .unwrap();
    assert_eq!(first.len(), 1);
    // The changes have few keys, and more bytes than the last round reads.
    for number in 0..30u8 {
        let large = Batch::new().put([number], vec![number; 90_000]);
        store.commit(large).await.unwrap();
    }
    let rest = tokio::task::spawn_blocking(|| all_of(export)).await.unwrap();
    assert_eq!(rest.unwrap().len(), 30);
}

#[tokio::test]
async fn only_one_export_runs_at_a_time_and_a_dropped_one_has_ended() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let first = store.export().unwrap();
    assert!(matches!(store.export().err(), Some(ExportError::AlreadyRunning)));
    drop(first);
    let export = store.export().unwrap();
    let found = tokio::task::spawn_blocking(|| all_of(export)).await.unwrap();
    assert_eq!(found.unwrap(), Model::new());
    assert!(store.export().is_ok());
}

#[tokio::test]
async fn an_export_that_is_read_too_slowly_fails_and_takes_no_more_memory() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let mut export = store.export().unwrap();
    // A delete of a missing key counts as a change, and takes no disk space.
    for batch in 0..80u8 {
        let keys = (0..10u8).map(|number| [vec![batch, number], vec![0; 90_000]].concat());
        store
            .commit(keys.fold(Batch::new(), Batch::delete))
            .await
            .unwrap();
    }
    let given_up = tokio::task::spawn_blocking(move || export.next_part())
        .await
        .unwrap();
    assert!(matches!(given_up, Err(ExportError::Outpaced)), "{given_up:?}");
    store.commit(Batch::new().put("a", "1")).await.unwrap();
    let export = store.export().unwrap();
    let found = tokio::task::spawn_blocking(|| all_of(export)).await.unwrap();
    assert_eq!(found.unwrap().len(), 1);
}

#[tokio::test]
async fn an_export_of_a_closed_store_fails() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    let export = store.export().unwrap();
    store.clone().close().await.unwrap();
    let ended = tokio::task::spawn_blocking(|| all_of(export)).await.unwrap();
    assert!(
        matches!(ended, Err(ExportError::Stopped(CommitError::Closed))),
        "{ended:?}"
    );
}

#[tokio::test]
async fn while_an_exclusive_writer_has_the_store_only_its_batches_are_applied() {
    let (_parent, dir) = dir();
    let store = open(&dir);
    store.commit(Batch::new().put("a", "1")).await.unwrap();
    let export = store.export().unwrap();
    let hold = Batch::new()
        .expect_absent(EXCLUSIVE_WRITER)
        .put(EXCLUSIVE_WRITER, "mine");
    store.commit(hold).await.unwrap();
    let ended = tokio::task::spawn_blocking(|| all_of(export)).await.unwrap();
    assert!(matches!(ended, Err(ExportError::ExclusiveWriter)), "{ended:?}");
    assert!(matches!(store.export().err(), Some(ExportError::ExclusiveWriter)));
    store.close().await.unwrap();

    // The entry of the exclusive writer survives a crash.
    let store = open(&dir);
    let other = store.commit(Batch::new().put("a", "2")).await;
    assert!(matches!(other, Err(CommitError::ExclusiveWriter)), "{other:?}");
    let wrong = store
        .commit(Batch::new().expect_value(EXCLUSIVE_WRITER, "yours").put("a", "2"))
        .await;
    assert!(matches!(wrong, Err(CommitError::Conflict)), "{wrong:?}");
    let mine = Batch::new().expect_value(EXCLUSIVE_WRITER, "mine").put("a", "3");
    store.commit(mine).await.unwrap();
    let release = Batch::new()
        .expect_value(EXCLUSIVE_WRITER, "mine")
        .delete(EXCLUSIVE_WRITER);
    store.commit(release).await.unwrap();
    store.commit(Batch::new().put("b", "4")).await.unwrap();
    let export = store.export().unwrap();
    let found = tokio::task::spawn_blocking(|| all_of(export))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.len(), 2);
}
