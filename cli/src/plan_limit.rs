//! The number of secrets that the plan of a workspace allows.

use proto::vault::v1::{Plan, Workspace};

/// Returns the number of secrets that a plan allows, and `None` for any number.
pub(crate) fn secret_limit(plan: Plan) -> Option<u64> {
    match plan {
        Plan::Free => Some(10),
        Plan::Starter => Some(50),
        Plan::Pro => Some(200),
        Plan::Business => Some(1000),
        Plan::Enterprise | Plan::Unspecified => None,
    }
}

/// Returns the number of new secrets that a workspace still takes, and `None` for any number.
pub(crate) fn secret_room(workspace: &Workspace) -> Option<u64> {
    secret_limit(workspace.plan()).map(|limit| limit.saturating_sub(workspace.secret_count))
}
