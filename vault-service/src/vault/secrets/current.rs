//! A secret in the store: its current version, and the older versions behind it.

use std::ops::Range;

use proto::SecretName;

use crate::{
    store::{Batch, Store},
    vault::{
        VaultError,
        stored::{self, Kind, OldVersion, StoredMetadata},
        workspace::{KeptVersions, StoredWorkspace},
    },
};

/// The place of a secret in the store. The secret may not exist.
#[derive(Clone, Copy)]
pub(super) struct SecretEntries<'a> {
    pub(super) store: &'a Store,
    pub(super) workspace: &'a StoredWorkspace,
    pub(super) name: &'a SecretName,
}

pub(super) struct CurrentVersion {
    pub(super) metadata: StoredMetadata,
    /// Encoded `metadata`, for compare-and-set.
    bytes: Vec<u8>,
    /// The encrypted record; `None` when it is lost. Writes move and replace the record without decrypting it, so a damaged
    /// or lost record does not prevent them.
    record: Option<Vec<u8>>,
}

impl<'a> SecretEntries<'a> {
    pub(super) fn of(store: &'a Store, workspace: &'a StoredWorkspace, name: &'a SecretName) -> Self {
        Self {
            store,
            workspace,
            name,
        }
    }

    pub(super) fn key(self, kind: Kind) -> Vec<u8> {
        kind.key(&self.workspace.uid, self.name)
    }

    fn old_version_key(self, version: u64) -> Vec<u8> {
        stored::old_version(&self.workspace.uid, self.name, version)
    }

    /// Reads the current version; `None` when the secret does not exist.
    pub(super) fn current(self) -> Result<Option<CurrentVersion>, VaultError> {
        let Some(bytes) = self.store.read(&self.key(Kind::Metadata))? else {
            return Ok(None);
        };
        Ok(Some(CurrentVersion {
            metadata: stored::decode(&bytes)?,
            bytes,
            record: self.store.read(&self.key(Kind::Record))?,
        }))
    }

    /// Reads the current version of a secret that must exist.
    pub(super) fn existing(self) -> Result<CurrentVersion, VaultError> {
        self.current()?
            .ok_or_else(|| VaultError::NoSecret(self.workspace.name.clone(), self.name.clone()))
    }

    /// Reads an older version; `None` when it is not kept, or a repair could not recover it.
    pub(super) fn old_version(self, version: u64) -> Result<Option<OldVersion>, VaultError> {
        let bytes = self.store.read(&self.old_version_key(version))?;
        Ok(bytes.map(|bytes| stored::decode(&bytes)).transpose()?)
    }

    pub(super) fn remove_versions(self, batch: Batch, versions: Range<u64>) -> Batch {
        versions.fold(batch, |batch, version| {
            batch.delete(self.old_version_key(version))
        })
    }
}

impl CurrentVersion {
    pub(super) fn version(&self) -> u64 {
        self.metadata.version
    }

    /// Returns the number of the oldest version that may be kept. Damaged metadata cannot make the range longer than
    /// [`KeptVersions::MAX`].
    pub(super) fn kept_from(&self) -> u64 {
        let version = self.version();
        let oldest = version.saturating_sub(KeptVersions::MAX);
        self.metadata.kept_from.clamp(oldest, version)
    }

    /// Returns the numbers of the kept versions before this one that are below `end`.
    pub(super) fn older(&self, end: u64) -> Range<u64> {
        self.kept_from()..end.min(self.version())
    }

    /// Returns true when some version is older than `kept_from`, so that a write which keeps versions from there on removes it.
    pub(super) fn removes_any(&self, kept_from: u64) -> bool {
        !self.older(kept_from).is_empty() || self.version() < kept_from
    }

    /// Adds the condition that this version is still what was read. A rotation may have rewrapped the record since.
    pub(super) fn expect_unchanged(&self, batch: Batch, secret: SecretEntries<'_>) -> Batch {
        let batch = batch.expect_value(secret.key(Kind::Metadata), self.bytes.clone());
        match &self.record {
            Some(record) => batch.expect_value(secret.key(Kind::Record), record.clone()),
            None => batch.expect_absent(secret.key(Kind::Record)),
        }
    }

    /// Stores this version as an older one when it is not below `kept_from`, and removes the older versions that are.
    pub(super) fn retire(self, batch: Batch, secret: SecretEntries<'_>, kept_from: u64) -> Batch {
        let batch = self.expect_unchanged(batch, secret);
        let batch = secret.remove_versions(batch, self.older(kept_from));
        let Self { metadata, record, .. } = self;
        match record {
            Some(record) if metadata.version >= kept_from => {
                let key = secret.old_version_key(metadata.version);
                batch.put(key, stored::encode(&OldVersion { metadata, record }))
            }
            Some(_) | None => batch,
        }
    }

    /// Returns the metadata of the kept versions after `version`, this one included.
    pub(super) fn versions_after(
        &self,
        secret: SecretEntries<'_>,
        version: u64,
    ) -> Result<Vec<StoredMetadata>, VaultError> {
        let mut later = Vec::new();
        for number in self.older(u64::MAX).filter(|older| *older > version) {
            // A version that a repair could not recover is missing, and is not compared.
            later.extend(secret.old_version(number)?.map(|old| old.metadata));
        }
        if self.version() > version {
            later.push(self.metadata.clone());
        }
        Ok(later)
    }

    /// Returns a kept version: this one or an older one.
    pub(super) fn kept_version(
        &self,
        secret: SecretEntries<'_>,
        version: u64,
    ) -> Result<OldVersion, VaultError> {
        if version == self.version() {
            return Ok(OldVersion {
                metadata: self.metadata.clone(),
                record: self.record.clone().ok_or(VaultError::Corrupt(None))?,
            });
        }
        secret.old_version(version)?.ok_or_else(|| VaultError::NoVersion {
            workspace: secret.workspace.name.clone(),
            name: secret.name.clone(),
            version,
        })
    }
}
