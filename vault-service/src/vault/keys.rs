//! The public state of keys: their ids, the number of users of each, the rotations, and the pending erasure.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use proto::{Uid, WorkspaceName};

use super::{
    VaultError, Writer, blocking,
    erasure::{self, PendingErasure},
    key_file::KeyFile,
    roots,
    rotation::{self, Records},
    stored::{self, Rotation},
    workspaces::{self, Found},
};
use crate::{
    authz::VaultPermit,
    crypto::{KeyId, wrapped_kek_id},
    root::{KnownRootKey, ProviderKind},
    store::Store,
};

/// Entries read at once: records are large.
const PAGE: usize = 64;
/// The most rotations that are shown.
const SHOWN: usize = 1000;

/// The root keys, and all rotations.
#[derive(Debug)]
pub struct KeyStatus {
    /// Whether the root key is still to come.
    pub sealed: bool,
    /// The active one first.
    pub roots: Vec<RootKeyStatus>,
    /// Those that are under way.
    pub rotations: Vec<RotationStatus>,
    /// Deletions that are not erased yet.
    pub erasure: PendingErasure,
}

/// A root key.
#[derive(Debug)]
pub struct RootKeyStatus {
    /// Its id.
    pub id: KeyId,
    /// Whether it wraps what is new.
    pub active: bool,
    /// What gives it.
    pub kind: ProviderKind,
    /// Number of workspaces that need this root key.
    pub workspaces: u64,
    /// What the KMS calls the key that encrypts it.
    pub kms_key_id: Option<String>,
}

/// A rotation that is under way.
#[derive(Debug)]
pub struct RotationStatus {
    /// Name of the workspace whose key is rotated; `None` for the store key.
    pub workspace: Option<String>,
    /// What is under the new key.
    pub done: u64,
    /// What there is, as far as known.
    pub total: u64,
    /// What could not be moved.
    pub unreadable: u64,
    /// When it began.
    pub start_time: Timestamp,
}

/// A workspace's key.
#[derive(Debug)]
pub struct WorkspaceKey {
    /// Its id.
    pub id: KeyId,
    /// Whether what is new is put under it.
    pub active: bool,
    /// When it was made.
    pub create_time: Timestamp,
    /// How many records are under it.
    pub records: u64,
}

impl From<Rotation> for RotationStatus {
    fn from(rotation: Rotation) -> Self {
        let Rotation {
            workspace,
            cursor: _,
            last_look,
            done,
            total,
            unreadable,
            unreadable_before,
            start_time,
            deleted_since: _,
        } = rotation;
        Self {
            workspace: Some(workspace).filter(|name| !name.is_empty()),
            // The last look finds all where it belongs.
            done: if last_look { total } else { done },
            total,
            unreadable: unreadable.max(unreadable_before),
            start_time,
        }
    }
}

impl Writer {
    /// Shows the root keys, the rotations and what is still to be erased. Reads every workspace.
    pub async fn key_status(&self, _: &VaultPermit) -> Result<KeyStatus, VaultError> {
        let (store, providers) = (self.store.clone(), self.providers.clone());
        let sealed = self.is_sealed();
        blocking(move || {
            let file = KeyFile::read(&store)?;
            let active = file.as_ref().map(|file| file.root_key);
            let workspaces = roots::workspaces(&store)?;
            let root = |known: KnownRootKey| {
                let KnownRootKey { id, kind, kms_key_id } = known;
                let active = active == Some(id);
                RootKeyStatus {
                    id,
                    active,
                    kind,
                    workspaces: if active { workspaces } else { 0 },
                    kms_key_id,
                }
            };
            let known = providers.known(file.as_ref().and_then(|file| file.held.as_ref()));
            let mut roots: Vec<_> = known.into_iter().map(root).collect();
            roots.sort_by_key(|root| !root.active);
            let rotations = store.scan(stored::ROTATIONS, None, SHOWN)?;
            let rotations = rotations
                .iter()
                .map(|entry| Ok(stored::decode::<Rotation>(&entry.value)?.into()))
                .collect::<Result<_, VaultError>>()?;
            Ok(KeyStatus {
                sealed,
                roots,
                rotations,
                erasure: erasure::pending(&store)?,
            })
        })
        .await
    }

    /// Shows the keys of a workspace. Reads all its records.
    pub async fn workspace_keys(
        &self,
        _: &VaultPermit,
        name: &WorkspaceName,
    ) -> Result<Vec<WorkspaceKey>, VaultError> {
        let (store, name) = (self.store.clone(), name.clone());
        blocking(move || {
            let found = workspaces::find(&store, &name)?;
            let counts = records_of_each(&store, &found.uid)?;
            keys(&found, &counts)
        })
        .await
    }
}

fn keys(found: &Found, counts: &BTreeMap<KeyId, u64>) -> Result<Vec<WorkspaceKey>, VaultError> {
    let record = &found.record;
    let active = (true, &record.wrapped_kek, record.kek_create_time);
    let retired = record
        .retired_keks
        .iter()
        .map(|kek| (false, &kek.wrapped_kek, kek.create_time));
    std::iter::once(active)
        .chain(retired)
        .map(|(active, wrapped, create_time)| {
            let id = wrapped_kek_id(wrapped)?;
            Ok(WorkspaceKey {
                id,
                active,
                create_time: create_time.unwrap_or(record.create_time),
                records: counts.get(&id).copied().unwrap_or(0),
            })
        })
        .collect()
}

/// How many of a workspace's records are under each KEK. A damaged one is under none.
fn records_of_each(store: &Store, workspace: &Uid) -> Result<BTreeMap<KeyId, u64>, VaultError> {
    let mut counts = BTreeMap::new();
    for records in Records::ALL {
        let prefix = records.prefix(workspace);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.scan(&prefix, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for entry in &page {
                if let Some(id) = rotation::kek_id(records, &entry.value) {
                    *counts.entry(id).or_default() += 1;
                }
            }
        }
    }
    Ok(counts)
}
