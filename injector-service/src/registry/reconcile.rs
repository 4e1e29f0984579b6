//! Merges the entries of a file with the servers that were known before, so that a server keeps its identity when the
//! file is read again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use proto::Uid;

use super::{entry::Entry, error::FileError, server::Server, server_map::ServerMap, servers_file::FileEntry};

/// The numbers of servers that differ between two states of the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: usize,
    pub(super) changed: usize,
    pub(super) removed: usize,
}

impl Changes {
    pub(super) fn between(before: &ServerMap, after: &ServerMap) -> Self {
        let find = |servers: &ServerMap, entry: &Entry| {
            servers
                .get(entry.server.workspace.as_str(), entry.server.name.as_str())
                .cloned()
        };
        let mut changes = Self::default();
        for entry in after.iter() {
            match find(before, entry) {
                None => changes.added += 1,
                Some(other) if other.server != entry.server => changes.changed += 1,
                Some(_) => {}
            }
        }
        changes.removed = before.iter().filter(|entry| find(after, entry).is_none()).count();
        changes
    }
}

/// Returns the servers of a file that was last modified at `modified`, given the servers `before`.
///
/// An entry continues the earlier server with its uid, also under another name. An entry without a uid continues the
/// earlier server with its name, unless another entry states the uid of that server.
pub(super) fn reconcile(
    entries: Vec<FileEntry>,
    before: &ServerMap,
    modified: Timestamp,
) -> Result<ServerMap, FileError> {
    let by_uid: BTreeMap<Uid, &Arc<Entry>> = before.iter().map(|entry| (entry.server.uid, entry)).collect();
    let stated: BTreeSet<Uid> = entries.iter().filter_map(|entry| entry.uid).collect();
    let mut uids = BTreeSet::new();
    let mut servers = ServerMap::default();
    for entry in entries {
        let line = entry.line;
        let namesake = before.get(entry.workspace.as_str(), entry.name.as_str());
        let earlier = match entry.uid {
            Some(uid) => by_uid.get(&uid).copied(),
            None => namesake.filter(|namesake| !stated.contains(&namesake.server.uid)),
        };
        let entry = match earlier {
            Some(earlier) => continued(entry, earlier, modified),
            None => Arc::new(Entry::new(added(entry, modified))),
        };
        // Upstream connections are pooled by uid and revision, and two servers must not share any.
        if !uids.insert(entry.server.uid) {
            return Err(FileError::SameUid { line });
        }
        servers.insert(entry);
    }
    Ok(servers)
}

/// Returns the server of an entry that continues no earlier server.
fn added(entry: FileEntry, modified: Timestamp) -> Server {
    let FileEntry {
        line: _,
        workspace,
        name,
        uid,
        revision,
        create_time,
        update_time,
        workspace_uid,
        spec,
    } = entry;
    let create_time = create_time.unwrap_or(modified);
    Server {
        workspace,
        name,
        uid: uid.unwrap_or_else(Uid::generate),
        revision: revision.unwrap_or(1),
        create_time,
        update_time: update_time.unwrap_or(modified).max(create_time),
        workspace_uid,
        spec,
    }
}

/// Returns the server of an entry that continues `earlier`. The revision increases with every change and never goes
/// back, whatever the file says, because caches are keyed by the revision.
fn continued(entry: FileEntry, earlier: &Arc<Entry>, modified: Timestamp) -> Arc<Entry> {
    let FileEntry {
        line: _,
        workspace,
        name,
        uid: _,
        revision,
        create_time,
        update_time,
        workspace_uid,
        spec,
    } = entry;
    let before = &earlier.server;
    let is_renamed = workspace != before.workspace || name != before.name;
    let is_changed = is_renamed || workspace_uid != before.workspace_uid || spec != before.spec;
    let least_revision = if is_changed {
        before.revision.saturating_add(1)
    } else {
        before.revision
    };
    let server = Server {
        uid: before.uid,
        revision: revision.unwrap_or(0).max(least_revision),
        create_time: create_time.unwrap_or(before.create_time),
        update_time: match update_time {
            Some(time) if !is_changed || time > before.update_time => time,
            Some(_) => modified,
            None if is_changed => modified,
            None => before.update_time,
        },
        workspace,
        name,
        workspace_uid,
        spec,
    };
    if server == *before {
        earlier.clone()
    } else if server.workspace != before.workspace {
        // The vault has not answered yet for this server in its new workspace.
        Arc::new(Entry::new(server))
    } else {
        Arc::new(earlier.changed(server))
    }
}
