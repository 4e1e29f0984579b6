//! From what a file says, and what was known before, to the servers that there are: who a server is outlives the file
//! that describes it anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use proto::Uid;

use super::{
    error::FileError,
    file::Described,
    server::Server,
    servers::{Entry, Servers},
};

/// How many servers differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: usize,
    pub(super) changed: usize,
    pub(super) removed: usize,
}

impl Changes {
    pub(super) fn between(before: &Servers, after: &Servers) -> Self {
        let find = |servers: &Servers, entry: &Entry| {
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

/// The servers of a file that was last modified at `modified`, given those that there were `before`.
pub(super) fn carry(
    described: Vec<Described>,
    before: &Servers,
    modified: Timestamp,
) -> Result<Servers, FileError> {
    let by_uid: BTreeMap<Uid, &Arc<Entry>> = before.iter().map(|entry| (entry.server.uid, entry)).collect();
    let stated: BTreeSet<Uid> = described.iter().filter_map(|described| described.uid).collect();
    let mut uids = BTreeSet::new();
    let mut servers = Servers::default();
    for described in described {
        let line = described.line;
        let named = before.get(described.workspace.as_str(), described.name.as_str());
        // A uid in the file tells best who this is, also under another name.
        let earlier = match described.uid {
            Some(uid) => by_uid.get(&uid).copied(),
            None => named.filter(|named| !stated.contains(&named.server.uid)),
        };
        let entry = match earlier {
            Some(earlier) => continued(described, earlier, modified),
            None => Arc::new(Entry::new(begun(described, modified))),
        };
        // Connections are kept by uid and revision, and never shared by two servers.
        if !uids.insert(entry.server.uid) {
            return Err(FileError::SameUid { line });
        }
        servers.insert(entry);
    }
    Ok(servers)
}

/// A server that was not there before.
fn begun(described: Described, modified: Timestamp) -> Server {
    let Described {
        line: _,
        workspace,
        name,
        uid,
        revision,
        create_time,
        update_time,
        workspace_uid,
        spec,
    } = described;
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

/// A server that was there before. Its revision never goes back, and goes on with every change, whatever the file
/// says: what is kept for a revision must be for what the server was then.
fn continued(described: Described, earlier: &Arc<Entry>, modified: Timestamp) -> Arc<Entry> {
    let Described {
        line: _,
        workspace,
        name,
        uid: _,
        revision,
        create_time,
        update_time,
        workspace_uid,
        spec,
    } = described;
    let was = &earlier.server;
    let moved = workspace != was.workspace || name != was.name;
    let changed = moved || workspace_uid != was.workspace_uid || spec != was.spec;
    let next = if changed {
        was.revision.saturating_add(1)
    } else {
        was.revision
    };
    let server = Server {
        uid: was.uid,
        revision: revision.unwrap_or(0).max(next),
        create_time: create_time.unwrap_or(was.create_time),
        update_time: match update_time {
            Some(time) if !changed || time > was.update_time => time,
            Some(_) => modified,
            None if changed => modified,
            None => was.update_time,
        },
        workspace,
        name,
        workspace_uid,
        spec,
    };
    match server == *was {
        true => earlier.clone(),
        // In another workspace, the vault has not answered for it yet.
        false if server.workspace != was.workspace => Arc::new(Entry::new(server)),
        false => Arc::new(earlier.changed(server)),
    }
}
