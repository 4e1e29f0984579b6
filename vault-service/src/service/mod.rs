//! The RPCs of the vault. A handler parses its request, takes a permit, calls the vault, and converts the answer.

mod audit_layer;
mod backup;
mod decrypt;
mod keys;
mod list_quota;
mod quota;
mod secrets;
mod subject;
mod value_warnings;
mod workspaces;

use proto::{Refusal, WorkspaceName};

pub(crate) use audit_layer::AuditLayer;
pub(crate) use backup::BackupRpcs;
pub(crate) use decrypt::DecryptRpcs;
pub(crate) use keys::KeyRpcs;
pub(crate) use list_quota::ListQuota;
pub(crate) use quota::Quotas;
pub(crate) use secrets::SecretRpcs;
pub(crate) use workspaces::WorkspaceRpcs;

use crate::status;

fn workspace_name(text: &str) -> Result<WorkspaceName, Refusal> {
    WorkspaceName::parse(text).map_err(status::workspace_name)
}
