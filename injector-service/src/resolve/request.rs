//! Requests to the vault.

use std::sync::Arc;

use proto::{CallId, WorkspaceName, vault::v1::DecryptRequest};

use crate::registry::Entry;

/// A request to the vault. It becomes a message each time that it is sent, so that a retried request has the workspace's
/// present uid.
pub(super) enum VaultRequest {
    Secrets {
        entry: Arc<Entry>,
        /// The secrets in the order of the answer.
        names: Vec<String>,
        /// The call that gets the values. Without a call, the vault answers with statuses and versions alone.
        call_id: Option<CallId>,
    },
    /// The uid of a workspace, if the workspace exists.
    Workspace(WorkspaceName),
}

impl VaultRequest {
    pub(super) fn message(&self) -> DecryptRequest {
        match self {
            Self::Secrets {
                entry,
                names,
                call_id,
            } => DecryptRequest {
                workspace: entry.server.workspace.to_string(),
                workspace_uid: entry
                    .workspace_uid()
                    .map(|uid| uid.to_string())
                    .unwrap_or_default(),
                server: entry.server.name.to_string(),
                names: names.clone(),
                check_only: call_id.is_none(),
                call_id: call_id.as_ref().map(ToString::to_string).unwrap_or_default(),
                ..Default::default()
            },
            Self::Workspace(workspace) => DecryptRequest {
                workspace: workspace.to_string(),
                check_only: true,
                ..Default::default()
            },
        }
    }

    /// Returns the name of the server in the message, or an empty text when the request is about no server.
    pub(super) fn server(&self) -> &str {
        match self {
            Self::Secrets { entry, .. } => entry.server.name.as_str(),
            Self::Workspace(_) => "",
        }
    }
}
