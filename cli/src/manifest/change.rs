//! The changes that make a workspace as a document says.

use injector_service::description::ServerDescription;
use jiff::Timestamp;
use proto::{SecretName, ServerName};
use serde::Serialize;
use serde_json::Value;

use super::{PlanName, SecretMetadata};

/// All differences.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Difference {
    /// In the order in which they must be made: servers after the workspace, and removals before additions, because a plan or a
    /// quota may have no room for both.
    pub(crate) changes: Vec<PlannedChange>,
    /// Secrets of the document that the workspace does not have.
    pub(crate) missing_secrets: Vec<SecretMetadata>,
    /// Differences of secrets that no step removes.
    pub(crate) unchangeable: Vec<Unchangeable>,
    /// Servers that the document does not have, and that stay.
    pub(crate) kept_servers: Vec<ServerName>,
    /// Secrets that the document does not have. No step deletes a secret.
    pub(crate) other_secrets: Vec<SecretName>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct PlannedChange {
    pub(crate) step: Step,
    pub(crate) fields: Vec<FieldChange>,
}

/// One call that changes something. A revision or version is the one that was read.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    CreateWorkspace {
        plan: Option<PlanName>,
        kept_versions: Option<u32>,
    },
    UpdateWorkspace {
        revision: u64,
        plan: Option<PlanName>,
        kept_versions: Option<u32>,
    },
    SetExpiry {
        secret: SecretName,
        version: u64,
        /// `None` for never.
        expires_at: Option<Timestamp>,
        is_later: bool,
        /// The old versions that the new version displaces.
        lost_versions: Vec<u64>,
    },
    AddServer(ServerDescription),
    UpdateServer {
        server: ServerDescription,
        revision: u64,
    },
    RemoveServer {
        name: ServerName,
        revision: u64,
        /// True when the server is for a deleted workspace, and is added again for the present one.
        is_added_again: bool,
    },
}

impl Step {
    /// Returns true for a change that the injector checks against the secrets, and may refuse, when it is made.
    pub(crate) fn is_checked_by_injector(&self) -> bool {
        match self {
            Self::AddServer(_) | Self::UpdateServer { .. } => true,
            Self::CreateWorkspace { .. }
            | Self::UpdateWorkspace { .. }
            | Self::SetExpiry { .. }
            | Self::RemoveServer { .. } => false,
        }
    }
}

/// A field that differs. `None` is a field that is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FieldChange {
    pub(crate) field: String,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Unchangeable {
    pub(crate) secret: String,
    #[serde(flatten)]
    pub(crate) field: FieldChange,
    pub(crate) reason: UnchangeableReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnchangeableReason {
    /// Only a put of the value changes the field.
    NeedsValue,
    /// Only an administrator may let the value expire later, and the user did not ask for it.
    LaterExpiry,
    /// The document's time is in the past.
    PastExpiry,
}

impl Difference {
    /// Returns true when the workspace is as the document says. What the document does not have is no difference.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.missing_secrets.is_empty() && self.unchangeable.is_empty()
    }

    /// Returns what the steps destroy, such as `server github`. A server that is added again is not destroyed.
    pub(crate) fn losses(&self) -> Vec<String> {
        let losses = self.changes.iter().filter_map(|change| match &change.step {
            Step::RemoveServer {
                name,
                is_added_again: false,
                ..
            } => Some(format!("server {name}")),
            Step::SetExpiry {
                secret,
                lost_versions,
                ..
            } if !lost_versions.is_empty() => {
                let versions: Vec<_> = lost_versions.iter().map(ToString::to_string).collect();
                Some(format!(
                    "secret {secret} version {}",
                    versions.join(" and version ")
                ))
            }
            Step::RemoveServer { .. }
            | Step::SetExpiry { .. }
            | Step::CreateWorkspace { .. }
            | Step::UpdateWorkspace { .. }
            | Step::AddServer(_)
            | Step::UpdateServer { .. } => None,
        });
        losses.collect()
    }
}
