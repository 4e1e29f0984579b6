//! The current version of a secret, as stored, and the older versions behind it.

use std::ops::Range;

use proto::SecretName;

use crate::{
    store::{Batch, Store},
    vault::{
        VaultError,
        stored::{self, Kind, OldVersion, SecretRecord},
        workspace::{KeptVersions, StoredWorkspace},
    },
};

/// The current version of a secret.
pub(super) struct CurrentVersion {
    pub(super) metadata: SecretRecord,
    /// Encoded `metadata`, for compare-and-set.
    bytes: Vec<u8>,
    /// The encrypted record; `None` when it is lost. Writes move and replace the record without decrypting it, so a damaged
    /// or lost record does not prevent them.
    record: Option<Vec<u8>>,
}

impl CurrentVersion {
    pub(super) fn read(
        store: &Store,
        workspace: &StoredWorkspace,
        name: &SecretName,
    ) -> Result<Option<Self>, VaultError> {
        let Some(bytes) = store.read(&Kind::Metadata.key(&workspace.uid, name))? else {
            return Ok(None);
        };
        Ok(Some(Self {
            metadata: stored::decode(&bytes)?,
            bytes,
            record: store.read(&Kind::Record.key(&workspace.uid, name))?,
        }))
    }

    /// Reads the current version of a secret that must exist.
    pub(super) fn find(
        store: &Store,
        workspace: &StoredWorkspace,
        name: &SecretName,
    ) -> Result<Self, VaultError> {
        Self::read(store, workspace, name)?
            .ok_or_else(|| VaultError::NoSecret(workspace.name.clone(), name.clone()))
    }

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

    /// Adds the condition that this version is still what was read. A rotation may have rewrapped the record since.
    pub(super) fn expect_unchanged(
        &self,
        batch: Batch,
        workspace: &StoredWorkspace,
        name: &SecretName,
    ) -> Batch {
        let batch = batch.expect_value(Kind::Metadata.key(&workspace.uid, name), self.bytes.clone());
        let record = Kind::Record.key(&workspace.uid, name);
        match &self.record {
            Some(bytes) => batch.expect_value(record, bytes.clone()),
            None => batch.expect_absent(record),
        }
    }

    /// Returns true when some version is older than `kept_from`, so that a write which keeps versions from there on removes it.
    pub(super) fn removes_any(&self, kept_from: u64) -> bool {
        !self.older(kept_from).is_empty() || self.version() < kept_from
    }

    /// Stores this version as an older one when it is not below `kept_from`, and removes the older versions that are.
    pub(super) fn retire(
        self,
        batch: Batch,
        workspace: &StoredWorkspace,
        name: &SecretName,
        kept_from: u64,
    ) -> Batch {
        let batch = self.expect_unchanged(batch, workspace, name);
        let batch = remove_versions(batch, workspace, name, self.older(kept_from));
        let Self { metadata, record, .. } = self;
        match record {
            Some(record) if metadata.version >= kept_from => {
                let key = stored::old_version(&workspace.uid, name, metadata.version);
                batch.put(key, stored::encode(&OldVersion { metadata, record }))
            }
            Some(_) | None => batch,
        }
    }

    /// Returns the metadata of the kept versions after `version`, this one included.
    pub(super) fn versions_after(
        &self,
        store: &Store,
        workspace: &StoredWorkspace,
        name: &SecretName,
        version: u64,
    ) -> Result<Vec<SecretRecord>, VaultError> {
        let mut later = Vec::new();
        for number in self.older(u64::MAX).filter(|older| *older > version) {
            // A version that a repair could not recover is missing, and is not compared.
            later.extend(old_version(store, workspace, name, number)?.map(|old| old.metadata));
        }
        if self.version() > version {
            later.push(self.metadata.clone());
        }
        Ok(later)
    }

    /// Returns a kept version: this one or an older one.
    pub(super) fn kept_version(
        &self,
        store: &Store,
        workspace: &StoredWorkspace,
        name: &SecretName,
        version: u64,
    ) -> Result<OldVersion, VaultError> {
        if version == self.version() {
            return Ok(OldVersion {
                metadata: self.metadata.clone(),
                record: self.record.clone().ok_or(VaultError::Corrupt(None))?,
            });
        }
        old_version(store, workspace, name, version)?.ok_or_else(|| VaultError::NoVersion {
            workspace: workspace.name.clone(),
            name: name.clone(),
            version,
        })
    }
}

/// Adds the removal of older versions.
pub(super) fn remove_versions(
    batch: Batch,
    workspace: &StoredWorkspace,
    name: &SecretName,
    versions: Range<u64>,
) -> Batch {
    versions.fold(batch, |batch, version| {
        batch.delete(stored::old_version(&workspace.uid, name, version))
    })
}

/// Reads an older version; `None` when it is not kept, or a repair could not recover it.
pub(super) fn old_version(
    store: &Store,
    workspace: &StoredWorkspace,
    name: &SecretName,
    version: u64,
) -> Result<Option<OldVersion>, VaultError> {
    let bytes = store.read(&stored::old_version(&workspace.uid, name, version))?;
    Ok(bytes.map(|bytes| stored::decode(&bytes)).transpose()?)
}
