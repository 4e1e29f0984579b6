//! The public state of keys: their ids, the number of users of each, the rotations, and the pending erasure.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use proto::{Uid, WorkspaceName};

use super::{
    VaultError, Writer,
    access::{PagedScan, with_store},
    erasure,
    key_file::WrappedKeys,
    key_metrics::PendingErasure,
    meta,
    rotation::{self, RecordSet},
    stored::{self, Rotation},
    workspace::{self, StoredWorkspace},
};
use crate::{
    authz::VaultPermit,
    crypto::{KeyId, wrapped_kek_id},
    root::{KnownRootKey, ProviderKind},
    store::Store,
};

/// Number of records that one scan reads. Records are large.
const PAGE: usize = 64;
/// Maximum number of rotations in a [`KeyStatus`].
const MAX_ROTATIONS: usize = 1000;

#[derive(Debug)]
pub(crate) struct KeyStatus {
    /// True while the vault has no root key.
    pub(crate) is_locked: bool,
    /// The root keys that the providers have, the active one first.
    pub(crate) roots: Vec<RootKeyStatus>,
    /// The rotations that are under way.
    pub(crate) rotations: Vec<RotationStatus>,
    pub(crate) erasure: PendingErasure,
}

#[derive(Debug)]
pub(crate) struct RootKeyStatus {
    pub(crate) id: KeyId,
    /// True for the root key that wraps the store keys.
    pub(crate) active: bool,
    pub(crate) kind: ProviderKind,
    /// Number of workspaces that need this root key.
    pub(crate) workspaces: u64,
    /// The KMS's id of the key that encrypts this root key.
    pub(crate) kms_key_id: Option<String>,
}

/// A rotation that is under way.
#[derive(Debug)]
pub(crate) struct RotationStatus {
    /// Name of the workspace whose KEK is rotated; `None` for the store key.
    pub(crate) workspace: Option<String>,
    /// Number of entries under the new key.
    pub(crate) done: u64,
    /// Number of all entries, as far as known.
    pub(crate) total: u64,
    /// Number of entries that could not be moved.
    pub(crate) unreadable: u64,
    pub(crate) start_time: Timestamp,
}

#[derive(Debug)]
pub(crate) struct WorkspaceKey {
    pub(crate) id: KeyId,
    /// True for the KEK of new records.
    pub(crate) active: bool,
    pub(crate) create_time: Timestamp,
    /// Number of records whose DEK this KEK wraps.
    pub(crate) records: u64,
}

impl From<Rotation> for RotationStatus {
    fn from(rotation: Rotation) -> Self {
        let Rotation {
            workspace,
            cursor: _,
            last_pass,
            done,
            total,
            unreadable,
            unreadable_before,
            start_time,
            deleted_since: _,
        } = rotation;
        Self {
            workspace: Some(workspace).filter(|name| !name.is_empty()),
            // The last pass begins only when every entry was moved.
            done: if last_pass { total } else { done },
            total,
            unreadable: unreadable.max(unreadable_before),
            start_time,
        }
    }
}

impl Writer {
    /// Returns the state of the root keys, rotations and erasures. Reads every workspace.
    pub(crate) async fn key_status(&self, _: &VaultPermit) -> Result<KeyStatus, VaultError> {
        let (providers, is_locked) = (self.providers.clone(), self.is_locked());
        with_store(&self.store, move |store| {
            let file = WrappedKeys::read(store)?;
            let active = file.as_ref().map(|file| file.root_key);
            let workspaces = meta::count_workspaces(store)?;
            let root_status = |known: KnownRootKey| {
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
            let known = providers.known(file.as_ref().and_then(|file| file.wrapped_root.as_ref()));
            let mut roots: Vec<_> = known.into_iter().map(root_status).collect();
            roots.sort_by_key(|root| !root.active);
            let rotations = store.scan(stored::ROTATIONS, None, MAX_ROTATIONS)?;
            let rotations = rotations
                .iter()
                .map(|entry| Ok(stored::decode::<Rotation>(&entry.value)?.into()))
                .collect::<Result<_, VaultError>>()?;
            Ok(KeyStatus {
                is_locked,
                roots,
                rotations,
                erasure: erasure::pending(store)?,
            })
        })
        .await
    }

    /// Returns the state of a workspace's KEKs. Reads all its records.
    pub(crate) async fn workspace_keys(
        &self,
        _: &VaultPermit,
        name: &WorkspaceName,
    ) -> Result<Vec<WorkspaceKey>, VaultError> {
        let name = name.clone();
        with_store(&self.store, move |store| {
            let found = workspace::find(store, &name)?;
            let counts = count_records(store, &found.uid)?;
            workspace_keys(&found, &counts)
        })
        .await
    }
}

fn workspace_keys(
    found: &StoredWorkspace,
    counts: &BTreeMap<KeyId, u64>,
) -> Result<Vec<WorkspaceKey>, VaultError> {
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

/// Counts a workspace's records by KEK. A damaged record counts for none.
fn count_records(store: &Store, workspace: &Uid) -> Result<BTreeMap<KeyId, u64>, VaultError> {
    let mut counts = BTreeMap::new();
    for set in RecordSet::ALL {
        let mut scan = PagedScan::new(set.prefix(workspace), PAGE);
        loop {
            let page = scan.next(store)?;
            if page.is_empty() {
                break;
            }
            for id in page
                .iter()
                .filter_map(|entry| rotation::kek_id(set, &entry.value))
            {
                *counts.entry(id).or_default() += 1;
            }
        }
    }
    Ok(counts)
}
