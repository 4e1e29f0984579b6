//! Keys and their rotations, as `--output json` prints them.

use prost_types::Timestamp;
use proto::vault::v1::{
    self as api, GetKeyStatusResponse, KeyRotation, KeyState, RootKey as ApiRootKey, RootKeyProvider,
    WorkspaceKey as ApiWorkspaceKey,
};
use serde::Serialize;

use crate::output::{date, time};

/// The vault's root keys and the running rotations.
#[derive(Debug, Serialize)]
pub(crate) struct KeyStatus {
    /// True while the vault waits for its root key.
    pub sealed: bool,
    /// The active key comes first.
    pub root_keys: Vec<RootKey>,
    pub rotations: Vec<Rotation>,
    /// Deleted records that the store's files still hold.
    pub pending_erasure: PendingErasure,
}

/// Deleted records that the store's files still hold.
#[derive(Debug, Serialize)]
pub(crate) struct PendingErasure {
    /// The number of workspaces with such records.
    pub workspace_count: u64,
    /// The time of the oldest deletion among these records.
    pub oldest_delete_time: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RootKey {
    id: String,
    /// `active` or `retired`.
    state: &'static str,
    /// `file`, `passphrase` or `kms`.
    provider: &'static str,
    workspace_count: u64,
    /// `None` unless the key is in a KMS.
    kms_key_id: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Rotation {
    /// The workspace whose records get a new key; `None` for the store key.
    workspace: Option<String>,
    done_count: u64,
    total_count: u64,
    unreadable_count: u64,
    start_time: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct WorkspaceKey {
    id: String,
    /// `active` or `retired`.
    state: &'static str,
    create_time: String,
    record_count: u64,
}

fn key_state(state: KeyState) -> &'static str {
    match state {
        KeyState::Unspecified => "",
        KeyState::Active => "active",
        KeyState::Retired => "retired",
    }
}

impl KeyStatus {
    pub(crate) fn of(status: GetKeyStatusResponse) -> Self {
        let GetKeyStatusResponse {
            sealed,
            root_keys,
            rotations,
            pending_erasure,
        } = status;
        let api::PendingErasure {
            workspace_count,
            oldest_delete_time,
        } = pending_erasure.unwrap_or_default();
        Self {
            sealed,
            root_keys: root_keys.into_iter().map(RootKey::of).collect(),
            rotations: rotations.into_iter().map(Rotation::of).collect(),
            pending_erasure: PendingErasure {
                workspace_count,
                // Fractions of a second tell a reader nothing.
                oldest_delete_time: oldest_delete_time
                    .map(|deleted| time(Some(Timestamp { nanos: 0, ..deleted }))),
            },
        }
    }
}

impl RootKey {
    fn of(key: ApiRootKey) -> Self {
        let provider = match key.provider() {
            RootKeyProvider::Unspecified => "",
            RootKeyProvider::File => "file",
            RootKeyProvider::Passphrase => "passphrase",
            RootKeyProvider::Kms => "kms",
        };
        let state = key_state(key.state());
        let ApiRootKey {
            id,
            state: _,
            provider: _,
            workspace_count,
            kms_key_id,
        } = key;
        Self {
            id,
            state,
            provider,
            workspace_count,
            kms_key_id: Some(kms_key_id).filter(|id| !id.is_empty()),
        }
    }

    pub(crate) fn row(&self) -> [String; 4] {
        [
            self.id.clone(),
            self.state.to_owned(),
            self.provider.to_owned(),
            self.workspace_count.to_string(),
        ]
    }
}

impl Rotation {
    fn of(rotation: KeyRotation) -> Self {
        let KeyRotation {
            workspace,
            done_count,
            total_count,
            unreadable_count,
            start_time,
        } = rotation;
        Self {
            workspace: Some(workspace).filter(|name| !name.is_empty()),
            done_count,
            total_count,
            unreadable_count,
            start_time: time(start_time),
        }
    }

    pub(crate) fn row(&self) -> [String; 4] {
        let whose = self.workspace.as_deref().unwrap_or("(store key)");
        [
            whose.to_owned(),
            self.done_count.to_string(),
            self.total_count.to_string(),
            self.unreadable_count.to_string(),
        ]
    }
}

impl WorkspaceKey {
    pub(crate) fn of(key: ApiWorkspaceKey) -> Self {
        let state = key_state(key.state());
        let ApiWorkspaceKey {
            id,
            state: _,
            create_time,
            record_count,
        } = key;
        Self {
            id,
            state,
            create_time: time(create_time),
            record_count,
        }
    }

    pub(crate) fn row(&self) -> [String; 4] {
        [
            self.id.clone(),
            self.state.to_owned(),
            date(&self.create_time),
            self.record_count.to_string(),
        ]
    }
}
