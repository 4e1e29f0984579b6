//! The present state of a workspace, as both services answer.

use std::collections::BTreeMap;

use injector_service::description::ServerDescription;
use proto::{
    SecretName, ServerName, WorkspaceName,
    vault::v1::{GetWorkspaceRequest, Workspace, workspace_service_client::WorkspaceServiceClient},
};

use super::{Manifest, PlanName, SecretMetadata};
use crate::{
    connect::Remote,
    failure::{Failure, FailureKind},
    pages,
};

/// A workspace that may not exist, with everything that a document may describe.
#[derive(Debug, Clone, Default)]
pub(crate) struct PresentState {
    pub(crate) workspace: Option<PresentWorkspace>,
    /// Ordered by name, like the servers.
    pub(crate) secrets: Vec<PresentSecret>,
    pub(crate) servers: Vec<PresentServer>,
}

#[derive(Debug, Clone)]
pub(crate) struct PresentWorkspace {
    pub(crate) uid: String,
    pub(crate) revision: u64,
    pub(crate) plan: PlanName,
    pub(crate) kept_versions: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct PresentSecret {
    pub(crate) metadata: SecretMetadata,
    pub(crate) version: u64,
    /// The kept versions, the newest first. Empty until [`PresentState::read_versions`] has read them.
    pub(crate) versions: Vec<u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct PresentServer {
    pub(crate) description: ServerDescription,
    pub(crate) revision: u64,
    /// The uid of the workspace that the server is for; empty for a server that a file names without one.
    pub(crate) workspace_uid: String,
}

impl PresentServer {
    pub(crate) fn name(&self) -> &ServerName {
        self.description.name()
    }
}

impl PresentState {
    /// Reads the state of a workspace from both services.
    pub(crate) async fn read(
        vault: &Remote,
        injector: &Remote,
        name: &WorkspaceName,
    ) -> Result<Self, Failure> {
        let of_vault = async {
            let workspace = workspace(vault, name).await?;
            let secrets = match workspace {
                Some(_) => secrets(vault, name).await?,
                None => Vec::new(),
            };
            Ok::<_, Failure>((workspace, secrets))
        };
        let ((workspace, secrets), servers) = tokio::try_join!(of_vault, servers(injector, name))?;
        Ok(Self {
            workspace,
            secrets,
            servers,
        })
    }

    /// Reads the kept versions of the secrets whose expiry differs from the document's. A change of an expiry makes a new
    /// version, so an old version may be lost.
    pub(crate) async fn read_versions(&mut self, vault: &Remote, manifest: &Manifest) -> Result<(), Failure> {
        let wanted = manifest.secrets.iter().flatten();
        let wanted: BTreeMap<_, _> = wanted.map(|secret| (&secret.name, secret.expires_at)).collect();
        for secret in &mut self.secrets {
            let SecretMetadata { name, expires_at, .. } = &secret.metadata;
            if wanted.get(name).is_some_and(|wanted| wanted != expires_at) {
                secret.versions = versions(vault, &manifest.name, name).await?;
            }
        }
        Ok(())
    }

    /// Returns the document that describes this state, or `None` when the workspace does not exist.
    pub(crate) fn manifest(self, name: WorkspaceName) -> Option<Manifest> {
        let Self {
            workspace,
            secrets,
            servers,
        } = self;
        let PresentWorkspace {
            uid: _,
            revision: _,
            plan,
            kept_versions,
        } = workspace?;
        Some(Manifest {
            name,
            plan: Some(plan),
            kept_versions: Some(kept_versions),
            secrets: Some(secrets.into_iter().map(|secret| secret.metadata).collect()),
            servers: Some(servers.into_iter().map(|server| server.description).collect()),
        })
    }
}

async fn workspace(remote: &Remote, name: &WorkspaceName) -> Result<Option<PresentWorkspace>, Failure> {
    let request = GetWorkspaceRequest {
        name: name.to_string(),
    };
    let mut client = WorkspaceServiceClient::new(remote.channel.clone());
    let workspace = match remote.answer(client.get_workspace(request)).await {
        Ok(answer) => answer.workspace.unwrap_or_default(),
        Err(failure) if failure.kind == FailureKind::NotFound => return Ok(None),
        Err(failure) => return Err(failure),
    };
    // Without its plan, an export would describe another workspace.
    let plan = PlanName::of_wire(workspace.plan()).ok_or_else(|| unknown("workspace", name.as_str()))?;
    let Workspace {
        name: _,
        uid,
        revision,
        create_time: _,
        update_time: _,
        plan: _,
        secret_count: _,
        kept_versions,
    } = workspace;
    Ok(Some(PresentWorkspace {
        uid,
        revision,
        plan,
        kept_versions,
    }))
}

async fn secrets(remote: &Remote, name: &WorkspaceName) -> Result<Vec<PresentSecret>, Failure> {
    let secrets = pages::secrets(remote, name.as_str()).await?;
    let secrets = secrets.into_iter().map(|secret| {
        let (name, version) = (secret.name.clone(), secret.version);
        let metadata = SecretMetadata::of_wire(secret).ok_or_else(|| unknown("secret", &name))?;
        Ok(PresentSecret {
            metadata,
            version,
            versions: Vec::new(),
        })
    });
    secrets.collect()
}

async fn versions(
    remote: &Remote,
    workspace: &WorkspaceName,
    secret: &SecretName,
) -> Result<Vec<u64>, Failure> {
    let versions = pages::versions(remote, workspace.as_str(), secret.as_str()).await?;
    Ok(versions.into_iter().map(|kept| kept.version).collect())
}

async fn servers(remote: &Remote, name: &WorkspaceName) -> Result<Vec<PresentServer>, Failure> {
    let servers = pages::servers(remote, name.as_str()).await?;
    let servers = servers.iter().map(|server| {
        let description = ServerDescription::of_wire(server).map_err(|_| unknown("server", &server.name))?;
        Ok(PresentServer {
            description,
            revision: server.revision,
            workspace_uid: server.workspace_uid.clone(),
        })
    });
    servers.collect()
}

fn unknown(kind: &str, name: &str) -> Failure {
    let message = format!("the {kind} {name} has settings that this release does not know");
    Failure::new(FailureKind::Internal, message).hint("use the release of the services")
}
