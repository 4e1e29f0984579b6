//! The servers that the injector knows.
//!
//! One YAML file holds the servers. The injector reads the file again when it changes, and replaces the file atomically
//! when the API changes a server. Readers never wait, and always see a consistent state of all servers.

pub(crate) mod atomic_file;
mod call_counts;
mod entry;
mod error;
mod file_backed;
mod file_revision;
mod quota;
mod reconcile;
pub(crate) mod server;
mod server_map;
mod servers_file;
#[cfg(test)]
mod tests;
pub(crate) mod yaml;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chassis::{
    authz::{ReadPermit, Scope, WritePermit},
    blocking::blocking,
};
use proto::{ServerName, Uid, page::Page};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, watch},
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::address::OwnListeners;
use file_backed::{FileBackedServers, LastSeen};
use server::Spec;
use server_map::ServerMap;

pub(crate) use call_counts::{CallCounts, EchoPart};
pub(crate) use entry::Entry;
pub use error::FileError;
pub(crate) use error::RegistryError;
pub(crate) use file_revision::FileRevision;
pub(crate) use quota::WorkspaceQuota;
pub(crate) use server_map::page_key;

/// Interval between looks at the file.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A handle on the servers. Clones share them.
#[derive(Clone)]
pub(crate) struct Registry {
    servers: Arc<FileBackedServers>,
    /// Held for each read or write of the file, so that only one runs at a time.
    seen: Arc<Mutex<LastSeen>>,
    quota: WorkspaceQuota,
}

/// A page of servers.
pub(crate) struct ListedServers {
    /// Ordered by workspace and name. The keys of the page are those of [`page_key`].
    pub(crate) entries: Vec<Arc<Entry>>,
    /// True when more servers follow.
    pub(crate) more: bool,
    pub(crate) revision: FileRevision,
}

#[derive(Debug, Clone)]
pub(crate) struct RegistryStatus {
    /// The number of servers in use.
    pub(crate) servers: usize,
    /// The content of the file that the servers come from.
    pub(crate) revision: FileRevision,
    /// The number of contents of the file that were not used, because they were not valid.
    pub(crate) rejections: u64,
    /// The reason why the file is not valid now. The servers are then those of the last valid file.
    pub(crate) problem: Option<Arc<FileError>>,
}

impl Registry {
    /// Reads the file at `path`; a missing file counts as an empty one. `own` holds the addresses of the injector's
    /// listeners, to which no server may point. `quota` limits the servers that the API adds to one workspace.
    pub(crate) async fn open(
        path: PathBuf,
        own: OwnListeners,
        quota: WorkspaceQuota,
    ) -> Result<Self, RegistryError> {
        let (servers, seen) = blocking(move || FileBackedServers::open(path, own)).await?;
        Ok(Self {
            servers: Arc::new(servers),
            seen: Arc::new(Mutex::new(seen)),
            quota,
        })
    }

    /// Logs a warning when no server is in use.
    pub(crate) fn warn_if_empty(&self) {
        self.servers.warn_if_empty();
    }

    /// Returns a server for a call of the data plane, whose caller may call it.
    pub(crate) fn find(&self, workspace: &str, name: &str) -> Option<Arc<Entry>> {
        let current = self.servers.current.load();
        current.servers.get(workspace, name).cloned()
    }

    /// Returns every server, ordered by workspace and name.
    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        self.servers.current.load().servers.iter().cloned().collect()
    }

    /// Returns a receiver that is notified whenever servers are added, changed or removed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.servers.changed.subscribe()
    }

    /// Returns the uids and revisions of all servers. Caches drop their entries of other servers and revisions.
    pub(crate) fn uids_and_revisions(&self) -> HashSet<(Uid, u64)> {
        let current = self.servers.current.load();
        let servers = current.servers.iter();
        servers
            .map(|entry| (entry.server.uid, entry.server.revision))
            .collect()
    }

    pub(crate) fn status(&self) -> RegistryStatus {
        let current = self.servers.current.load();
        RegistryStatus {
            servers: current.servers.len(),
            revision: current.revision.clone(),
            rejections: self.servers.rejections.load(Ordering::Relaxed),
            problem: self.servers.problem.load_full(),
        }
    }

    /// Returns the addresses of the injector's listeners, to which no server may point.
    pub(crate) fn own(&self) -> &OwnListeners {
        &self.servers.own
    }

    pub(crate) fn get(&self, permit: &ReadPermit, name: &ServerName) -> Result<Arc<Entry>, RegistryError> {
        get(&self.servers.current.load().servers, permit, name)
    }

    /// Returns a page of the servers in `scope`.
    pub(crate) fn list(&self, scope: &Scope, page: &Page) -> ListedServers {
        let current = self.servers.current.load();
        let (entries, more) = current.servers.page(scope, page);
        ListedServers {
            entries,
            more,
            revision: current.revision.clone(),
        }
    }

    /// Adds a server, and pins it to the workspace with the uid `workspace_uid`.
    pub(crate) async fn add(
        &self,
        permit: &WritePermit,
        name: &ServerName,
        workspace_uid: Uid,
        spec: Spec,
    ) -> Result<Arc<Entry>, RegistryError> {
        let (permit, name, quota) = (permit.clone(), name.clone(), self.quota);
        self.write(move |servers| {
            let workspace = permit.workspace();
            if get(servers, &permit, &name).is_ok() {
                return Err(RegistryError::ServerExists(workspace.clone(), name.clone()));
            }
            let added = Arc::new(Entry::added(
                workspace.clone(),
                name.clone(),
                workspace_uid,
                spec.clone(),
            ));
            let before = servers.clone();
            servers.insert(added.clone());
            quota.check(workspace, &before, servers)?;
            Ok(added)
        })
        .await
    }

    /// Replaces the settings of a server if its current revision is `revision`.
    pub(crate) async fn update(
        &self,
        permit: &WritePermit,
        name: &ServerName,
        revision: u64,
        spec: Spec,
    ) -> Result<Arc<Entry>, RegistryError> {
        let (permit, name, quota) = (permit.clone(), name.clone(), self.quota);
        self.write(move |servers| {
            let entry = get(servers, &permit, &name)?;
            entry.check_revision(revision)?;
            let before = servers.clone();
            let changed = Arc::new(entry.updated(spec.clone()));
            servers.insert(changed.clone());
            quota.check(permit.workspace(), &before, servers)?;
            Ok(changed)
        })
        .await
    }

    /// Removes a server. The current revision must be `revision`, unless that is 0.
    pub(crate) async fn remove(
        &self,
        permit: &WritePermit,
        name: &ServerName,
        revision: u64,
    ) -> Result<(), RegistryError> {
        let (permit, name) = (permit.clone(), name.clone());
        self.write(move |servers| {
            let entry = get(servers, &permit, &name)?;
            if revision != 0 {
                entry.check_revision(revision)?;
            }
            servers.remove(permit.workspace(), &name);
            Ok(())
        })
        .await
    }

    /// Follows the file until `shutdown`.
    pub(crate) async fn watch(self, shutdown: CancellationToken) {
        let mut ticks = time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            // `refresh` has logged the error and stored it for `status`.
            let _ = self.refresh().await;
        }
    }

    /// Reads the file if it has changed.
    pub(crate) async fn refresh(&self) -> Result<(), RegistryError> {
        let (servers, mut seen) = self.exclusive().await;
        blocking(move || servers.refresh(&mut seen)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl Fn(&mut ServerMap) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let (servers, mut seen) = self.exclusive().await;
        blocking(move || servers.write(&mut seen, change)).await
    }

    /// Returns an owned lock, which moves to the thread that does the work: the work continues when its caller is
    /// cancelled.
    async fn exclusive(&self) -> (Arc<FileBackedServers>, OwnedMutexGuard<LastSeen>) {
        (self.servers.clone(), self.seen.clone().lock_owned().await)
    }
}

fn get(servers: &ServerMap, permit: &ReadPermit, name: &ServerName) -> Result<Arc<Entry>, RegistryError> {
    let workspace = permit.workspace();
    let found = servers.get(workspace.as_str(), name.as_str());
    found
        .cloned()
        .ok_or_else(|| RegistryError::NoServer(workspace.clone(), name.clone()))
}
