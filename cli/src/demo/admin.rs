//! The administrator's side of the demo: may write, may not read.

use proto::{
    injector::v1::{
        AddServerRequest, Server, UpdateServerRequest, server_service_client::ServerServiceClient,
    },
    vault::v1::{
        CreateWorkspaceRequest, DecryptRequest, GetSecretMetadataRequest, PutSecretRequest, Workspace,
        decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
        secret_service_client::SecretServiceClient, workspace_service_client::WorkspaceServiceClient,
    },
};
use tonic::{Code, transport::Channel};

use super::{DemoError, SECRET, SERVER, WORKSPACE, step};
use crate::{connect::Connection, failure::Failure};

/// Connections to both services.
pub(super) struct Admin {
    vault: Channel,
    injector: Channel,
}

impl Admin {
    pub(super) fn connect(connection: &Connection) -> Result<Self, DemoError> {
        let unusable = |failure: Failure| DemoError::Step {
            step: "connect",
            cause: failure.message,
        };
        Ok(Self {
            vault: connection.vault().map_err(unusable)?.channel,
            injector: connection.injector().map_err(unusable)?.channel,
        })
    }

    pub(super) async fn workspace(&self) -> Result<(), DemoError> {
        let workspace = Workspace {
            name: WORKSPACE.to_owned(),
            ..Default::default()
        };
        let request = CreateWorkspaceRequest {
            workspace: Some(workspace),
        };
        match WorkspaceServiceClient::new(self.vault.clone())
            .create_workspace(request)
            .await
        {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(step("create the workspace")(status)),
        }
    }

    /// Whether there is one already.
    pub(super) async fn has_secret(&self) -> Result<bool, DemoError> {
        let request = GetSecretMetadataRequest {
            workspace: WORKSPACE.to_owned(),
            name: SECRET.to_owned(),
        };
        match SecretServiceClient::new(self.vault.clone())
            .get_secret_metadata(request)
            .await
        {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(step("look for the secret")(status)),
        }
    }

    pub(super) async fn put_secret(&self, value: &str, origin: &str) -> Result<(), DemoError> {
        let request = PutSecretRequest {
            workspace: WORKSPACE.to_owned(),
            name: SECRET.to_owned(),
            value: Some(Value::Text(value.to_owned())),
            upstream_origins: vec![origin.to_owned()],
            ..Default::default()
        };
        let put = SecretServiceClient::new(self.vault.clone())
            .put_secret(request)
            .await;
        put.map(drop).map_err(step("put the secret"))
    }

    pub(super) async fn server(&self, url: &str) -> Result<(), DemoError> {
        let server = Server {
            workspace: WORKSPACE.to_owned(),
            name: SERVER.to_owned(),
            url: url.to_owned(),
            inject_secrets: vec![SECRET.to_owned()],
            required_secrets: vec![SECRET.to_owned()],
            description: "shows what it received".to_owned(),
            ..Default::default()
        };
        let mut client = ServerServiceClient::new(self.injector.clone());
        match client
            .add_server(AddServerRequest {
                server: Some(server.clone()),
                ..Default::default()
            })
            .await
        {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(step("add the server")(status)),
        }
        let paths = ["url", "inject_secrets", "required_secrets"]
            .map(str::to_owned)
            .to_vec();
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = UpdateServerRequest {
            server: Some(server),
            update_mask,
        };
        client
            .update_server(request)
            .await
            .map(drop)
            .map_err(step("update the server"))
    }

    /// The administrator who wrote it cannot have it decrypted.
    pub(super) async fn cannot_read(&self) -> Result<(), DemoError> {
        let request = DecryptRequest {
            workspace: WORKSPACE.to_owned(),
            names: vec![SECRET.to_owned()],
            ..Default::default()
        };
        match DecryptServiceClient::new(self.vault.clone())
            .decrypt(request)
            .await
        {
            Err(status) if status.code() == Code::PermissionDenied => Ok(()),
            Err(status) => Err(step("see that the administrator cannot read the secret")(status)),
            Ok(_) => Err(DemoError::Differed(
                "the administrator could read the secret".to_owned(),
            )),
        }
    }
}
