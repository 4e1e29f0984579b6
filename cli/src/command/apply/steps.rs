//! Makes the changes of a difference, one call after the other.

use chassis::service_channel::ServiceChannel;
use injector_service::description::ServerDescription;
use jiff::Timestamp;
use prost_types::FieldMask;
use proto::{
    ServerName, WorkspaceName,
    injector::v1::{
        self as injector, AddServerRequest, RemoveServerRequest, UpdateServerRequest,
        server_service_client::ServerServiceClient,
    },
    vault::v1::{
        self as vault, CreateWorkspaceRequest, RestoreSecretVersionRequest, UpdateWorkspaceRequest,
        restore_secret_version_request::Expiry, secret_service_client::SecretServiceClient,
        workspace_service_client::WorkspaceServiceClient,
    },
};

use super::stopped::stopped_at;
use crate::{
    connect::Remote,
    failure::Failure,
    manifest::{
        PlanName,
        change::{PlannedChange, Step},
    },
    model::Warning,
};

/// The settings of a server that a short form and a server with places of its own both have, for update masks.
const SETTINGS: [&str; 14] = [
    "url",
    "auth_type",
    "protocol",
    "tls",
    "allow_plaintext",
    "allowed_origins",
    "description",
    "protobuf_secrets_field",
    "protobuf_messages",
    "grpc_methods",
    "paths",
    "oauth",
    "scrub",
    "on_echo",
];

/// The services of one workspace.
pub(super) struct Steps<'a> {
    pub(super) vault: &'a Remote,
    pub(super) injector: &'a Remote,
    pub(super) workspace: &'a WorkspaceName,
}

impl Steps<'_> {
    /// Makes the changes in their order, up to the first failure, which names the changes that were made and those that were
    /// not. Returns the warnings of the services, also with a failure.
    pub(super) async fn make(&self, changes: &[PlannedChange]) -> (Vec<Warning>, Result<(), Failure>) {
        let mut warnings = Vec::new();
        for (number, change) in changes.iter().enumerate() {
            match self.make_one(&change.step).await {
                Ok(further) => warnings.extend(further),
                Err(failure) => {
                    return (
                        warnings,
                        Err(stopped_at(self.workspace, number, changes, failure)),
                    );
                }
            }
        }
        (warnings, Ok(()))
    }

    async fn make_one(&self, step: &Step) -> Result<Vec<Warning>, Failure> {
        match step {
            Step::CreateWorkspace { plan, kept_versions } => self
                .create_workspace(*plan, *kept_versions)
                .await
                .map(|()| Vec::new()),
            Step::UpdateWorkspace {
                revision,
                plan,
                kept_versions,
            } => {
                let updated = self.update_workspace(*revision, *plan, *kept_versions);
                updated.await.map(|()| Vec::new())
            }
            Step::SetExpiry {
                secret,
                version,
                expires_at,
                is_later,
                lost_versions: _,
            } => {
                self.set_expiry(secret.as_str(), *version, *expires_at, *is_later)
                    .await
            }
            Step::AddServer(server) => self.add_server(server).await,
            Step::UpdateServer { server, revision } => self.update_server(server, *revision).await,
            Step::RemoveServer {
                name,
                revision,
                is_added_again: _,
            } => self.remove_server(name, *revision).await.map(|()| Vec::new()),
        }
    }

    async fn create_workspace(
        &self,
        plan: Option<PlanName>,
        kept_versions: Option<u32>,
    ) -> Result<(), Failure> {
        let request = CreateWorkspaceRequest {
            workspace: Some(self.wanted_workspace(0, plan, kept_versions)),
        };
        let mut client = self.workspaces();
        self.vault
            .answer(client.create_workspace(request))
            .await
            .map(drop)
    }

    async fn update_workspace(
        &self,
        revision: u64,
        plan: Option<PlanName>,
        kept_versions: Option<u32>,
    ) -> Result<(), Failure> {
        let paths = [
            plan.map(|_| "plan".to_owned()),
            kept_versions.map(|_| "kept_versions".to_owned()),
        ];
        let request = UpdateWorkspaceRequest {
            workspace: Some(self.wanted_workspace(revision, plan, kept_versions)),
            update_mask: Some(FieldMask {
                paths: paths.into_iter().flatten().collect(),
            }),
        };
        let mut client = self.workspaces();
        self.vault
            .answer(client.update_workspace(request))
            .await
            .map(drop)
    }

    /// Returns the workspace of a request. Without a plan the vault chooses one, and so with the versions.
    fn wanted_workspace(
        &self,
        revision: u64,
        plan: Option<PlanName>,
        kept_versions: Option<u32>,
    ) -> vault::Workspace {
        vault::Workspace {
            name: self.workspace.to_string(),
            revision,
            plan: plan.map_or(vault::Plan::Unspecified, PlanName::to_wire).into(),
            kept_versions: kept_versions.unwrap_or_default(),
            ..Default::default()
        }
    }

    /// Restores the current version of a secret with another expiry. The value and its other metadata stay.
    async fn set_expiry(
        &self,
        name: &str,
        version: u64,
        expires_at: Option<Timestamp>,
        is_later: bool,
    ) -> Result<Vec<Warning>, Failure> {
        let expiry = match expires_at {
            Some(time) => Expiry::ExpiresAt(prost_types::Timestamp {
                seconds: time.as_second(),
                nanos: 0,
            }),
            None => Expiry::NeverExpires(true),
        };
        let request = RestoreSecretVersionRequest {
            workspace: self.workspace.to_string(),
            name: name.to_owned(),
            version,
            expiry: Some(expiry),
            expected_version: Some(version),
            // Without an id: the request is sent once.
            request_id: String::new(),
            allow_wider_origins: false,
            allow_later_expiry: is_later,
        };
        let mut client = SecretServiceClient::new(self.vault.channel.clone());
        let answer = self.vault.answer(client.restore_secret_version(request)).await?;
        Ok(answer.warnings.into_iter().map(Warning::of).collect())
    }

    async fn add_server(&self, server: &ServerDescription) -> Result<Vec<Warning>, Failure> {
        let request = AddServerRequest {
            server: Some(server.to_wire(self.workspace)),
            catalog_entry: String::new(),
        };
        let mut client = self.servers();
        let answer = self.injector.answer(client.add_server(request)).await?;
        Ok(answer.warnings.into_iter().map(Warning::of).collect())
    }

    async fn update_server(
        &self,
        server: &ServerDescription,
        revision: u64,
    ) -> Result<Vec<Warning>, Failure> {
        let server = injector::Server {
            revision,
            ..server.to_wire(self.workspace)
        };
        let request = UpdateServerRequest {
            update_mask: Some(mask_of_all_settings(&server)),
            server: Some(server),
        };
        let mut client = self.servers();
        let answer = self.injector.answer(client.update_server(request)).await?;
        Ok(answer.warnings.into_iter().map(Warning::of).collect())
    }

    async fn remove_server(&self, name: &ServerName, revision: u64) -> Result<(), Failure> {
        let request = RemoveServerRequest {
            workspace: self.workspace.to_string(),
            name: name.to_string(),
            revision,
        };
        let mut client = self.servers();
        self.injector
            .answer(client.remove_server(request))
            .await
            .map(drop)
    }

    fn workspaces(&self) -> WorkspaceServiceClient<ServiceChannel> {
        WorkspaceServiceClient::new(self.vault.channel.clone())
    }

    fn servers(&self) -> ServerServiceClient<ServiceChannel> {
        ServerServiceClient::new(self.injector.channel.clone())
    }
}

/// Returns the mask of an update that replaces every setting of a server. The view of the secrets that follows from the other
/// one is left out.
fn mask_of_all_settings(server: &injector::Server) -> FieldMask {
    let secrets: &[&str] = match server.auth_type() == injector::AuthType::Custom {
        true => &["injections"],
        false => &["inject_secrets", "required_secrets"],
    };
    let paths = SETTINGS.iter().chain(secrets).map(|path| (*path).to_owned());
    FieldMask {
        paths: paths.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::server_settings::settings_of_server;

    #[test]
    fn an_update_replaces_every_setting_of_a_server() {
        let secrets = ["inject_secrets", "injections", "required_secrets"];
        let masked = SETTINGS.into_iter().chain(secrets).map(str::to_owned);
        assert_eq!(masked.collect::<BTreeSet<_>>(), settings_of_server());
    }
}
