//! The versions of a secret: made, kept, listed, and removed.

use std::{ops::Range, time::SystemTime};

use prost_types::Timestamp;
use proto::{SecretName, Uid};

use super::{
    VaultError, Writer, blocking, erasure,
    labels::Labels,
    requests::NewRequest,
    secrets::{Prepared, Put, SecretMetadata},
    stored::{self, Kind, OldVersion, SecretRecord},
    workspaces::{self, Found, KeptVersions},
};
use crate::{
    authz::ReadPermit,
    crypto::record::{Expiry, RecordId, Terms},
    store::{Batch, Store},
};

/// The current version of a secret as it stands in the store.
pub(super) struct Current {
    metadata: SecretRecord,
    /// The metadata's bytes, for compare-and-set.
    bytes: Vec<u8>,
    /// The encrypted record. It is moved and replaced without being opened, so a damaged or lost one does no harm.
    record: Option<Vec<u8>>,
}

impl Current {
    pub(super) fn read(store: &Store, found: &Found, name: &SecretName) -> Result<Option<Self>, VaultError> {
        let Some(bytes) = store.read(&Kind::Metadata.key(&found.uid, name))? else {
            return Ok(None);
        };
        Ok(Some(Self {
            metadata: stored::decode(&bytes)?,
            bytes,
            record: store.read(&Kind::Record.key(&found.uid, name))?,
        }))
    }

    pub(super) fn version(&self) -> u64 {
        self.metadata.version
    }

    /// The oldest version that may be kept: never further back than could be, whatever the store says.
    fn kept_from(&self) -> u64 {
        let version = self.version();
        let oldest = version.saturating_sub(KeptVersions::MAX);
        self.metadata.kept_from.clamp(oldest, version)
    }

    /// The kept versions older than this one, as far as they are below `end`.
    fn older(&self, end: u64) -> Range<u64> {
        self.kept_from()..end.min(self.version())
    }

    /// It must still be what it was when it was read; a rewrap may have come between.
    fn unchanged(&self, batch: Batch, found: &Found, name: &SecretName) -> Batch {
        let batch = batch.expect_value(Kind::Metadata.key(&found.uid, name), self.bytes.clone());
        let record = Kind::Record.key(&found.uid, name);
        match &self.record {
            Some(bytes) => batch.expect_value(record, bytes.clone()),
            None => batch.expect_absent(record),
        }
    }

    /// Removes all that there is of the secret.
    pub(super) fn delete(
        self,
        store: &Store,
        found: &Found,
        name: &SecretName,
        now: SystemTime,
    ) -> Result<Batch, VaultError> {
        let batch = erasure::note(found.unchanged(Batch::new()), store, found, now)?;
        let batch = self
            .unchanged(batch, found, name)
            .delete(Kind::Metadata.key(&found.uid, name))
            .delete(Kind::Record.key(&found.uid, name))
            .delete(Kind::Use.key(&found.uid, name))
            .add(stored::count(&found.uid), -1, None);
        let batch = remove(batch, found, name, self.older(u64::MAX));
        never_again(batch, store, found, name, self.metadata.last_version())
    }

    /// Returns true when some version is older than `kept_from`, and would be removed.
    fn removes_any(&self, kept_from: u64) -> bool {
        !self.older(kept_from).is_empty() || self.version() < kept_from
    }

    /// Keeps this version behind the new one, if it is among those that are, and removes those that no longer are.
    fn keep(self, batch: Batch, found: &Found, name: &SecretName, kept_from: u64) -> Batch {
        let batch = self.unchanged(batch, found, name);
        let batch = remove(batch, found, name, self.older(kept_from));
        match self.record {
            Some(record) if self.metadata.version >= kept_from => {
                let key = stored::old_version(&found.uid, name, self.metadata.version);
                let metadata = self.metadata;
                batch.put(key, stored::encode(&OldVersion { metadata, record }))
            }
            Some(_) | None => batch,
        }
    }

    /// Returns the descriptions of the kept versions after `version`.
    pub(super) fn since(
        &self,
        store: &Store,
        found: &Found,
        name: &SecretName,
        version: u64,
    ) -> Result<Vec<SecretRecord>, VaultError> {
        let mut since = Vec::new();
        for later in self.older(u64::MAX).filter(|older| *older > version) {
            // A version that a repair could not recover is missing, and is not compared.
            since.extend(old(store, found, name, later)?.map(|later| later.metadata));
        }
        if self.version() > version {
            since.push(self.metadata.clone());
        }
        Ok(since)
    }

    /// A kept version: this one, or an older one.
    pub(super) fn kept(
        &self,
        store: &Store,
        found: &Found,
        name: &SecretName,
        version: u64,
    ) -> Result<OldVersion, VaultError> {
        if version == self.version() {
            return Ok(OldVersion {
                metadata: self.metadata.clone(),
                record: self.record.clone().ok_or(VaultError::Corrupt(None))?,
            });
        }
        old(store, found, name, version)?.ok_or_else(|| VaultError::NoVersion {
            workspace: found.name.clone(),
            name: name.clone(),
            version,
        })
    }
}

fn remove(batch: Batch, found: &Found, name: &SecretName, versions: Range<u64>) -> Batch {
    versions.fold(batch, |batch, version| {
        batch.delete(stored::old_version(&found.uid, name, version))
    })
}

fn old(
    store: &Store,
    found: &Found,
    name: &SecretName,
    version: u64,
) -> Result<Option<OldVersion>, VaultError> {
    let bytes = store.read(&stored::old_version(&found.uid, name, version))?;
    Ok(bytes.map(|bytes| stored::decode(&bytes)).transpose()?)
}

/// The version that comes next, before it has a value.
pub(super) struct Successor<'a> {
    found: &'a Found,
    name: &'a SecretName,
    store: &'a Store,
    before: Option<Current>,
    version: u64,
}

impl<'a> Successor<'a> {
    pub(super) fn of(
        store: &'a Store,
        found: &'a Found,
        name: &'a SecretName,
        before: Option<Current>,
    ) -> Result<Self, VaultError> {
        let last = match &before {
            Some(before) => before.metadata.last_version(),
            None => last_version(store, found, name)?,
        };
        Ok(Self {
            found,
            name,
            store,
            before,
            version: last + 1,
        })
    }

    /// Where its record belongs.
    pub(super) fn place(&self) -> RecordId<'a> {
        RecordId {
            workspace_uid: &self.found.uid,
            name: self.name,
            version: self.version,
        }
    }

    /// Puts the encrypted record in its place.
    pub(super) fn write(
        self,
        encrypted: Vec<u8>,
        terms: &Terms<'_>,
        labels: Labels,
        request: Option<NewRequest>,
        now: SystemTime,
    ) -> Result<Prepared, VaultError> {
        let record = self.record(terms, labels, now.into());
        let Self {
            found,
            name,
            store,
            before,
            version: _,
        } = self;
        let (created, limit) = (before.is_none(), found.plan.limit());
        let put = Put {
            secret: SecretMetadata::new(&found.name, name, record.clone(), now)?,
            created,
        };
        let batch = found.unchanged(Batch::new());
        let batch = match &before {
            Some(before) if before.removes_any(record.kept_from) => erasure::note(batch, store, found, now)?,
            Some(_) | None => batch,
        };
        let batch = match before {
            Some(before) => before.keep(batch, found, name, record.kept_from),
            None => batch
                .expect_absent(Kind::Metadata.key(&found.uid, name))
                .delete(Kind::LastVersion.key(&found.uid, name))
                .add(stored::count(&found.uid), 1, limit),
        };
        let batch = batch
            .put(Kind::Metadata.key(&found.uid, name), stored::encode(&record))
            .put(Kind::Record.key(&found.uid, name), encrypted);
        let batch = match request {
            Some(request) => request.remember(batch, record, created, now),
            None => batch,
        };
        Ok(Prepared::Write { put, batch, limit })
    }

    fn record(&self, terms: &Terms<'_>, labels: Labels, now: Timestamp) -> SecretRecord {
        let (uid, create_time, kept_from) = match &self.before {
            Some(before) => (
                before.metadata.uid.clone(),
                before.metadata.create_time,
                before.kept_from(),
            ),
            None => (Uid::generate().as_bytes().to_vec(), now, self.version),
        };
        let follows = |before: &Current| before.version() + 1 == self.version;
        let oldest = match self.before.as_ref().is_none_or(follows) {
            true => (self.version + 1).saturating_sub(self.found.kept_versions.number().into()),
            // The numbers before this one may have been given to versions that are lost.
            false => self.version,
        };
        SecretRecord {
            uid,
            version: self.version,
            create_time,
            update_time: now,
            upstream_origins: stored::origins(terms.origins),
            expires_at: terms.expiry.map_or(0, Expiry::seconds),
            labels: labels.into_map(),
            kept_from: kept_from.max(oldest),
            last_version: 0,
        }
    }
}

/// Maximum number of deleted secrets of a workspace whose last version numbers are stored separately. Without a limit,
/// a caller who may put and delete could fill the disk with the names of deleted secrets.
const MAX_LAST_VERSIONS: usize = 1000;

/// Ensures that no new secret of this name gets a version number up to `version` again: by an entry for the name, or,
/// in a workspace with many such entries, by a version floor for all new secrets.
fn never_again(
    batch: Batch,
    store: &Store,
    found: &Found,
    name: &SecretName,
    version: u64,
) -> Result<Batch, VaultError> {
    let kept = store.scan(&Kind::LastVersion.of(&found.uid), None, MAX_LAST_VERSIONS)?;
    if kept.len() < MAX_LAST_VERSIONS {
        let key = Kind::LastVersion.key(&found.uid, name);
        return Ok(batch.put(key, version.to_be_bytes()));
    }
    let key = Kind::VersionFloor.of(&found.uid);
    let floor = number(store, &key)?;
    if floor.is_some_and(|floor| floor >= version) {
        return Ok(batch);
    }
    let batch = match floor {
        Some(floor) => batch.expect_value(key.clone(), floor.to_be_bytes()),
        None => batch.expect_absent(key.clone()),
    };
    Ok(batch.put(key, version.to_be_bytes()))
}

/// Returns a version number that no deleted secret of this name exceeded; 0 when the name is new.
fn last_version(store: &Store, found: &Found, name: &SecretName) -> Result<u64, VaultError> {
    let last = number(store, &Kind::LastVersion.key(&found.uid, name))?;
    match last {
        Some(last) => Ok(last),
        None => Ok(number(store, &Kind::VersionFloor.of(&found.uid))?.unwrap_or(0)),
    }
}

fn number(store: &Store, key: &[u8]) -> Result<Option<u64>, VaultError> {
    let read = store
        .read(key)?
        .map(|bytes| bytes.as_slice().try_into().map(u64::from_be_bytes));
    read.transpose().map_err(|_| VaultError::Corrupt(None))
}

impl Writer {
    /// The kept versions of a secret before version `before`, the newest first, and whether more follow.
    pub async fn secret_versions(
        &self,
        permit: &ReadPermit,
        name: &SecretName,
        before: Option<u64>,
        size: usize,
    ) -> Result<(Vec<SecretMetadata>, bool), VaultError> {
        let (store, now) = (self.store.clone(), (self.clock)());
        let (workspace, name) = (permit.workspace().clone(), name.clone());
        blocking(move || {
            let found = workspaces::find(&store, &workspace)?;
            let Some(current) = Current::read(&store, &found, &name)? else {
                return Err(VaultError::NoSecret(workspace, name));
            };
            let before = before.unwrap_or(u64::MAX);
            let shown = |record| SecretMetadata::new(&found.name, &name, record, now);
            let mut versions = Vec::new();
            if current.version() < before {
                versions.push(shown(current.metadata.clone())?);
            }
            for version in current.older(before).rev() {
                if versions.len() > size {
                    break;
                }
                // One that was lost and not salvaged is not kept any more.
                if let Some(old) = old(&store, &found, &name, version)? {
                    versions.push(shown(old.metadata)?);
                }
            }
            let more = versions.len() > size;
            versions.truncate(size);
            Ok((versions, more))
        })
        .await
    }
}
