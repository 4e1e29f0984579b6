//! Makes the changes of a difference, one call after the other.

use chassis::service_channel::ServiceChannel;
use injector_service::description::ServerDescription;
use jiff::Timestamp;
use prost_types::FieldMask;
use proto::{
    Reason, ServerName, WorkspaceName,
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

use super::text::change_name;
use crate::{
    connect::Remote,
    failure::{Failure, FailureKind},
    manifest::{
        PlanName,
        difference::{PlannedChange, Step},
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

/// Adds to a failure the changes that were made before it and those that were not made. The failed change is among neither when
/// the service may have made it.
fn stopped_at(
    workspace: &WorkspaceName,
    number: usize,
    changes: &[PlannedChange],
    failure: Failure,
) -> Failure {
    let names = |changes: &[PlannedChange]| {
        let names: Vec<_> = changes
            .iter()
            .map(|change| change_name(workspace, &change.step))
            .collect();
        match names.is_empty() {
            true => "nothing".to_owned(),
            false => names.join(", "),
        }
    };
    let (made, rest) = changes.split_at_checked(number).unwrap_or((changes, &[]));
    let (failed, later) = rest.split_at_checked(1).unwrap_or((rest, &[]));
    let (failed_name, message) = (names(failed), &failure.message);
    let made = names(made);
    if !is_outcome_unknown(&failure) {
        let message = format!(
            "{failed_name}: {message}; applied before: {made}; not applied: {}",
            names(rest)
        );
        return Failure { message, ..failure };
    }
    let again = "run the same command again: it compares with the present state, and makes what is missing";
    let hint = match &failure.hint {
        Some(hint) => format!("{hint}; then {again}"),
        None => again.to_owned(),
    };
    let message = format!(
        "{failed_name}: {message}; applied before: {made}; not known whether it was applied: {failed_name}; not applied: {}",
        names(later)
    );
    Failure { message, ..failure }.hint(hint)
}

/// Returns true when the service may have made the change in spite of the failure.
fn is_outcome_unknown(failure: &Failure) -> bool {
    let reasons = [Reason::OutcomeUnknown, Reason::StorageFullOutcomeUnknown];
    matches!(failure.kind, FailureKind::Unavailable | FailureKind::Internal)
        || failure.reason.is_some_and(|reason| reasons.contains(&reason))
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
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn a_change_whose_outcome_is_unknown_is_not_called_unapplied() {
        let workspace = WorkspaceName::parse("w").unwrap();
        let change = |name: &str| PlannedChange {
            step: Step::RemoveServer {
                name: ServerName::parse(name).unwrap(),
                revision: 1,
                is_added_again: false,
            },
            fields: Vec::new(),
        };
        let changes = ["a", "b", "c"].map(change);
        let stopped = |kind, reason| {
            let failure = Failure {
                reason,
                ..Failure::new(kind, "it failed")
            };
            stopped_at(&workspace, 1, &changes, failure)
        };
        let refused = stopped(FailureKind::Refused, Some(Reason::PlanLimitReached));
        assert_eq!(
            refused.message,
            "delete server b: it failed; applied before: delete server a; not applied: delete server b, delete server c"
        );
        for (kind, reason) in [
            (FailureKind::Unavailable, None),
            (FailureKind::Internal, None),
            (FailureKind::Refused, Some(Reason::StorageFullOutcomeUnknown)),
        ] {
            let unknown = stopped(kind, reason);
            assert_eq!(
                unknown.message,
                "delete server b: it failed; applied before: delete server a; not known whether it was applied: delete server \
                 b; not applied: delete server c"
            );
            assert!(unknown.hint.unwrap().contains("run the same command again"));
        }
    }

    #[test]
    fn an_update_replaces_every_setting_of_a_server() {
        let files = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET)
            .unwrap()
            .file;
        let files = files.iter().filter(|file| file.package() == "injector.v1");
        let mut messages = files.flat_map(|file| &file.message_type);
        let server = messages.find(|message| message.name() == "Server").unwrap();
        let decided = [
            "workspace",
            "name",
            "uid",
            "revision",
            "create_time",
            "update_time",
            "workspace_uid",
        ];
        let mut settings: Vec<_> = server.field.iter().map(|field| field.name()).collect();
        settings.retain(|field| !decided.contains(field));
        settings.sort_unstable();
        let secrets = ["inject_secrets", "injections", "required_secrets"];
        let mut masked: Vec<_> = SETTINGS.into_iter().chain(secrets).collect();
        masked.sort_unstable();
        assert_eq!(settings, masked);
    }
}
