//! When, for which server and how often secrets were decrypted.
//!
//! A decrypt only touches a counter in memory. What was counted is written once in a while, so that a crash loses the
//! last of it, and nothing else depends on it.

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
    VaultError, Writer, blocking,
    stored::{self, Kind, UseRecord},
};
use crate::store::{Batch, Store};

/// Parts that are locked by themselves.
const SHARDS: usize = 16;
/// Secrets that a part counts between two flushes; some 150 bytes each. Of further ones nothing is counted.
const COUNTED: usize = 4096;
/// Entries that are written together.
const TOGETHER: usize = 256;

/// What is known of a secret's uses.
#[derive(Debug, Clone, PartialEq)]
pub struct LastUse {
    /// When its value was last given.
    pub time: Timestamp,
    /// For which server, as the injector named it.
    pub server: String,
    /// How often it was given.
    pub count: u64,
}

/// A secret, `uid(16) secret name`, and what was counted of it.
type Counted = (Box<[u8]>, Use);

/// What was counted since the last flush.
pub(super) struct Uses {
    hasher: RandomState,
    shards: [Mutex<HashMap<Box<[u8]>, Use>>; SHARDS],
    uncounted: AtomicU64,
    /// Held for writing while what was counted is on its way to the store, so that nobody sees it in neither place, or
    /// deletes a secret between the look whether it exists and the commit.
    moving: RwLock<()>,
}

#[derive(Clone)]
struct Use {
    time: SystemTime,
    server: String,
    count: u64,
}

impl Uses {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            uncounted: AtomicU64::new(0),
            moving: RwLock::default(),
        }
    }

    /// Counts a use. Takes one lock for a moment, and no memory for a secret that is counted already.
    pub(super) fn touch(&self, secret: &[u8], server: &str, time: SystemTime) {
        let mut shard = self.shard(secret);
        if let Some(known) = shard.get_mut(secret) {
            known.count += 1;
            known.time = time;
            if known.server != server {
                known.server.clear();
                known.server.push_str(server);
            }
        } else if shard.len() < COUNTED {
            let server = server.to_owned();
            shard.insert(
                secret.into(),
                Use {
                    time,
                    server,
                    count: 1,
                },
            );
        } else {
            self.uncounted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// While this is held, nothing moves from memory to the store.
    pub(super) async fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.moving.read().await
    }

    /// What is known of a secret, in the store and here; to be asked while it is [`Uses::still`].
    pub(super) fn of(
        &self,
        store: &Store,
        workspace: &Uid,
        name: &SecretName,
    ) -> Result<Option<LastUse>, VaultError> {
        let secret = stored::secret(workspace, name);
        let stored = read(store, &secret)?;
        Ok(match self.shard(&secret).get(secret.as_slice()) {
            Some(counted) => Some(LastUse::new(stored, counted)),
            None => stored.map(LastUse::stored),
        })
    }

    /// Forgets what was counted of a deleted secret.
    pub(super) fn forget(&self, workspace: &Uid, name: &SecretName) {
        let secret = stored::secret(workspace, name);
        self.shard(&secret).remove(secret.as_slice());
    }

    /// Counts again what could not be written.
    fn give_back(&self, counted: &[Counted]) {
        for (key, lost) in counted {
            match self.shard(key).entry(key.clone()) {
                Entry::Occupied(known) => known.into_mut().count += lost.count,
                Entry::Vacant(free) => drop(free.insert(lost.clone())),
            }
        }
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, HashMap<Box<[u8]>, Use>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        #[expect(clippy::indexing_slicing, reason = "a remainder of SHARDS is below it")]
        lock(&self.shards[hash])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LastUse {
    fn new(stored: Option<UseRecord>, counted: &Use) -> Self {
        Self {
            time: counted.time.into(),
            server: counted.server.clone(),
            count: stored
                .map_or(0, |stored| stored.count)
                .saturating_add(counted.count),
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

/// What is stored of a secret's uses. Nothing depends on it, so what is damaged counts as nothing.
fn read(store: &Store, secret: &[u8]) -> Result<Option<UseRecord>, VaultError> {
    let bytes = store.read(&Kind::Use.under(secret))?;
    Ok(bytes.and_then(|bytes| stored::decode(&bytes).ok()))
}

/// What was counted, added to what is stored; nothing for secrets that were deleted.
fn added(store: &Store, counted: &[Counted]) -> Result<Batch, VaultError> {
    let mut batch = Batch::new();
    for (secret, counted) in counted {
        if store.read(&Kind::Metadata.under(secret))?.is_some() {
            let sum = LastUse::new(read(store, secret)?, counted);
            batch = batch.put(Kind::Use.under(secret), sum.encode());
        }
    }
    Ok(batch)
}

impl Writer {
    /// Writes what was counted of uses since the last time.
    pub async fn flush_uses(&self) -> Result<(), VaultError> {
        let uncounted = self.uses.uncounted.swap(0, Ordering::Relaxed);
        if uncounted > 0 {
            tracing::warn!(uncounted, "more secrets were decrypted than are counted at once");
        }
        for shard in &self.uses.shards {
            let _moving = self.uses.moving.write().await;
            let counted: Vec<Counted> = mem::take(&mut *lock(shard)).into_iter().collect();
            self.write_uses(counted).await?;
        }
        Ok(())
    }

    async fn write_uses(&self, counted: Vec<Counted>) -> Result<(), VaultError> {
        let counted = Arc::new(counted);
        for from in (0..counted.len()).step_by(TOGETHER) {
            let (store, all) = (self.store.clone(), counted.clone());
            let some = move || {
                let rest = all.get(from..).unwrap_or_default();
                added(&store, rest.get(..TOGETHER).unwrap_or(rest))
            };
            let written = match blocking(some).await {
                Ok(batch) => self.store.commit(batch).await.map_err(VaultError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                self.uses.give_back(counted.get(from..).unwrap_or_default());
                return Err(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn counted(uses: &Uses) -> Vec<Counted> {
        uses.shards.iter().flat_map(|shard| lock(shard).clone()).collect()
    }

    #[test]
    fn no_more_secrets_than_fit_are_counted_and_the_others_are_told_of() {
        let uses = Uses::new();
        for number in 0..200_000_u32 {
            uses.touch(&number.to_be_bytes(), "s", at(1));
        }
        let kept = counted(&uses).len();
        assert!((60_000..=SHARDS * COUNTED).contains(&kept), "{kept}");
        assert_eq!(uses.uncounted.load(Ordering::Relaxed), 200_000 - kept as u64);
    }

    #[test]
    fn what_could_not_be_written_is_counted_with_what_came_meanwhile() {
        let uses = Uses::new();
        for secret in [b"a", b"b"] {
            uses.touch(secret, "before", at(1));
        }
        let lost = counted(&uses);
        for shard in &uses.shards {
            lock(shard).clear();
        }
        uses.touch(b"a", "after", at(2));
        uses.give_back(&lost);
        let mut all = counted(&uses);
        all.sort_by_key(|(secret, _)| secret.clone());
        let all = all.iter().map(|(_, of)| (of.count, of.server.as_str(), of.time));
        assert_eq!(
            all.collect::<Vec<_>>(),
            [(2, "after", at(2)), (1, "before", at(1))]
        );
    }
}
