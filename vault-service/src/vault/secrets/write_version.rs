//! The write path of a secret: one new version by a put or a restore.
//!
//! 1. [`Writer::write_version`] takes the secret's lock and, on a pool thread, reads the state that the write starts from
//!    ([`VersionWrite`]).
//! 2. The `prepare` function of a put or restore looks up whether the request was answered before, and decides the value and
//!    the terms of the new version.
//! 3. [`NextVersion::prepare`] builds one batch with all changes. The batch holds only if everything that was read is
//!    unchanged.
//! 4. `write_version` commits the batch, and starts again when another write came in between.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::SystemTime,
};

use prost_types::Timestamp;
use proto::{Principal, SecretName, Uid, WorkspaceName, vault::v1::ValueFacts};
use tokio::sync::MutexGuard;

use super::{
    current::{CurrentVersion, SecretEntries},
    metadata::SecretMetadata,
    numbering,
    requests::{NewRequest, RequestId, RequestLookup},
};
use crate::{
    authz::WritePermit,
    crypto::{
        WorkspaceKek,
        fingerprint::Fingerprint,
        record::{Expiry, RecordId, Terms},
    },
    store::{Batch, CommitError, Store},
    vault::{
        VaultError, Writer, deletions,
        keyring::Keyring,
        labels::Labels,
        stored::{self, Kind, StoredMetadata},
        workspace::{self, StoredWorkspace},
    },
};

/// The version that a put or restore made.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenVersion {
    pub secret: SecretMetadata,
    pub created: bool,
    /// Facts about the value, for warnings about places that it does not fit.
    pub facts: ValueFacts,
}

pub(super) enum PreparedWrite {
    /// An equal request made this version earlier, so nothing is left to do.
    Repeated(WrittenVersion),
    /// The commit of `batch` makes the version.
    New {
        written: WrittenVersion,
        batch: Batch,
        /// Maximum number of secrets by the workspace's plan.
        limit: Option<u64>,
    },
}

impl Writer {
    /// Makes the version that `prepare` describes. Runs `prepare` again when another write came between its reads and the
    /// commit.
    pub(super) async fn write_version(
        &self,
        permit: &WritePermit,
        name: &SecretName,
        prepare: impl Fn(VersionWrite<'_>) -> Result<PreparedWrite, VaultError> + Send + Sync + 'static,
    ) -> Result<WrittenVersion, VaultError> {
        let _lock = self.lock_secret(permit.workspace(), name).await;
        let inputs = Arc::new((permit.clone(), name.clone(), prepare));
        self.retry_on_conflict(async || {
            let (writer, inputs) = (self.clone(), inputs.clone());
            let job = move || {
                let (permit, name, prepare) = &*inputs;
                prepare(VersionWrite::begin(&writer, permit, name)?)
            };
            let prepared = self.workers.run(permit.principal(), job);
            let (written, batch, limit) = match prepared.await?? {
                PreparedWrite::Repeated(written) => return Ok(written),
                PreparedWrite::New {
                    written,
                    batch,
                    limit,
                } => (written, batch, limit),
            };
            match self.store.commit(batch).await {
                Ok(()) => Ok(written),
                Err(CommitError::LimitReached) => Err(VaultError::PlanLimit {
                    workspace: permit.workspace().clone(),
                    limit: limit.unwrap_or(u64::MAX),
                }),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Waits for other writes of the same secret, or of one that shares its lock. Without the lock,
    /// concurrent writes would fail each other's compare-and-set and start again. The lock also protects the last version
    /// number of a deleted secret, on which the batch of a put has no precondition.
    pub(super) async fn lock_secret(
        &self,
        workspace: &WorkspaceName,
        name: &SecretName,
    ) -> Option<MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        (workspace, name).hash(&mut hasher);
        let lock = hasher.finish() % self.secret_locks.len() as u64;
        match self.secret_locks.get(usize::try_from(lock).unwrap_or(0)) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }
}

/// The state that the preparation of one write starts from.
pub(super) struct VersionWrite<'a> {
    store: &'a Store,
    pub(super) keyring: &'a Keyring,
    pub(super) workspace: StoredWorkspace,
    /// The workspace's active KEK.
    pub(super) kek: Arc<WorkspaceKek>,
    name: &'a SecretName,
    pub(super) now: SystemTime,
    principal: &'a Principal,
}

impl<'a> VersionWrite<'a> {
    fn begin(writer: &'a Writer, permit: &'a WritePermit, name: &'a SecretName) -> Result<Self, VaultError> {
        let store = &writer.store;
        let workspace = workspace::find(store, permit.workspace())?;
        let kek = writer
            .keyring
            .open(&workspace.uid, &workspace.record.wrapped_kek)?;
        Ok(Self {
            store,
            keyring: &writer.keyring,
            workspace,
            kek,
            name,
            now: (writer.clock)(),
            principal: permit.principal(),
        })
    }

    pub(super) fn secret(&self) -> SecretEntries<'_> {
        SecretEntries::of(self.store, &self.workspace, self.name)
    }

    /// Looks up whether the request was answered before. `fingerprint` distinguishes the request from others with its id.
    pub(super) fn look_up(
        &self,
        id: Option<&RequestId>,
        fingerprint: impl FnOnce(&WorkspaceKek) -> Fingerprint,
    ) -> Result<RequestLookup, VaultError> {
        match id {
            None => Ok(RequestLookup::New(None)),
            Some(id) => {
                let fingerprint = fingerprint(&self.kek);
                RequestLookup::of(
                    self.store,
                    &self.workspace,
                    self.principal,
                    id,
                    fingerprint,
                    self.now,
                )
            }
        }
    }

    /// Returns the answer to a repeated request, whose version has this `record`.
    pub(super) fn repeated(
        &self,
        record: StoredMetadata,
        created: bool,
        facts: ValueFacts,
    ) -> Result<PreparedWrite, VaultError> {
        Ok(PreparedWrite::Repeated(WrittenVersion {
            secret: SecretMetadata::new(&self.workspace.name, self.name, record, self.now)?,
            created,
            facts,
        }))
    }

    pub(super) fn next_version(self, current: Option<CurrentVersion>) -> Result<NextVersion<'a>, VaultError> {
        let last = match &current {
            Some(current) => current.metadata.last_version(),
            None => numbering::last_version(self.secret())?,
        };
        Ok(NextVersion {
            write: self,
            current,
            version: last + 1,
        })
    }
}

/// The value of a new version, encrypted, and the public data that belong to it.
pub(super) struct NewValue<'a> {
    pub(super) encrypted: Vec<u8>,
    pub(super) terms: Terms<'a>,
    pub(super) labels: Labels,
    pub(super) facts: ValueFacts,
}

/// A new version that has its number and does not have its value yet.
pub(super) struct NextVersion<'a> {
    pub(super) write: VersionWrite<'a>,
    /// The version that is replaced; `None` for a new secret.
    current: Option<CurrentVersion>,
    version: u64,
}

impl NextVersion<'_> {
    /// Returns the place that the encrypted record is bound to.
    pub(super) fn record_id(&self) -> RecordId<'_> {
        RecordId {
            workspace_uid: &self.write.workspace.uid,
            name: self.write.name,
            version: self.version,
        }
    }

    /// Builds the batch that makes the version: it replaces the current version, which becomes an older one, counts a new
    /// secret, and remembers `request`.
    pub(super) fn prepare(
        self,
        value: NewValue<'_>,
        request: Option<NewRequest>,
    ) -> Result<PreparedWrite, VaultError> {
        let NewValue {
            encrypted,
            terms,
            labels,
            facts,
        } = value;
        let record = self.record(&terms, labels);
        let Self { write, current, .. } = self;
        let (secret, workspace, now) = (write.secret(), &write.workspace, write.now);
        let (created, limit) = (current.is_none(), workspace.plan.limit());
        let written = WrittenVersion {
            secret: SecretMetadata::new(&workspace.name, write.name, record.clone(), now)?,
            created,
            facts,
        };
        let batch = workspace.expect_unchanged(Batch::new());
        let batch = match &current {
            Some(current) if current.removes_any(record.kept_from) => {
                deletions::note(batch, write.store, workspace, now)?
            }
            Some(_) | None => batch,
        };
        let batch = match current {
            Some(current) => current.retire(batch, secret, record.kept_from),
            None => batch
                .expect_absent(secret.key(Kind::Metadata))
                .delete(secret.key(Kind::LastVersion))
                .add(stored::count(&workspace.uid), 1, limit),
        };
        let batch = batch
            .put(secret.key(Kind::Metadata), stored::encode(&record))
            .put(secret.key(Kind::Record), encrypted);
        let batch = match request {
            Some(request) => request.remember(batch, record, created, now),
            None => batch,
        };
        Ok(PreparedWrite::New {
            written,
            batch,
            limit,
        })
    }

    fn record(&self, terms: &Terms<'_>, labels: Labels) -> StoredMetadata {
        let now = Timestamp::from(self.write.now);
        let (uid, create_time) = match &self.current {
            Some(current) => (current.metadata.uid.clone(), current.metadata.create_time),
            None => (Uid::generate().as_bytes().to_vec(), now),
        };
        StoredMetadata {
            uid,
            version: self.version,
            create_time,
            update_time: now,
            upstream_origins: stored::origins(terms.origins),
            expires_at: terms.expiry.map_or(0, Expiry::seconds),
            labels: labels.into_map(),
            kept_from: self.kept_from(),
            last_version: 0,
        }
    }

    /// Returns the number of the oldest version that is kept from now on.
    fn kept_from(&self) -> u64 {
        match &self.current {
            None => self.version,
            // A repair raised the number, because lost versions may have had the numbers in between.
            Some(current) if current.version() + 1 < self.version => self.version,
            Some(current) => {
                let kept = self.write.workspace.kept_versions.number();
                let oldest = (self.version + 1).saturating_sub(kept.into());
                current.kept_from().max(oldest)
            }
        }
    }
}

/// Refuses a write whose caller expects another current version.
pub(super) fn check_version(current: u64, expected: Option<u64>) -> Result<(), VaultError> {
    match expected {
        Some(expected) if expected != current => Err(VaultError::VersionMismatch { current, expected }),
        Some(_) | None => Ok(()),
    }
}

/// Refuses an expiry that has passed, because a version that expires at once would be a mistake.
pub(super) fn check_expiry(expiry: Option<Expiry>, now: SystemTime) -> Result<(), VaultError> {
    match expiry {
        Some(expiry) if expiry.has_passed(now) => Err(VaultError::AlreadyExpired),
        Some(_) | None => Ok(()),
    }
}

/// Encodes an expected version as a field of a fingerprint.
pub(super) fn expected_version_field(version: Option<u64>) -> Vec<u8> {
    version.map_or_else(Vec::new, |version| version.to_be_bytes().to_vec())
}
