//! The vault's RPCs: parse, permit, call, answer.

mod audited;
mod backup;
mod conversation;
mod decrypt;
mod keys;
mod listing;
mod quota;
mod sealing;
mod secrets;
mod stream_audit;
mod subject;
mod value_warnings;
mod workspaces;

use proto::{Refusal, WorkspaceName};

pub(crate) use audited::Audit;
pub(crate) use backup::Backups;
pub(crate) use decrypt::Decrypting;
pub(crate) use keys::Keys;
pub(crate) use listing::Listing;
pub(crate) use quota::Quotas;
pub(crate) use secrets::Secrets;
pub(crate) use workspaces::Workspaces;

use crate::status;

/// Truncates the server name of a decrypt to the maximum length of a name. The text is only informational.
fn server_text(text: &str) -> String {
    text.chars().take(63).collect()
}

fn workspace_name(text: &str) -> Result<WorkspaceName, Refusal> {
    WorkspaceName::parse(text).map_err(status::workspace_name)
}
