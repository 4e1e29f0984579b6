//! The calls to both services that pages are made of.

mod explained;
mod keys;
mod servers;

use chassis::service_channel::ServiceChannel;
use proto::{
    SecretName,
    injector::v1::Server,
    vault::v1::{
        CreateWorkspaceRequest, DeleteSecretRequest, DeleteWorkspaceRequest, GetSecretMetadataRequest,
        GetWorkspaceRequest, PutSecretRequest, PutSecretResponse, RestoreSecretVersionRequest,
        RestoreSecretVersionResponse, Secret, SecretVersion, UpdateWorkspaceRequest, Workspace,
        secret_service_client::SecretServiceClient, workspace_service_client::WorkspaceServiceClient,
    },
};

use super::remembered_access::RememberedAccess;
use crate::{
    connect::{Connection, Remote},
    failure::{Failure, FailureKind},
    pages,
    service_status::StatusReport,
};

pub(super) use self::explained::Explained;

/// Clients of both services. They connect on first use, and connect again after a failure.
pub(super) struct Services {
    pub(super) connection: Connection,
    pub(super) vault: Remote,
    pub(super) injector: Remote,
    pub(super) remembered_access: RememberedAccess,
}

impl Services {
    /// Reads the certificates. No address is dialled.
    pub(super) fn of(connection: Connection) -> Result<Self, Failure> {
        Ok(Self {
            vault: connection.vault()?,
            injector: connection.injector()?,
            remembered_access: RememberedAccess::default(),
            connection,
        })
    }

    fn workspace_client(&self) -> WorkspaceServiceClient<ServiceChannel> {
        WorkspaceServiceClient::new(self.vault.channel.clone())
    }

    pub(super) fn secret_client(&self) -> SecretServiceClient<ServiceChannel> {
        SecretServiceClient::new(self.vault.channel.clone())
    }

    pub(super) async fn workspaces(&self) -> Result<Vec<Workspace>, Failure> {
        pages::workspaces(&self.vault).await
    }

    pub(super) async fn workspace(&self, name: &str) -> Result<Workspace, Failure> {
        let request = GetWorkspaceRequest {
            name: name.to_owned(),
        };
        let answer = self
            .vault
            .answer(self.workspace_client().get_workspace(request))
            .await?;
        Ok(answer.workspace.unwrap_or_default())
    }

    pub(super) async fn create_workspace(&self, workspace: Workspace) -> Result<Workspace, Failure> {
        let request = CreateWorkspaceRequest {
            workspace: Some(workspace),
        };
        let answer = self
            .vault
            .answer(self.workspace_client().create_workspace(request))
            .await?;
        Ok(answer.workspace.unwrap_or_default())
    }

    /// Changes the plan and the number of kept versions.
    pub(super) async fn update_workspace(&self, workspace: Workspace) -> Result<Workspace, Failure> {
        let paths = ["plan", "kept_versions"].map(str::to_owned).into();
        let request = UpdateWorkspaceRequest {
            workspace: Some(workspace),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let answer = self
            .vault
            .answer(self.workspace_client().update_workspace(request))
            .await?;
        Ok(answer.workspace.unwrap_or_default())
    }

    /// Deletes a workspace with its secrets, if `revision` is its present revision.
    pub(super) async fn delete_workspace(&self, name: &str, revision: u64) -> Result<(), Failure> {
        let request = DeleteWorkspaceRequest {
            name: name.to_owned(),
            force: true,
            revision,
        };
        self.vault
            .answer(self.workspace_client().delete_workspace(request))
            .await
            .map(drop)
    }

    pub(super) async fn secrets(&self, workspace: &str) -> Result<Vec<Secret>, Failure> {
        pages::secrets(&self.vault, workspace).await
    }

    pub(super) async fn secret(&self, workspace: &str, name: &SecretName) -> Result<Secret, Failure> {
        let request = GetSecretMetadataRequest {
            workspace: workspace.to_owned(),
            name: name.as_str().to_owned(),
        };
        let answer = self
            .vault
            .answer(self.secret_client().get_secret_metadata(request))
            .await?;
        Ok(answer.secret.unwrap_or_default())
    }

    pub(super) async fn versions(
        &self,
        workspace: &str,
        name: &SecretName,
    ) -> Result<Vec<SecretVersion>, Failure> {
        pages::versions(&self.vault, workspace, name.as_str()).await
    }

    pub(super) async fn put_secret(&self, request: PutSecretRequest) -> Result<PutSecretResponse, Failure> {
        self.vault.answer(self.secret_client().put_secret(request)).await
    }

    pub(super) async fn restore_version(
        &self,
        request: RestoreSecretVersionRequest,
    ) -> Result<RestoreSecretVersionResponse, Failure> {
        self.vault
            .answer(self.secret_client().restore_secret_version(request))
            .await
    }

    /// Deletes a secret, if `version` is its present version.
    pub(super) async fn delete_secret(
        &self,
        workspace: &str,
        name: &SecretName,
        version: u64,
    ) -> Result<(), Failure> {
        let request = DeleteSecretRequest {
            workspace: workspace.to_owned(),
            name: name.as_str().to_owned(),
            expected_version: Some(version),
        };
        self.vault
            .answer(self.secret_client().delete_secret(request))
            .await
            .map(drop)
    }

    /// Returns the servers that the injector has for a workspace.
    pub(super) async fn servers(&self, workspace: &str) -> Result<Vec<Server>, Failure> {
        pages::servers(&self.injector, workspace).await
    }

    /// Returns the names of the servers that get a secret.
    pub(super) async fn servers_with(
        &self,
        workspace: &str,
        name: &SecretName,
    ) -> Result<Vec<String>, Failure> {
        pages::servers_with(&self.injector, workspace, name).await
    }

    pub(super) async fn status(&self) -> Result<StatusReport, Failure> {
        StatusReport::ask(&self.connection, &self.vault, &self.injector).await
    }

    /// Returns true while the vault waits for its root key, and `None` when this identity may not know.
    pub(super) async fn is_locked(&self) -> Option<bool> {
        self.key_status().await.ok().map(|status| status.sealed)
    }
}

/// Returns `None` instead of the failure of a secret or workspace that does not exist.
pub(super) fn found<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.kind == FailureKind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}
