//! The share of the servers file that one workspace may take, so that no workspace fills the file for the others.

use proto::WorkspaceName;

use super::{error::RegistryError, file, servers::Servers};

/// Limits for the servers that the API adds for one workspace. Only the size of the file limits the servers that an
/// operator writes into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceQuota {
    /// The number of servers.
    pub servers: usize,
    /// The number of bytes that the workspace's servers take, written as a file of their own.
    pub bytes: usize,
}

/// The quota that a change would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// The workspace would have too many servers.
    #[error("the workspace has {0} servers, and no workspace may have more; remove one first")]
    Servers(usize),
    /// The workspace's servers would take too many bytes.
    #[error(
        "the servers of the workspace would take more than {0} bytes of the servers file; remove servers, or shorten what \
         they have in tls.ca_pem, allowed_origins and description"
    )]
    Bytes(usize),
}

impl WorkspaceQuota {
    /// Refuses a change from `before` to `after` that takes a workspace beyond its quota, or further beyond it. A
    /// workspace that exceeds its quota may still shrink.
    pub(super) fn check(
        self,
        workspace: &WorkspaceName,
        before: &Servers,
        after: &Servers,
    ) -> Result<(), RegistryError> {
        let count = |servers: &Servers| servers.of_workspace(workspace).count();
        if count(after) > self.servers && count(after) > count(before) {
            return Err(QuotaError::Servers(self.servers).into());
        }
        let bytes =
            |servers: &Servers| file::size(servers.of_workspace(workspace).map(|entry| &entry.server));
        let now = bytes(after)?;
        if now > self.bytes && now > bytes(before)? {
            return Err(QuotaError::Bytes(self.bytes).into());
        }
        Ok(())
    }
}
