//! The workspace, the secret and the server of the demo, and the administrator's client that makes them.

use chassis::{service_channel::ServiceChannel, telemetry::chain};
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
use tonic::Code;

use crate::{
    connect::Connection,
    failure::{Failure, FailureKind},
};

pub(super) const WORKSPACE: &str = "demo";
pub(super) const SERVER: &str = "echo";
pub(super) const SECRET: &str = "DEMO_TOKEN";

#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("{step}: {cause}")]
    Step { step: &'static str, cause: String },
    #[error("{0} is not the URL of a server, such as https://example.com")]
    Url(String),
    /// A service or the upstream did not answer as promised.
    #[error("{0}")]
    Unexpected(String),
}

impl DemoError {
    /// Returns the kind of the failure, which has the exit code.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Url(_) => FailureKind::Usage,
            Self::Step { .. } | Self::Unexpected(_) => FailureKind::Internal,
        }
    }
}

/// Returns a function that names the failed step of an error.
pub(super) fn step<E: std::error::Error + 'static>(step: &'static str) -> impl FnOnce(E) -> DemoError {
    move |error| DemoError::Step {
        step,
        cause: chain(&error),
    }
}

/// Returns a new random value for the demo's secret.
pub(super) fn new_value() -> String {
    format!("demo-{}", proto::Uid::generate())
}

pub(super) struct DemoAdmin {
    vault: ServiceChannel,
    injector: ServiceChannel,
}

impl DemoAdmin {
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

    pub(super) async fn ensure_workspace(&self) -> Result<(), DemoError> {
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

    /// Adds the server, or changes the URL and the secrets of an existing one.
    pub(super) async fn ensure_server(&self, url: &str) -> Result<(), DemoError> {
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

    /// Checks that the vault does not decrypt the secret for the administrator who wrote it.
    pub(super) async fn check_that_decrypt_is_refused(&self) -> Result<(), DemoError> {
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
            Ok(_) => Err(DemoError::Unexpected(
                "the administrator could read the secret".to_owned(),
            )),
        }
    }
}
