//! A server in the registry, with the state that outlives its revisions.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use proto::{ServerName, Uid, WorkspaceName, injector::v1 as api};

use super::{
    call_counts::CallCounts,
    error::RegistryError,
    server::{Server, Spec},
};

/// One revision of a server. All revisions share the pinned workspace and the counts of calls.
#[derive(Debug)]
pub(crate) struct Entry {
    pub server: Server,
    shared: Arc<SharedState>,
}

#[derive(Debug, Default)]
struct SharedState {
    /// The workspace of the vault's first answer.
    pinned: OnceLock<Uid>,
    call_counts: CallCounts,
}

impl Entry {
    /// Returns the first revision of a server that is added now.
    pub(crate) fn added(workspace: WorkspaceName, name: ServerName, workspace_uid: Uid, spec: Spec) -> Self {
        let now = Timestamp::now();
        Self::new(Server {
            workspace,
            name,
            uid: Uid::generate(),
            revision: 1,
            create_time: now,
            update_time: now,
            workspace_uid: Some(workspace_uid),
            spec,
        })
    }

    /// Returns a server without a pinned workspace and without counted calls.
    pub(super) fn new(server: Server) -> Self {
        Self {
            server,
            shared: Arc::default(),
        }
    }

    /// Returns the workspace that every decrypt for this server names: the one for which the server was added, or else
    /// the pinned one.
    pub(crate) fn workspace_uid(&self) -> Option<Uid> {
        self.server
            .workspace_uid
            .or_else(|| self.shared.pinned.get().copied())
    }

    /// Pins the workspace of a vault's answer, and returns the pinned one. The caller must refuse the answer when the two
    /// differ.
    pub(crate) fn pin(&self, answered: Uid) -> Uid {
        self.server
            .workspace_uid
            .unwrap_or_else(|| *self.shared.pinned.get_or_init(|| answered))
    }

    pub(crate) fn call_counts(&self) -> &CallCounts {
        &self.shared.call_counts
    }

    pub(crate) fn check_revision(&self, given: u64) -> Result<(), RegistryError> {
        if given == self.server.revision {
            Ok(())
        } else {
            Err(RegistryError::RevisionMismatch)
        }
    }

    /// Returns the next revision, with other settings.
    pub(crate) fn updated(&self, spec: Spec) -> Self {
        let server = Server {
            revision: self.server.revision.saturating_add(1),
            update_time: Timestamp::now(),
            spec,
            ..self.server.clone()
        };
        self.changed(server)
    }

    /// Returns another revision, which `server` describes.
    pub(super) fn changed(&self, server: Server) -> Self {
        Self {
            server,
            shared: self.shared.clone(),
        }
    }

    /// Returns the server as the API shows it, with the workspace that it is pinned to.
    pub(crate) fn to_wire(&self) -> api::Server {
        let workspace_uid = self.workspace_uid().map(|uid| uid.to_string());
        api::Server {
            workspace_uid: workspace_uid.unwrap_or_default(),
            ..self.server.to_wire()
        }
    }
}
