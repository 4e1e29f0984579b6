//! A cache of values that were read lately, so that reading them again needs no thread that may wait for a disk.
//!
//! A cached value is never older than the acknowledged one: the commit thread removes the changed keys before it
//! acknowledges a group, and a [`CacheEpoch`] keeps a value that was read before the change from being inserted after it.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Number of parts of the cache, each with a lock of its own.
const SHARDS: usize = 16;
/// Maximum number of bytes in each half of a shard: 32 MiB for the whole cache.
const HALF: usize = 1024 * 1024;
/// Approximate size of an entry without its key and value, in bytes.
const OVERHEAD: usize = 96;

pub(super) struct ReadCache {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// A part of the cache. When `young` is full it becomes `old`, and the entries of the previous `old` that were not read in
/// the meantime are dropped.
#[derive(Default)]
struct Shard {
    /// Number of removals from this shard.
    epoch: u64,
    young: HashMap<Box<[u8]>, Arc<[u8]>>,
    old: HashMap<Box<[u8]>, Arc<[u8]>>,
    bytes: usize,
}

/// State of a shard before a value is read from the store.
#[derive(Clone, Copy)]
pub(super) struct CacheEpoch(u64);

impl ReadCache {
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
        shard.insert(key, value.clone());
        Some(value)
    }

    /// Returns the epoch to pass to [`Self::insert`]. Must be called before the value is read from the store.
    pub(super) fn epoch(&self, key: &[u8]) -> CacheEpoch {
        CacheEpoch(self.shard(key).epoch)
    }

    /// Inserts a value that was read from the store, unless the value may have changed since `epoch`.
    pub(super) fn insert(&self, key: &[u8], value: Arc<[u8]>, epoch: CacheEpoch) {
        let mut shard = self.shard(key);
        if shard.epoch == epoch.0 {
            shard.insert(key.into(), value);
        }
    }

    /// Removes a key whose value changed in the store.
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
    fn insert(&mut self, key: Box<[u8]>, value: Arc<[u8]>) {
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
    fn a_value_that_may_have_changed_since_it_was_read_is_not_inserted() {
        let cache = ReadCache::new();
        let before = cache.epoch(b"k");
        cache.insert(b"k", value("1"), before);
        assert_eq!(cache.get(b"k"), Some(value("1")));
        cache.forget(b"k");
        assert_eq!(cache.get(b"k"), None);
        cache.insert(b"k", value("1"), before);
        assert_eq!(cache.get(b"k"), None);
        cache.insert(b"k", value("2"), cache.epoch(b"k"));
        assert_eq!(cache.get(b"k"), Some(value("2")));
    }

    #[test]
    fn the_cache_stays_bounded_and_keeps_keys_that_are_read() {
        let cache = ReadCache::new();
        let insert = |key: &[u8]| cache.insert(key, vec![0; 1000].into(), cache.epoch(key));
        insert(b"read often");
        for number in 0..100_000_u32 {
            insert(&number.to_be_bytes());
            assert!(cache.get(b"read often").is_some(), "{number}");
        }
        let cached: usize = cache
            .shards
            .iter()
            .map(|shard| {
                let shard = shard.lock().unwrap();
                (shard.young.len() + shard.old.len()) * 1100
            })
            .sum();
        assert!(cached <= 2 * SHARDS * HALF, "{cached}");
        assert!(cached > SHARDS * HALF / 2, "{cached}");
    }

    #[test]
    fn a_forgotten_key_is_removed_from_both_halves() {
        let cache = ReadCache::new();
        cache.insert(b"k", value("1"), cache.epoch(b"k"));
        let age = |shard: &mut Shard| shard.old = std::mem::take(&mut shard.young);
        age(&mut cache.shard(b"k"));
        cache.forget(b"k");
        assert_eq!(cache.get(b"k"), None);
    }
}
