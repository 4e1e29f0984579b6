//! The vault without its transport: workspaces, secrets and their keys, over a store of bytes.
//!
//! [`Vault::split`] divides an opened vault into a [`Writer`], which has no method that returns a value, and a [`Reader`],
//! whose only method decrypts for the holder of a [`DecryptPermit`](crate::authz::DecryptPermit).
//!
//! - `stored` describes the layout of the store, and `access` reads it from async code.
//! - `workspaces` and `secrets` are the operations of administrators. `secrets` has the write path of puts and restores.
//! - `reader` decrypts. `worker_pool` has the threads for reads and writes that may wait for the disk.
//! - `keyring` has the keys in memory, `key_file` those on disk. `root_key` unlocks the vault and replaces the root key.
//! - `key_maintenance` is the background loop that continues each `rotation` and erases deleted data (`deletions`, `erasure`).
//! - `backup` makes and restores backups. `integrity_check` verifies and repairs a damaged store.

mod access;
mod backup;
mod clock;
mod deletions;
mod erasure;
mod error;
mod integrity_check;
mod key_file;
mod key_maintenance;
mod key_metrics;
mod key_status;
mod keyring;
mod labels;
mod limits;
mod meta;
mod open;
mod reader;
mod root_key;
mod rotation;
mod secrets;
mod store_keys;
mod stored;
#[cfg(test)]
mod tests;
mod use_counts;
mod worker_pool;
mod workspace;
mod workspaces;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Notify},
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

pub use crate::crypto::{backup::BackupError, record::Expiry};
pub use backup::{Archive, Backup, BackupUpload, RestoreSummary};
pub use error::{OpenError, UnlockError, VaultError};
pub use integrity_check::{
    Damage, DamageKind, DoubtfulSecrets, IntegrityCheck, IntegrityCheckError, IntegrityReport, RepairOutcome,
};
pub(crate) use key_metrics::{KeyMetrics, PendingErasure};
pub(crate) use key_status::{KeyStatus, RootKeyStatus, RotationStatus, WorkspaceKey};
pub use labels::{Labels, LabelsError};
pub use limits::{MAX_ANSWER, MAX_NAMES};
pub(crate) use open::compact;
pub use reader::{DecryptOutcome, DecryptQuery, Reader};
pub use secrets::{MAX_ORIGINS, NewSecret, RequestId, RequestIdError, SecretMetadata, WrittenVersion};
pub(crate) use secrets::{RestoreOverrides, RestoredExpiry, VersionRestore};
pub use use_counts::LastUse;
pub use workspace::{KeptVersions, KeptVersionsError, Plan, WorkspaceSettings};
pub(crate) use workspaces::SettingsChange;
pub use workspaces::Workspace;

use crate::{
    root::Providers,
    store::{self, DiskUsage, Health, Store},
};
use access::with_store;
use clock::Clock;
use keyring::Keyring;
use limits::ATTEMPTS;
use use_counts::UseCounters;
use worker_pool::WorkerPool;

/// Interval between writes of the use counters to the store.
const USE_FLUSH_INTERVAL: Duration = Duration::from_secs(60);
/// Number of these intervals between sweeps of old requests.
const INTERVALS_PER_SWEEP: u32 = 60;
/// Number of locks that the writes of all secrets share, each secret by its hash.
const SECRET_LOCKS: usize = 1024;

/// An opened store, and the providers of its root key.
pub struct Vault {
    store: Store,
    keyring: Arc<Keyring>,
    providers: Arc<Providers>,
    clock: Clock,
}

/// Changes workspaces and secrets, and lists names and metadata. Never returns a value.
#[derive(Clone)]
pub struct Writer {
    store: Store,
    keyring: Arc<Keyring>,
    providers: Arc<Providers>,
    clock: Clock,
    use_counters: Arc<UseCounters>,
    secret_locks: Arc<[Mutex<()>]>,
    /// Wakes the task of [`Writer::maintain_keys`].
    keys_changed: Arc<Notify>,
    /// Held for the whole of a backup or restore, so that only one runs at a time.
    backup_lock: Arc<Mutex<()>>,
    /// The threads that prepare puts and restores.
    workers: Arc<WorkerPool>,
}

impl Vault {
    /// Returns the half that changes the vault, and the half that decrypts.
    pub fn split(self) -> (Writer, Reader) {
        let Self {
            store,
            keyring,
            providers,
            clock,
        } = self;
        let secret_locks = (0..SECRET_LOCKS).map(|_| Mutex::new(())).collect();
        let use_counters = Arc::new(UseCounters::new());
        let reader = Reader::new(
            store.clone(),
            keyring.clone(),
            clock.clone(),
            use_counters.clone(),
        );
        let writer = Writer {
            store,
            keyring,
            providers,
            clock,
            use_counters,
            secret_locks,
            keys_changed: Arc::default(),
            backup_lock: Arc::default(),
            workers: Arc::new(WorkerPool::start("put")),
        };
        (writer, reader)
    }
}

impl Writer {
    /// Spawns a task that removes the entries of deleted workspaces.
    pub(crate) fn spawn_sweep(&self) {
        let writer = self.clone();
        tokio::spawn(async move {
            if let Err(error) = writer.sweep_all().await {
                tracing::warn!(
                    %error,
                    "the data of deleted workspaces could not be removed; the vault tries it again at its next start"
                );
            }
        });
    }

    pub(crate) fn health(&self) -> Health {
        self.store.health()
    }

    /// Returns the size of the store's files and the free space of their disk.
    pub(crate) async fn disk_usage(&self) -> Result<DiskUsage, store::StoreOpenError> {
        with_store(&self.store, Store::disk_usage).await
    }

    async fn flush_uses(&self) -> Result<(), VaultError> {
        self.use_counters.flush(&self.store).await
    }

    /// Writes the use counters, makes everything durable, and closes the store.
    pub async fn close(self) -> Result<(), store::CommitError> {
        if let Err(error) = self.flush_uses().await {
            tracing::warn!(%error, "the last uses of secrets could not be written to the store");
        }
        self.store.close().await
    }

    /// Writes the use counters and sweeps old requests at intervals, until `stop` is cancelled.
    pub(crate) async fn run_maintenance(self, stop: CancellationToken) {
        let mut ticks = time::interval(USE_FLUSH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in (0..INTERVALS_PER_SWEEP).cycle() {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.flush_uses().await {
                tracing::warn!(%error, "the uses of secrets could not be written to the store; the vault tries it again");
            }
            if tick == 0
                && let Err(error) = self.sweep_requests().await
            {
                tracing::warn!(%error, "expired request ids could not be removed; the vault tries it again");
            }
        }
    }

    /// Runs `attempt` until no other write comes between its reads and its commit, at most [`ATTEMPTS`] times.
    async fn retry_on_conflict<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, VaultError>
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
