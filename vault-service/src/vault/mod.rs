//! What the vault does, without how it is called: workspaces, secrets, and their keys, over a store of bytes.
//!
//! [`Vault::split`] takes it apart into a [`Writer`], which has no method that decrypts, and a [`Reader`], whose only
//! method does, for the holder of a [`DecryptPermit`](crate::authz::DecryptPermit).

mod error;
mod keyring;
mod labels;
mod reader;
mod requests;
mod secrets;
mod stored;
#[cfg(test)]
mod tests;
mod uses;
mod versions;
mod workspaces;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use proto::Uid;
use tokio::{
    sync::Mutex,
    task,
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

pub use crate::crypto::record::Expiry;
pub use error::{OpenError, VaultError};
pub use labels::{Labels, LabelsError};
pub use reader::{Decrypted, MAX_ANSWER, MAX_NAMES, Reader, Wanted};
pub use requests::{RequestId, RequestIdError};
pub use secrets::{MAX_ORIGINS, NewSecret, Put, SecretMetadata};
pub use uses::LastUse;
pub use versions::{NewExpiry, Restore};
pub use workspaces::{Changes, KeptVersions, KeptVersionsError, Plan, Settings, Workspace};

use crate::{
    crypto::RootKey,
    store::{Batch, Store},
};
use keyring::Keyring;
use stored::Meta;
use uses::Uses;

/// The version of the layout of keys and values in the store.
const FORMAT: u32 = 2;
/// The oldest that is migrated. It differs in what is not there yet, so all there is to do is to say that it may be.
const OLDEST_FORMAT: u32 = 1;
/// How often what was counted of uses is written.
const FLUSH: Duration = Duration::from_secs(60);
/// How many flushes later requests are swept.
const FLUSHES_TO_SWEEP: u32 = 60;
/// Locks over which writes of one secret queue up, instead of failing each other's compare-and-set.
const STRIPES: usize = 1024;
/// How often a write is tried again when another one came between its reading and its commit.
const ATTEMPTS: usize = 16;

/// What time it is. A value, so that tests can set it.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// An opened store and the root key that it was made with.
pub struct Vault {
    store: Store,
    keyring: Arc<Keyring>,
    clock: Clock,
}

/// Changes workspaces and secrets, and shows names and metadata. Cannot decrypt.
#[derive(Clone)]
pub struct Writer {
    store: Store,
    keyring: Arc<Keyring>,
    clock: Clock,
    uses: Arc<Uses>,
    stripes: Arc<[Mutex<()>]>,
}

impl Vault {
    /// Takes over a store. An empty one is initialised for this root key; any other must have been made with it. A store
    /// that is refused is closed again.
    pub async fn open(store: Store, root: RootKey) -> Result<Self, OpenError> {
        match check(&store, &root).await {
            Ok(()) => Ok(Self {
                store,
                keyring: Arc::new(Keyring::new(root)),
                clock: Arc::new(SystemTime::now),
            }),
            Err(refused) => {
                // Why it was refused is what matters; nothing was written that closing could lose.
                drop(store.close().await);
                Err(refused)
            }
        }
    }

    /// The half that changes, and the half that decrypts.
    pub fn split(self) -> (Writer, Reader) {
        let Self {
            store,
            keyring,
            clock,
        } = self;
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        let uses = Arc::new(Uses::new());
        let reader = Reader::new(store.clone(), keyring.clone(), clock.clone(), uses.clone());
        (
            Writer {
                store,
                keyring,
                clock,
                uses,
                stripes,
            },
            reader,
        )
    }
}

/// The store must be empty, and then is initialised, or hold a vault of this format and root key.
async fn check(store: &Store, root: &RootKey) -> Result<(), OpenError> {
    let reading = store.clone();
    let (meta, empty) = blocking(move || {
        Ok::<_, OpenError>((
            reading.read(stored::META)?,
            reading.scan(&[], None, 1)?.is_empty(),
        ))
    })
    .await?;
    let (meta, bytes) = match (meta, empty) {
        (Some(bytes), _) => (stored::decode::<Meta>(&bytes)?, bytes),
        (None, true) => return initialise(store, root).await,
        (None, false) => return Err(OpenError::NotOurs),
    };
    if !(OLDEST_FORMAT..=FORMAT).contains(&meta.format) {
        return Err(OpenError::Format {
            found: meta.format,
            supported: FORMAT,
        });
    }
    if meta.root_key_id != root.id().as_bytes() {
        return Err(OpenError::OtherRootKey {
            given: root.id().to_string(),
            needed: hex(&meta.root_key_id),
        });
    }
    if meta.format < FORMAT {
        migrate(store, meta, bytes).await?;
    }
    Ok(())
}

/// From here on an older release refuses the store.
async fn migrate(store: &Store, meta: Meta, bytes: Vec<u8>) -> Result<(), OpenError> {
    let from = meta.format;
    let meta = Meta {
        format: FORMAT,
        ..meta
    };
    let batch = Batch::new()
        .expect_value(stored::META, bytes)
        .put(stored::META, stored::encode(&meta));
    store.commit(batch).await?;
    tracing::info!(from, to = FORMAT, "the store was migrated");
    Ok(())
}

async fn initialise(store: &Store, root: &RootKey) -> Result<(), OpenError> {
    let vault_uid = Uid::generate().as_bytes().to_vec();
    let meta = Meta {
        format: FORMAT,
        vault_uid,
        root_key_id: root.id().as_bytes().to_vec(),
    };
    let batch = Batch::new()
        .expect_absent(stored::META)
        .put(stored::META, stored::encode(&meta));
    Ok(store.commit(batch).await?)
}

impl Writer {
    /// Whether writes are still acknowledged.
    pub fn is_healthy(&self) -> bool {
        self.store.is_healthy()
    }

    /// Makes everything durable and ends the store.
    pub async fn close(self) -> Result<(), crate::store::CommitError> {
        if let Err(error) = self.flush_uses().await {
            tracing::warn!(%error, "the last uses of secrets were not written");
        }
        self.store.close().await
    }

    /// Does what is to be done once in a while, until `stop`.
    pub async fn keep_house(self, stop: CancellationToken) {
        let mut ticks = time::interval(FLUSH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in (0..FLUSHES_TO_SWEEP).cycle() {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.flush_uses().await {
                tracing::warn!(%error, "uses of secrets were not written; the next flush tries again");
            }
            if tick == 0
                && let Err(error) = self.sweep_requests().await
            {
                tracing::warn!(%error, "old requests were not swept; the next sweep tries again");
            }
        }
    }

    /// Runs `attempt` until no other write came between its reading and its commit.
    async fn retrying<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, VaultError>
    where
        F: Future<Output = Result<T, VaultError>>,
    {
        for _ in 1..ATTEMPTS {
            match attempt().await {
                Err(VaultError::Conflict) => {}
                done => return done,
            }
        }
        attempt().await
    }
}

/// Runs `work`, which reads the store, where blocking is allowed.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    match task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
