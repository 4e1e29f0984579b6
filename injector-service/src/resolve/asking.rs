//! What the vault is asked.

use std::sync::Arc;

use proto::{CallId, SecretName, WorkspaceName, vault::v1::DecryptRequest};

use crate::registry::Entry;

/// A question, put into words when it is sent, and again when it has to be sent again.
pub(super) enum Asking {
    /// For what a server gets.
    Secrets {
        entry: Arc<Entry>,
        /// The call that gets the values. Without a call, the vault answers with statuses and versions alone.
        call_id: Option<CallId>,
    },
    /// Whether a workspace exists.
    Workspace(WorkspaceName),
}

impl Asking {
    pub(super) fn request(&self) -> DecryptRequest {
        match self {
            Self::Secrets { entry, call_id } => DecryptRequest {
                workspace: entry.server.workspace.to_string(),
                workspace_uid: entry
                    .workspace_uid()
                    .map(|uid| uid.to_string())
                    .unwrap_or_default(),
                server: entry.server.name.to_string(),
                names: names(entry).map(ToString::to_string).collect(),
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

    /// The server that the answer is for; empty when it is for none.
    pub(super) fn server(&self) -> &str {
        match self {
            Self::Secrets { entry, .. } => entry.server.name.as_str(),
            Self::Workspace(_) => "",
        }
    }
}

/// The secrets that a server gets, in their order.
pub(super) fn names(entry: &Entry) -> impl Iterator<Item = &SecretName> {
    entry
        .server
        .spec
        .injections
        .iter()
        .map(|injection| &injection.secret)
}
