//! Use counts of secrets: the time and the server of the last decrypt, and the number of decrypts.
//!
//! A decrypt only changes a counter in memory. A background task writes the counters to the store at intervals, so a crash
//! loses the latest counts. Nothing else depends on them.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher as _, RandomState},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use prost_types::Timestamp;
use proto::{SecretName, Uid};
use tokio::sync::{RwLock, RwLockReadGuard};

use super::{
    VaultError,
    access::with_store,
    stored::{self, Kind, UseRecord},
};
use crate::store::{Batch, Store};

/// Number of maps that the counters are spread over, each with its own lock.
const SHARDS: usize = 16;
/// Maximum number of counters in a shard, of some 150 bytes each. The decrypts of further secrets are not counted until the
/// next flush.
const MAX_COUNTERS: usize = 4096;
const BATCH: usize = 256;

#[derive(Debug, Clone, PartialEq)]
pub struct LastUse {
    pub time: Timestamp,
    /// Server of the last decrypt, as the injector named it.
    pub server: String,
    pub count: u64,
}

/// A secret, as `uid(16) secret name`, and its counter.
type SecretCounter = (Box<[u8]>, UseCounter);

/// The counters of all decrypts since the last flush.
pub(super) struct UseCounters {
    hasher: RandomState,
    shards: [Mutex<HashMap<Box<[u8]>, UseCounter>>; SHARDS],
    uncounted: AtomicU64,
    /// Write-locked while a flush moves counters to the store. Otherwise a reader could miss counts that are in neither place,
    /// and a deletion could come between the flush's check that a secret exists and its commit.
    flush_lock: RwLock<()>,
}

#[derive(Clone)]
struct UseCounter {
    time: SystemTime,
    server: String,
    count: u64,
}

impl UseCounters {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            uncounted: AtomicU64::new(0),
            flush_lock: RwLock::default(),
        }
    }

    /// Counts a decrypt. Takes one lock for a short time, and allocates only for the first decrypt since the last flush.
    pub(super) fn count(&self, secret: &[u8], server: &str, time: SystemTime) {
        let mut shard = self.shard(secret);
        if let Some(counter) = shard.get_mut(secret) {
            counter.count += 1;
            counter.time = time;
            if counter.server != server {
                counter.server.clear();
                counter.server.push_str(server);
            }
        } else if shard.len() < MAX_COUNTERS {
            let server = server.to_owned();
            shard.insert(
                secret.into(),
                UseCounter {
                    time,
                    server,
                    count: 1,
                },
            );
        } else {
            self.uncounted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns a guard during whose lifetime no flush moves counters to the store.
    pub(super) async fn pause_flush(&self) -> RwLockReadGuard<'_, ()> {
        self.flush_lock.read().await
    }

    /// Returns the uses of a secret from the store and from memory. The caller must hold [`Self::pause_flush`].
    pub(super) fn last_use(
        &self,
        store: &Store,
        workspace: &Uid,
        name: &SecretName,
    ) -> Result<Option<LastUse>, VaultError> {
        let secret = stored::secret(workspace, name);
        let stored = read(store, &secret)?;
        Ok(match self.shard(&secret).get(secret.as_slice()) {
            Some(counter) => Some(LastUse::new(stored, counter)),
            None => stored.map(LastUse::stored),
        })
    }

    pub(super) fn forget(&self, workspace: &Uid, name: &SecretName) {
        let secret = stored::secret(workspace, name);
        self.shard(&secret).remove(secret.as_slice());
    }

    /// Writes all counters to the store.
    pub(super) async fn flush(&self, store: &Store) -> Result<(), VaultError> {
        let uncounted = self.uncounted.swap(0, Ordering::Relaxed);
        if uncounted > 0 {
            tracing::warn!(
                uncounted,
                "some uses of secrets were not counted, because too many secrets were used since the last write"
            );
        }
        for shard in &self.shards {
            let _flushing = self.flush_lock.write().await;
            let counters: Vec<SecretCounter> = mem::take(&mut *lock(shard)).into_iter().collect();
            self.write(store, counters).await?;
        }
        Ok(())
    }

    async fn write(&self, store: &Store, counters: Vec<SecretCounter>) -> Result<(), VaultError> {
        let counters = Arc::new(counters);
        for from in (0..counters.len()).step_by(BATCH) {
            let all = counters.clone();
            let prepare = move |store: &Store| {
                let rest = all.get(from..).unwrap_or_default();
                flush_batch(store, rest.get(..BATCH).unwrap_or(rest))
            };
            let written = match with_store(store, prepare).await {
                Ok(batch) => store.commit(batch).await.map_err(VaultError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                self.put_back(counters.get(from..).unwrap_or_default());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts counters back that could not be written.
    fn put_back(&self, counters: &[SecretCounter]) {
        for (key, lost) in counters {
            match self.shard(key).entry(key.clone()) {
                Entry::Occupied(counter) => counter.into_mut().count += lost.count,
                Entry::Vacant(free) => drop(free.insert(lost.clone())),
            }
        }
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, HashMap<Box<[u8]>, UseCounter>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        #[expect(clippy::indexing_slicing, reason = "a remainder of SHARDS is below SHARDS")]
        lock(&self.shards[hash])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LastUse {
    fn new(stored: Option<UseRecord>, counter: &UseCounter) -> Self {
        Self {
            time: counter.time.into(),
            server: counter.server.clone(),
            count: stored
                .map_or(0, |stored| stored.count)
                .saturating_add(counter.count),
        }
    }

    fn stored(stored: UseRecord) -> Self {
        let UseRecord {
            last_time,
            last_server,
            count,
        } = stored;
        Self {
            time: last_time,
            server: last_server,
            count,
        }
    }

    fn encode(self) -> Vec<u8> {
        let Self { time, server, count } = self;
        stored::encode(&UseRecord {
            last_time: time,
            last_server: server,
            count,
        })
    }
}

/// Reads the stored uses of a secret. A damaged entry counts as none, because nothing depends on it.
fn read(store: &Store, secret: &[u8]) -> Result<Option<UseRecord>, VaultError> {
    let bytes = store.read(&Kind::Use.under(secret))?;
    Ok(bytes.and_then(|bytes| stored::decode(&bytes).ok()))
}

/// Builds the batch that adds counters to the stored uses. Counters of deleted secrets are left out.
fn flush_batch(store: &Store, counters: &[SecretCounter]) -> Result<Batch, VaultError> {
    let mut batch = Batch::new();
    for (secret, counter) in counters {
        if store.read(&Kind::Metadata.under(secret))?.is_some() {
            let sum = LastUse::new(read(store, secret)?, counter);
            batch = batch.put(Kind::Use.under(secret), sum.encode());
        }
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn counters(uses: &UseCounters) -> Vec<SecretCounter> {
        uses.shards.iter().flat_map(|shard| lock(shard).clone()).collect()
    }

    #[test]
    fn the_number_of_counters_is_bounded_and_uncounted_decrypts_are_reported() {
        let uses = UseCounters::new();
        for number in 0..200_000_u32 {
            uses.count(&number.to_be_bytes(), "s", at(1));
        }
        let kept = counters(&uses).len();
        assert!((60_000..=SHARDS * MAX_COUNTERS).contains(&kept), "{kept}");
        assert_eq!(uses.uncounted.load(Ordering::Relaxed), 200_000 - kept as u64);
    }

    #[test]
    fn counters_that_could_not_be_written_are_added_to_those_counted_meanwhile() {
        let uses = UseCounters::new();
        for secret in [b"a", b"b"] {
            uses.count(secret, "before", at(1));
        }
        let lost = counters(&uses);
        for shard in &uses.shards {
            lock(shard).clear();
        }
        uses.count(b"a", "after", at(2));
        uses.put_back(&lost);
        let mut all = counters(&uses);
        all.sort_by_key(|(secret, _)| secret.clone());
        let all = all.iter().map(|(_, of)| (of.count, of.server.as_str(), of.time));
        assert_eq!(
            all.collect::<Vec<_>>(),
            [(2, "after", at(2)), (1, "before", at(1))]
        );
    }
}
