//! The servers that the injector knows: one YAML file, read again when it changes, and replaced in one step when the
//! API changes it. Readers never wait, and see the whole of one state.

mod binding;
mod carry;
pub(crate) mod disk;
mod error;
mod file;
mod quota;
mod record;
pub mod server;
mod servers;
mod state;
mod tally;
#[cfg(test)]
mod tests;
mod upstream_tls;
mod upstream_url;
pub(crate) mod words;
pub(crate) mod yaml;

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

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
use server::Spec;
use servers::Servers;
use state::{Seen, State};

pub use binding::BindingError;
pub use error::{EntryError, FileError, RegistryError};
pub use quota::{QuotaError, WorkspaceQuota};
pub use servers::{Entry, key};
pub use tally::{CallOutcome, Tally};

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(1);

/// The servers. Clones are the same registry.
#[derive(Clone)]
pub struct Registry {
    state: Arc<State>,
    /// One at a time looks at the file, or writes it.
    seen: Arc<Mutex<Seen>>,
    quota: WorkspaceQuota,
}

/// How the registry does.
#[derive(Debug, Clone)]
pub struct Status {
    /// How many servers it has.
    pub servers: usize,
    /// Why the file as it is now is not what is served. Until it is valid again, the servers are those of before.
    pub problem: Option<Arc<FileError>>,
}

impl Registry {
    /// Reads the file at `path`; a missing file counts as an empty one. `own` holds our listeners, which no
    /// server may point at; `quota` limits the servers that the API adds for one workspace.
    pub async fn open(
        path: PathBuf,
        own: OwnListeners,
        quota: WorkspaceQuota,
    ) -> Result<Self, RegistryError> {
        let (state, seen) = blocking(move || State::open(path, own)).await?;
        Ok(Self {
            state: Arc::new(state),
            seen: Arc::new(Mutex::new(seen)),
            quota,
        })
    }

    /// The server of this name, for a call.
    pub fn find(&self, workspace: &str, name: &str) -> Option<Arc<Entry>> {
        self.state.servers.load().get(workspace, name).cloned()
    }

    /// Returns every server, ordered by workspace and name.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.state.servers.load().iter().cloned().collect()
    }

    /// Becomes ready whenever servers were added, changed or removed.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.state.changed.subscribe()
    }

    /// The uids and revisions that there are now; what is kept for others may go.
    pub fn current(&self) -> HashSet<(Uid, u64)> {
        let servers = self.state.servers.load();
        servers
            .iter()
            .map(|entry| (entry.server.uid, entry.server.revision))
            .collect()
    }

    /// How it does.
    pub fn status(&self) -> Status {
        Status {
            servers: self.state.servers.load().len(),
            problem: self.state.problem.load_full(),
        }
    }

    /// Our listeners, which no server may point at.
    pub fn own(&self) -> &OwnListeners {
        &self.state.own
    }

    /// Shows a server.
    pub fn get(&self, permit: &ReadPermit, name: &ServerName) -> Result<Arc<Entry>, RegistryError> {
        get(&self.state.servers.load(), permit, name)
    }

    /// A page of the servers in `scope`, ordered by workspace and name, and whether more follow. Keys for the page are
    /// made by [`key`].
    pub fn list(&self, scope: &Scope, page: &Page) -> (Vec<Arc<Entry>>, bool) {
        self.state.servers.load().page(scope, page)
    }

    /// Adds a server, for the workspace with the uid `workspace_uid`.
    pub async fn add(
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
            let added = Arc::new(Entry::begun(
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

    /// Describes a server anew, if its revision is `revision`.
    pub async fn update(
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
            let changed = Arc::new(entry.respecified(spec.clone()));
            servers.insert(changed.clone());
            quota.check(permit.workspace(), &before, servers)?;
            Ok(changed)
        })
        .await
    }

    /// Removes a server. A `revision` other than 0 must be the current one.
    pub async fn remove(
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

    /// Reads the file again whenever it has changed, until `shutdown`.
    pub async fn watch(self, shutdown: CancellationToken) {
        let mut ticks = time::interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            // What is wrong with it has been logged, and is in the status.
            let _ = self.refresh().await;
        }
    }

    /// Takes over what the file says, when it says something else than before.
    pub(crate) async fn refresh(&self) -> Result<(), RegistryError> {
        let (state, mut seen) = self.exclusive().await;
        blocking(move || state.refresh(&mut seen)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl Fn(&mut Servers) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let (state, mut seen) = self.exclusive().await;
        blocking(move || state.write(&mut seen, change)).await
    }

    /// The lock goes along to the thread that does the work, so that it holds when the caller has gone away.
    async fn exclusive(&self) -> (Arc<State>, OwnedMutexGuard<Seen>) {
        (self.state.clone(), self.seen.clone().lock_owned().await)
    }
}

fn get(servers: &Servers, permit: &ReadPermit, name: &ServerName) -> Result<Arc<Entry>, RegistryError> {
    let workspace = permit.workspace();
    let found = servers.get(workspace.as_str(), name.as_str());
    found
        .cloned()
        .ok_or_else(|| RegistryError::NoServer(workspace.clone(), name.clone()))
}
