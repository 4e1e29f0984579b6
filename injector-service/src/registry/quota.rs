//! How much of the servers file one workspace may take, so that no workspace fills it for the others.

use proto::WorkspaceName;

use super::{error::RegistryError, file, servers::Servers};

/// The most that the API puts into the file for one workspace. What an operator writes there is only bounded by the size of
/// the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceQuota {
    /// Servers.
    pub servers: usize,
    /// Bytes of its servers, written as a file of their own.
    pub bytes: usize,
}

/// Which quota a change would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// One server too many.
    #[error("the workspace has {0} servers, and no workspace may have more; remove one first")]
    Servers(usize),
    /// Too much text.
    #[error(
        "the servers of the workspace would take more than {0} bytes of the servers file; remove servers, or shorten what \
         they have in tls.ca_pem, allowed_origins and description"
    )]
    Bytes(usize),
}

impl WorkspaceQuota {
    /// Refuses a change from `before` to `after` by which a workspace takes more than it may. A workspace that takes more
    /// already may still take less.
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
