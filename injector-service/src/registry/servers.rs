//! Servers by workspace and name.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, OnceLock},
};

use chassis::authz::Scope;
use jiff::Timestamp;
use proto::{ServerName, Uid, WorkspaceName, page::Page};

use super::{
    error::RegistryError,
    server::{Injection, Server, Spec},
    tally::Tally,
};
use crate::placement::AuthType;

/// A server, and which workspace it turned out to be for.
#[derive(Debug)]
pub struct Entry {
    /// The server.
    pub server: Server,
    /// The state that all revisions of this server share, so that a change keeps the pinned workspace.
    shared: Arc<Shared>,
}

/// State that all revisions of a server have in common.
#[derive(Debug, Default)]
struct Shared {
    /// The workspace that the vault first answered with.
    pinned: OnceLock<Uid>,
    /// The counts of the server's calls.
    tally: Tally,
}

impl Entry {
    /// A server that is added now.
    pub fn begun(workspace: WorkspaceName, name: ServerName, workspace_uid: Uid, spec: Spec) -> Self {
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

    /// A server for which the vault has not answered yet.
    pub fn new(server: Server) -> Self {
        Self {
            server,
            shared: Arc::default(),
        }
    }

    /// The workspace that every decrypt for this server names: the one it was added for, or else the first that the
    /// vault answered with.
    pub fn workspace_uid(&self) -> Option<Uid> {
        self.server
            .workspace_uid
            .or_else(|| self.shared.pinned.get().copied())
    }

    /// Pins the workspace that the vault answered with. Returns the one that is pinned: another, when another was
    /// before.
    pub fn pin(&self, answered: Uid) -> Uid {
        self.server
            .workspace_uid
            .unwrap_or_else(|| *self.shared.pinned.get_or_init(|| answered))
    }

    /// This server as the vault is asked for its client certificate: with that as its only secret, which is required.
    /// None without one.
    pub fn for_client_certificate(&self) -> Option<Self> {
        let secret = self.server.spec.tls.client_cert_secret.clone()?;
        let injection = Injection {
            // A secret has a place; nothing is put into this one.
            placement: AuthType::SecretHeaders.place(&secret),
            required: true,
            secret,
        };
        let spec = Spec {
            injections: vec![injection],
            ..self.server.spec.clone()
        };
        Some(self.changed(Server {
            spec,
            ..self.server.clone()
        }))
    }

    /// Returns the counts of the calls to this server.
    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Refuses a revision that is not this one's.
    pub fn check_revision(&self, given: u64) -> Result<(), RegistryError> {
        if given == self.server.revision {
            Ok(())
        } else {
            Err(RegistryError::RevisionMismatch)
        }
    }

    /// The same server, changed.
    pub(super) fn changed(&self, server: Server) -> Self {
        Self {
            server,
            shared: self.shared.clone(),
        }
    }

    /// The same server with another description, in the next revision.
    pub fn respecified(&self, spec: Spec) -> Self {
        let server = Server {
            revision: self.server.revision.saturating_add(1),
            update_time: Timestamp::now(),
            spec,
            ..self.server.clone()
        };
        self.changed(server)
    }
}

/// All servers. A copy shares the entries.
#[derive(Debug, Clone, Default)]
pub(super) struct Servers(BTreeMap<WorkspaceName, BTreeMap<ServerName, Arc<Entry>>>);

impl Servers {
    pub(super) fn get(&self, workspace: &str, name: &str) -> Option<&Arc<Entry>> {
        self.0.get(workspace)?.get(name)
    }

    pub(super) fn insert(&mut self, entry: Arc<Entry>) {
        let Server { workspace, name, .. } = &entry.server;
        self.0
            .entry(workspace.clone())
            .or_default()
            .insert(name.clone(), entry);
    }

    pub(super) fn remove(&mut self, workspace: &WorkspaceName, name: &ServerName) {
        if let Some(servers) = self.0.get_mut(workspace) {
            servers.remove(name);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> + Clone {
        self.0.values().flat_map(BTreeMap::values)
    }

    pub(super) fn of_workspace(&self, workspace: &WorkspaceName) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.get(workspace).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// A page of the servers in `scope`, ordered by workspace and name, and whether more follow.
    pub(super) fn page(&self, scope: &Scope, page: &Page) -> (Vec<Arc<Entry>>, bool) {
        let after = page
            .after
            .as_deref()
            .map(|key| key.split_once('/').unwrap_or((key, "")));
        let first = after.map_or(Bound::Unbounded, |(workspace, _)| Bound::Included(workspace));
        let workspaces = self.0.range::<str, _>((first, Bound::Unbounded));
        let mut found: Vec<_> = workspaces
            .filter(|(workspace, _)| scope.contains(workspace))
            .flat_map(|(_, servers)| servers.values())
            .filter(|entry| {
                // Not the keys as they are: `/` sorts behind `-`, which names may have.
                after
                    .is_none_or(|after| (entry.server.workspace.as_str(), entry.server.name.as_str()) > after)
            })
            .take(page.size + 1)
            .cloned()
            .collect();
        let more = found.len() > page.size;
        found.truncate(page.size);
        (found, more)
    }
}

/// What a server is called in lists of all workspaces.
pub fn key(server: &Server) -> String {
    format!("{}/{}", server.workspace, server.name)
}
