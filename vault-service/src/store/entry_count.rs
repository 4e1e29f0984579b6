//! Counting of a store's entries, which reads every page of the store.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{Fault, checkpoint::CHECKPOINT_KEY, engine::caught};

/// Maximum number of threads. Reading all entries takes most of the time of an open, so several threads share the work.
const MAX_THREADS: usize = 4;

/// Counts the entries without the checkpoint, and stops soon after `limit`.
pub(super) fn count_entries(db: &sled::Db, limit: u64) -> Result<u64, Fault> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let has_empty_key = caught(|| db.contains_key([]))?;
    // The threads divide the other keys by their first bytes.
    let (first_bytes, count) = (Mutex::new(0..=u8::MAX), AtomicU64::new(has_empty_key.into()));
    let next = || first_bytes.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(byte) = next()
            && count.load(Ordering::Relaxed) < limit
        {
            count_from(db, byte, &count, limit)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(MAX_THREADS)).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = others
            .into_iter()
            .map(|other| other.join().unwrap_or(Err(Fault::Panicked)));
        others.fold(own, Result::and)
    })?;
    Ok(count.into_inner())
}

/// Adds the entries whose keys begin with `byte` to `count`.
fn count_from(db: &sled::Db, byte: u8, count: &AtomicU64, limit: u64) -> Result<(), Fault> {
    caught(|| {
        // After a damaged page sled's iterator repeats its error for ever. The loop ends at the first error.
        for entry in db.scan_prefix([byte]) {
            if entry?.0 != CHECKPOINT_KEY && count.fetch_add(1, Ordering::Relaxed) + 1 >= limit {
                break;
            }
        }
        Ok::<_, sled::Error>(())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::store::{Batch, Store};

    #[tokio::test]
    async fn entries_are_counted_whatever_the_first_bytes_of_their_keys() {
        let parent = tempfile::tempdir().unwrap();
        let store = Store::open(&parent.path().join("store"), 8 << 20).unwrap();
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
        let db = store.shared.data.db();
        let all = u64::try_from(keys.len()).unwrap();
        assert_eq!(count_entries(db, u64::MAX).unwrap(), all);
        let limited = count_entries(db, 3).unwrap();
        assert!((3..=all).contains(&limited), "{limited}");
    }
}
