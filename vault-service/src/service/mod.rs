//! The vault's RPCs: parse, permit, call, answer.

mod backup;
mod conversation;
mod decrypt;
mod keys;
mod quota;
mod sealing;
mod secrets;
mod workspaces;

use proto::{Refusal, WorkspaceName};

pub(crate) use backup::Backups;
pub(crate) use decrypt::Decrypting;
pub(crate) use keys::Keys;
pub(crate) use quota::Quotas;
pub(crate) use secrets::Secrets;
pub(crate) use workspaces::Workspaces;

use crate::status;

fn workspace_name(text: &str) -> Result<WorkspaceName, Refusal> {
    WorkspaceName::parse(text).map_err(status::workspace_name)
}
