//! What the vault does, without how it is called: workspaces, secrets, and their keys, over a store of bytes.
//!
//! [`Vault::split`] takes it apart into a [`Writer`], which has no method that decrypts, and a [`Reader`], whose only
//! method does, for the holder of a [`DecryptPermit`](crate::authz::DecryptPermit).

mod audit;
mod backup;
mod erasure;
mod error;
mod key_file;
mod keyring;
mod keys;
mod labels;
mod pool;
mod reader;
mod requests;
mod restore;
mod roots;
mod rotation;
mod secrets;
mod store_keys;
mod stored;
#[cfg(test)]
mod tests;
mod uses;
mod versions;
mod workspaces;

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use chassis::blocking::blocking;
use proto::Uid;
use tokio::{
    sync::{Mutex, Notify},
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

pub use crate::crypto::{backup::BackupError, record::Expiry};
pub use audit::{Audit, AuditError, Damage, Doubtful, Outcome, Report, What};
pub use backup::{Archive, Backup, Incoming, Restored};
pub use erasure::PendingErasure;
pub use error::{OpenError, UnsealError, VaultError};
pub use keys::{KeyStatus, RootKeyStatus, RotationStatus, WorkspaceKey};
pub use labels::{Labels, LabelsError};
pub use reader::{Decrypted, MAX_ANSWER, MAX_NAMES, Reader, Wanted};
pub use requests::{RequestId, RequestIdError};
pub use restore::{NewExpiry, Overrides, Restore};
pub use rotation::Progress;
pub use secrets::{MAX_ORIGINS, NewSecret, Put, SecretMetadata};
pub use uses::LastUse;
pub use workspaces::{Changes, KeptVersions, KeptVersionsError, Plan, Settings, Workspace};

use crate::{
    root::Providers,
    store::{
        self, Batch, CompactError, CompactionReport, DiskUsage, EXCLUSIVE_WRITER, Health, ReadEntries, Store,
        UnopenedStore,
    },
};
use key_file::KeyFile;
use keyring::Keyring;
use pool::Pool;
use stored::Meta;
use uses::Uses;

/// The version of the layout of keys and values in the store.
const FORMAT: u32 = 3;
/// Entries that decide whether a vault may take over a store.
const PREVIEW_KEYS: &[&[u8]] = &[stored::META, EXCLUSIVE_WRITER];
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

/// An opened store, and the root key that it needs or what will give it.
pub struct Vault {
    store: Store,
    keyring: Arc<Keyring>,
    providers: Arc<Providers>,
    clock: Clock,
}

/// Changes workspaces and secrets, and shows names and metadata. Cannot decrypt.
#[derive(Clone)]
pub struct Writer {
    store: Store,
    keyring: Arc<Keyring>,
    providers: Arc<Providers>,
    clock: Clock,
    uses: Arc<Uses>,
    stripes: Arc<[Mutex<()>]>,
    /// Wakes who moves things to other keys.
    rotate: Arc<Notify>,
    /// Taken by who makes or restores a backup.
    backups: Arc<Mutex<()>>,
    /// Where puts are prepared.
    pool: Arc<Pool>,
}

impl Vault {
    /// Takes over a store. An empty one is initialised; any other must need no other root key than those that can be had.
    /// A store that is refused is closed again.
    ///
    /// It is sealed when a provider has to be asked that may not answer: see [`Writer::unseal`].
    pub async fn open(store: Store, providers: impl Into<Providers>) -> Result<Self, OpenError> {
        Self::over(store, Arc::new(providers.into())).await
    }

    /// The same of the store in `dir`, which is opened, or made, only if it will not be refused: a store that is refused keeps
    /// every byte.
    pub async fn open_in(
        dir: PathBuf,
        cache_bytes: u64,
        providers: impl Into<Providers>,
    ) -> Result<Self, OpenError> {
        let providers = Arc::new(providers.into());
        let store = blocking(move || Store::inspect(&dir, cache_bytes, PREVIEW_KEYS)).await?;
        let store = admit(store, &providers).await?;
        let store = blocking(move || store.open()).await?;
        Self::over(store, providers).await
    }

    async fn over(store: Store, providers: Arc<Providers>) -> Result<Self, OpenError> {
        let vault = Self {
            store,
            keyring: Arc::new(Keyring::sealed()),
            providers,
            clock: Arc::new(SystemTime::now),
        };
        match vault.take_over().await {
            Ok(()) => Ok(vault),
            Err(refused) => {
                // Why it was refused is what matters; nothing was written that closing could lose.
                drop(vault.store.close().await);
                Err(refused)
            }
        }
    }

    async fn take_over(&self) -> Result<(), OpenError> {
        check(&self.store, &self.providers).await?;
        if self.providers.is_local() {
            roots::unseal(&self.store, &self.keyring, &self.providers).await?;
        }
        Ok(())
    }

    /// The half that changes, and the half that decrypts.
    pub fn split(self) -> (Writer, Reader) {
        let Self {
            store,
            keyring,
            providers,
            clock,
        } = self;
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        let uses = Arc::new(Uses::new());
        let reader = Reader::new(store.clone(), keyring.clone(), clock.clone(), uses.clone());
        (
            Writer {
                store,
                keyring,
                providers,
                clock,
                uses,
                stripes,
                rotate: Arc::default(),
                backups: Arc::default(),
                pool: Arc::new(Pool::start("put")),
            },
            reader,
        )
    }
}

/// Copies the store in `dir`, which no vault may have open, into a fresh one, which takes its place.
pub async fn compact(dir: &Path, cache_bytes: u64) -> Result<CompactionReport, CompactError> {
    store::compact(dir, cache_bytes, PREVIEW_KEYS).await
}

/// Initialises an empty store. Refuses any other store unless it holds a vault of this format whose root key
/// `providers` have.
async fn check(store: &Store, providers: &Arc<Providers>) -> Result<(), OpenError> {
    loop {
        let (reading, providers) = (store.clone(), providers.clone());
        match blocking(move || found(&reading, &providers)).await? {
            State::Empty => return initialise(store).await,
            State::Current(_) => return Ok(()),
            State::Held(_) => backup::recover(store).await.map_err(OpenError::Recover)?,
        }
    }
}

/// Refuses a store that this vault may not take over, before anything in it is changed.
async fn admit(store: UnopenedStore, providers: &Arc<Providers>) -> Result<UnopenedStore, OpenError> {
    let reading = providers.clone();
    let (store, keys) = blocking(move || match found(&store, &reading) {
        Ok(State::Empty) => Ok((store, None)),
        Ok(State::Current(keys) | State::Held(keys)) => Ok((store, keys)),
        // A full disk must not prevent the start of a store that was closed; such a store is checked after it is
        // opened.
        Err(OpenError::Store(store::OpenError::NoRoom { .. })) => Ok((store, None)),
        Err(refused) => Err(refused),
    })
    .await?;
    if let Some(keys) = keys.filter(|_| providers.is_local()) {
        roots::open(&keys, providers).await?;
    }
    Ok(store)
}

fn found<S>(store: &S, providers: &Providers) -> Result<State, OpenError>
where
    S: ReadEntries<Error: Into<OpenError>>,
{
    let Some(bytes) = store.read(stored::META).map_err(Into::into)? else {
        let empty = store.scan(&[], None, 1).map_err(Into::into)?.is_empty();
        return if empty {
            Ok(State::Empty)
        } else {
            Err(OpenError::NotOurs)
        };
    };
    let meta = stored::decode::<Meta>(&bytes)?;
    if meta.format != FORMAT {
        return Err(OpenError::Format {
            found: meta.format,
            supported: FORMAT,
        });
    }
    let keys = roots::check(store, &meta, providers)?;
    Ok(match store.read(EXCLUSIVE_WRITER).map_err(Into::into)? {
        Some(_) => State::Held(keys),
        None => State::Current(keys),
    })
}

/// What is in a store that may be taken over.
enum State {
    Empty,
    /// A vault, with the keys that it has.
    Current(Option<KeyFile>),
    /// A vault that was stopped while a backup was restored.
    Held(Option<KeyFile>),
}

/// Writes the description of a new vault without keys. The first root key that becomes available will wrap its store
/// key.
async fn initialise(store: &Store) -> Result<(), OpenError> {
    let batch = Batch::new()
        .expect_absent(stored::META)
        .put(stored::META, stored::encode(&initial()));
    Ok(store.commit(batch).await?)
}

/// What a new vault says of itself.
fn initial() -> Meta {
    Meta {
        format: FORMAT,
        vault_uid: Uid::generate().as_bytes().to_vec(),
        ..Meta::default()
    }
}

impl Writer {
    /// Goes on with what a stop interrupted, beside serving.
    pub fn sweep_beside(&self) {
        let writer = self.clone();
        tokio::spawn(async move {
            if let Err(error) = writer.sweep_all().await {
                tracing::warn!(%error, "deleted workspaces were not swept; the next start goes on with them");
            }
        });
    }

    /// Whether writes are acknowledged.
    pub fn health(&self) -> Health {
        self.store.health()
    }

    /// Returns the size of the store's files and the free space of their disk.
    pub async fn disk_usage(&self) -> Result<DiskUsage, crate::store::OpenError> {
        let store = self.store.clone();
        blocking(move || store.disk_usage()).await
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
