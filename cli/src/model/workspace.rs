//! A workspace, as `--output json` prints it.

use proto::vault::v1::Workspace as ApiWorkspace;
use serde::Serialize;

use super::enum_name::enum_name;
use crate::output::{date, time};

#[derive(Debug, Serialize)]
pub(crate) struct Workspace {
    name: String,
    uid: String,
    revision: u64,
    create_time: String,
    update_time: String,
    plan: String,
    secret_count: u64,
    pub kept_versions: u32,
}

impl Workspace {
    pub(crate) fn of(workspace: ApiWorkspace) -> Self {
        let plan = enum_name(workspace.plan().as_str_name(), "PLAN_");
        let ApiWorkspace {
            name,
            uid,
            revision,
            create_time,
            update_time,
            plan: _,
            secret_count,
            kept_versions,
        } = workspace;
        Self {
            name,
            uid,
            revision,
            create_time: time(create_time),
            update_time: time(update_time),
            plan,
            secret_count,
            kept_versions,
        }
    }

    /// Returns a row of a table: name, plan, secrets, created.
    pub(crate) fn row(&self) -> [String; 4] {
        let Self {
            name,
            plan,
            secret_count,
            create_time,
            ..
        } = self;
        let created = date(create_time);
        [name.clone(), plan.clone(), secret_count.to_string(), created]
    }
}
