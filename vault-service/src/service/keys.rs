//! `vault.v1.KeyService`.

use chassis::authz::Authorized;
use proto::vault::v1::{
    self as api, GetKeyStatusRequest, GetKeyStatusResponse, KeyRotation, KeyState, ListWorkspaceKeysRequest,
    ListWorkspaceKeysResponse, RootKeyProvider, RotateRootKeyRequest, RotateRootKeyResponse,
    RotateWorkspaceKeyRequest, RotateWorkspaceKeyResponse, key_service_server::KeyService,
};
use tonic::{Request, Response, Status};

use super::subject::Subject;
use crate::{
    authz::VaultPermit,
    root::ProviderKind,
    status::refusal,
    vault::{KeyStatus, PendingErasure, RootKeyStatus, RotationStatus, WorkspaceKey, Writer},
};

pub(crate) struct KeyRpcs(pub(crate) Writer);

#[tonic::async_trait]
impl KeyService for KeyRpcs {
    async fn get_key_status(
        &self,
        request: Request<GetKeyStatusRequest>,
    ) -> Result<Response<GetKeyStatusResponse>, Status> {
        let permit = VaultPermit::decide(Authorized::of(&request)?)?;
        let KeyStatus {
            is_locked,
            roots,
            rotations,
            erasure: PendingErasure { workspaces, since },
        } = self.0.key_status(&permit).await.map_err(refusal)?;
        Ok(Response::new(GetKeyStatusResponse {
            sealed: is_locked,
            root_keys: roots.into_iter().map(root_key).collect(),
            rotations: rotations.into_iter().map(key_rotation).collect(),
            pending_erasure: Some(api::PendingErasure {
                workspace_count: workspaces,
                oldest_delete_time: since,
            }),
        }))
    }

    async fn list_workspace_keys(
        &self,
        request: Request<ListWorkspaceKeysRequest>,
    ) -> Result<Response<ListWorkspaceKeysResponse>, Status> {
        // The name is noted before the decision, so that the audit line of a denied call has it too.
        let workspace = Subject::of(&request).parse_workspace(&request.get_ref().workspace);
        let permit = VaultPermit::decide(Authorized::of(&request)?)?;
        let workspace = workspace?;
        let keys = self
            .0
            .workspace_keys(&permit, &workspace)
            .await
            .map_err(refusal)?;
        Ok(Response::new(ListWorkspaceKeysResponse {
            keys: keys.into_iter().map(workspace_key).collect(),
        }))
    }

    async fn rotate_workspace_key(
        &self,
        request: Request<RotateWorkspaceKeyRequest>,
    ) -> Result<Response<RotateWorkspaceKeyResponse>, Status> {
        let workspace = Subject::of(&request).parse_workspace(&request.get_ref().workspace);
        let permit = VaultPermit::decide(Authorized::of(&request)?)?;
        let workspace = workspace?;
        let id = self.0.rotate_workspace_key(&permit, &workspace).await;
        let key_id = id.map_err(refusal)?.to_string();
        Subject::of(&request).note_key_id(&key_id);
        Ok(Response::new(RotateWorkspaceKeyResponse { key_id }))
    }

    async fn rotate_root_key(
        &self,
        request: Request<RotateRootKeyRequest>,
    ) -> Result<Response<RotateRootKeyResponse>, Status> {
        let permit = VaultPermit::decide(Authorized::of(&request)?)?;
        let id = self.0.rotate_root_key(&permit).await.map_err(refusal)?;
        let key_id = id.to_string();
        Subject::of(&request).note_key_id(&key_id);
        Ok(Response::new(RotateRootKeyResponse { key_id }))
    }
}

fn key_state(active: bool) -> i32 {
    let state = if active {
        KeyState::Active
    } else {
        KeyState::Retired
    };
    state.into()
}

fn root_key(root: RootKeyStatus) -> api::RootKey {
    let RootKeyStatus {
        id,
        active,
        kind,
        workspaces,
        kms_key_id,
    } = root;
    let provider = match kind {
        ProviderKind::File => RootKeyProvider::File,
        ProviderKind::Passphrase => RootKeyProvider::Passphrase,
        ProviderKind::Kms => RootKeyProvider::Kms,
    };
    api::RootKey {
        id: id.to_string(),
        state: key_state(active),
        provider: provider.into(),
        workspace_count: workspaces,
        kms_key_id: kms_key_id.unwrap_or_default(),
    }
}

fn key_rotation(rotation: RotationStatus) -> KeyRotation {
    let RotationStatus {
        workspace,
        done,
        total,
        unreadable,
        start_time,
    } = rotation;
    KeyRotation {
        workspace: workspace.unwrap_or_default(),
        done_count: done,
        total_count: total,
        unreadable_count: unreadable,
        start_time: Some(start_time),
    }
}

fn workspace_key(key: WorkspaceKey) -> api::WorkspaceKey {
    let WorkspaceKey {
        id,
        active,
        create_time,
        records,
    } = key;
    api::WorkspaceKey {
        id: id.to_string(),
        state: key_state(active),
        create_time: Some(create_time),
        record_count: records,
    }
}
