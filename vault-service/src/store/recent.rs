//! What was read lately, kept as it is in the store: so that reading it again needs no thread that may wait for a disk.
//!
//! Never older than what was acknowledged: the commit thread drops what it changed before it says so, and what was read
//! from the store before that cannot come in after it (`epoch`).

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Parts that are locked by themselves.
const SHARDS: usize = 16;
/// Bytes of keys and values that a part keeps at most, twice: 32 MiB in all.
const HALF: usize = 1024 * 1024;
/// What an entry takes beside its bytes, roughly.
const OVERHEAD: usize = 96;

pub(super) struct Recent {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// When `young` is full it becomes `old`, and what was old and not asked for meanwhile is dropped.
#[derive(Default)]
struct Shard {
    epoch: u64,
    young: HashMap<Box<[u8]>, Arc<[u8]>>,
    old: HashMap<Box<[u8]>, Arc<[u8]>>,
    bytes: usize,
}

/// A moment, before the store is read.
#[derive(Clone, Copy)]
pub(super) struct Epoch(u64);

impl Recent {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        let mut shard = self.shard(key);
        if let Some(value) = shard.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = shard.old.remove_entry(key)?;
        shard.keep(key, value.clone());
        Some(value)
    }

    /// To be taken before the store is read, for what is then kept.
    pub(super) fn epoch(&self, key: &[u8]) -> Epoch {
        Epoch(self.shard(key).epoch)
    }

    /// Keeps what was read, unless it may have been changed since `epoch`.
    pub(super) fn keep(&self, key: &[u8], value: Arc<[u8]>, epoch: Epoch) {
        let mut shard = self.shard(key);
        if shard.epoch == epoch.0 {
            shard.keep(key.into(), value);
        }
    }

    /// After the store was changed there.
    pub(super) fn forget(&self, key: &[u8]) {
        let mut shard = self.shard(key);
        shard.epoch += 1;
        shard.young.remove(key);
        shard.old.remove(key);
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        #[expect(clippy::indexing_slicing, reason = "a remainder of SHARDS is below it")]
        let shard = &self.shards[hash];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn keep(&mut self, key: Box<[u8]>, value: Arc<[u8]>) {
        let size = key.len() + value.len() + OVERHEAD;
        if self.bytes + size > HALF {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += size;
        self.young.insert(key, value);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn value(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn what_may_have_changed_since_it_was_read_is_not_kept() {
        let recent = Recent::new();
        let before = recent.epoch(b"k");
        recent.keep(b"k", value("1"), before);
        assert_eq!(recent.get(b"k"), Some(value("1")));
        recent.forget(b"k");
        assert_eq!(recent.get(b"k"), None);
        recent.keep(b"k", value("1"), before);
        assert_eq!(recent.get(b"k"), None);
        recent.keep(b"k", value("2"), recent.epoch(b"k"));
        assert_eq!(recent.get(b"k"), Some(value("2")));
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_asked_for() {
        let recent = Recent::new();
        let keep = |key: &[u8]| recent.keep(key, vec![0; 1000].into(), recent.epoch(key));
        keep(b"asked for");
        for number in 0..100_000_u32 {
            keep(&number.to_be_bytes());
            assert!(recent.get(b"asked for").is_some(), "{number}");
        }
        let kept: usize = recent
            .shards
            .iter()
            .map(|shard| {
                let shard = shard.lock().unwrap();
                (shard.young.len() + shard.old.len()) * 1100
            })
            .sum();
        assert!(kept <= 2 * SHARDS * HALF, "{kept}");
        assert!(kept > SHARDS * HALF / 2, "{kept}");
    }

    #[test]
    fn what_is_forgotten_is_gone_from_both_halves() {
        let recent = Recent::new();
        recent.keep(b"k", value("1"), recent.epoch(b"k"));
        let shard = |shard: &mut Shard| shard.old = std::mem::take(&mut shard.young);
        shard(&mut recent.shard(b"k"));
        recent.forget(b"k");
        assert_eq!(recent.get(b"k"), None);
    }
}
