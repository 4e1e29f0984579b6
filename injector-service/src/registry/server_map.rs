//! The servers of one state of the registry, by workspace and name.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use chassis::authz::Scope;
use proto::{ServerName, WorkspaceName, page::Page};

use super::{entry::Entry, server::Server};

/// All servers, ordered by workspace and name. Clones share the entries.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerMap(BTreeMap<WorkspaceName, BTreeMap<ServerName, Arc<Entry>>>);

impl ServerMap {
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

    /// Returns a page of the servers in `scope`, and whether more servers follow.
    pub(super) fn page(&self, scope: &Scope, page: &Page) -> (Vec<Arc<Entry>>, bool) {
        let after = page
            .after
            .as_deref()
            .map(|key| key.split_once('/').unwrap_or((key, "")));
        let first = after.map_or(Bound::Unbounded, |(workspace, _)| Bound::Included(workspace));
        let workspaces = self.0.range::<str, _>((first, Bound::Unbounded));
        let mut entries: Vec<_> = workspaces
            .filter(|(workspace, _)| scope.contains(workspace))
            .flat_map(|(_, servers)| servers.values())
            .filter(|entry| {
                // The keys as text would compare otherwise: `/` sorts behind `-`, which names may contain.
                after
                    .is_none_or(|after| (entry.server.workspace.as_str(), entry.server.name.as_str()) > after)
            })
            .take(page.size + 1)
            .cloned()
            .collect();
        let more = entries.len() > page.size;
        entries.truncate(page.size);
        (entries, more)
    }
}

/// Returns the key of a server in pages: `workspace/name`.
pub(crate) fn page_key(server: &Server) -> String {
    format!("{}/{}", server.workspace, server.name)
}
