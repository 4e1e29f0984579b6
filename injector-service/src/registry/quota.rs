//! The share of the servers file that one workspace may take, so that no workspace fills the file for the others.

use proto::WorkspaceName;

use super::{
    error::{QuotaError, RegistryError},
    server_map::ServerMap,
    servers_file,
};

/// Limits for the servers that the API adds to one workspace. Only the size of the file limits the servers that an
/// operator writes into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceQuota {
    pub servers: usize,
    /// The size of the workspace's servers, written as a file of their own.
    pub bytes: usize,
}

impl WorkspaceQuota {
    /// Refuses a change from `before` to `after` that takes a workspace beyond its quota, or further beyond it. A
    /// workspace that exceeds its quota may still shrink.
    pub(super) fn check(
        self,
        workspace: &WorkspaceName,
        before: &ServerMap,
        after: &ServerMap,
    ) -> Result<(), RegistryError> {
        let count = |servers: &ServerMap| servers.of_workspace(workspace).count();
        if count(after) > self.servers && count(after) > count(before) {
            return Err(QuotaError::Servers(self.servers).into());
        }
        let bytes = |servers: &ServerMap| {
            servers_file::size(servers.of_workspace(workspace).map(|entry| &entry.server))
        };
        let now = bytes(after)?;
        if now > self.bytes && now > bytes(before)? {
            return Err(QuotaError::Bytes(self.bytes).into());
        }
        Ok(())
    }
}
