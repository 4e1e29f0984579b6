//! A workspace: its plan, its settings, and its stored form.

use proto::{Uid, WorkspaceName};

use super::{
    VaultError,
    stored::{self, WorkspaceRecord},
};
use crate::{
    crypto::{KeyId, wrapped_kek_id},
    store::{Batch, Store},
};

/// Plan of a workspace: the number of secrets that it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Plan {
    /// 10 secrets
    Free,
    /// 50 secrets
    Starter,
    /// 200 secrets
    Pro,
    /// 1,000 secrets
    Business,
    /// Any number of secrets
    Enterprise,
}

impl Plan {
    const ALL: [Self; 5] = [
        Self::Free,
        Self::Starter,
        Self::Pro,
        Self::Business,
        Self::Enterprise,
    ];

    /// Returns the maximum number of secrets; `None` for any number.
    pub(super) fn limit(self) -> Option<u64> {
        match self {
            Self::Free => Some(10),
            Self::Starter => Some(50),
            Self::Pro => Some(200),
            Self::Business => Some(1000),
            Self::Enterprise => None,
        }
    }

    /// Returns the number of the plan in the store. The numbers never change.
    pub(super) fn stored(self) -> u32 {
        match self {
            Self::Free => 1,
            Self::Starter => 2,
            Self::Pro => 3,
            Self::Business => 4,
            Self::Enterprise => 5,
        }
    }
}

/// Number of versions of each secret that a workspace keeps, the current one included: 1 to [`KeptVersions::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptVersions(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("kept_versions is 1 to {}", KeptVersions::MAX)]
pub struct KeptVersionsError;

impl KeptVersions {
    pub const MAX: u64 = 100;

    pub fn parse(number: u32) -> Result<Self, KeptVersionsError> {
        match u64::from(number) {
            1..=Self::MAX => Ok(Self(number)),
            _ => Err(KeptVersionsError),
        }
    }

    pub fn number(self) -> u32 {
        self.0
    }
}

impl Default for KeptVersions {
    fn default() -> Self {
        Self(3)
    }
}

/// Settings of a workspace that an administrator chooses.
#[derive(Debug, Clone, Copy)]
pub struct WorkspaceSettings {
    pub plan: Plan,
    pub kept_versions: KeptVersions,
}

impl From<Plan> for WorkspaceSettings {
    fn from(plan: Plan) -> Self {
        Self {
            plan,
            kept_versions: KeptVersions::default(),
        }
    }
}

pub(super) struct StoredWorkspace {
    pub(super) name: WorkspaceName,
    pub(super) uid: Uid,
    pub(super) plan: Plan,
    pub(super) kept_versions: KeptVersions,
    pub(super) record: WorkspaceRecord,
    /// Encoded `record`, for compare-and-set.
    pub(super) bytes: Vec<u8>,
}

impl StoredWorkspace {
    pub(super) fn decode(name: WorkspaceName, bytes: Vec<u8>) -> Result<Self, VaultError> {
        let record: WorkspaceRecord = stored::decode(&bytes)?;
        let uid = stored::uid(&record.uid).ok_or(VaultError::Corrupt(None))?;
        let plan = Plan::ALL.into_iter().find(|plan| plan.stored() == record.plan);
        let plan = plan.ok_or(VaultError::Corrupt(None))?;
        let kept_versions =
            KeptVersions::parse(record.kept_versions).map_err(|_| VaultError::Corrupt(None))?;
        Ok(Self {
            name,
            uid,
            plan,
            kept_versions,
            record,
            bytes,
        })
    }

    /// Adds the condition that the workspace is still what was read.
    pub(super) fn expect_unchanged(&self, batch: Batch) -> Batch {
        batch.expect_value(stored::workspace(&self.name), self.bytes.clone())
    }

    pub(super) fn retired_kek(&self, id: KeyId) -> Option<&[u8]> {
        let mut wrapped = self.record.retired_keks.iter().map(|kek| &*kek.wrapped_kek);
        wrapped.find(|wrapped| wrapped_kek_id(wrapped) == Ok(id))
    }

    /// Returns the wrapped KEKs, the active one first.
    pub(super) fn wrapped_keks(&self) -> impl Iterator<Item = &[u8]> {
        let retired = self.record.retired_keks.iter().map(|kek| &*kek.wrapped_kek);
        std::iter::once(&*self.record.wrapped_kek).chain(retired)
    }
}

/// Reads a workspace that must exist.
pub(super) fn find(store: &Store, name: &WorkspaceName) -> Result<StoredWorkspace, VaultError> {
    match store.read(&stored::workspace(name))? {
        Some(bytes) => StoredWorkspace::decode(name.clone(), bytes),
        None => Err(VaultError::NoWorkspace(name.clone())),
    }
}

pub(super) fn read_count(store: &Store, workspace: &Uid) -> Result<u64, VaultError> {
    match store.read(&stored::count(workspace))? {
        None => Ok(0),
        Some(bytes) => bytes
            .as_slice()
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| VaultError::Corrupt(None)),
    }
}
