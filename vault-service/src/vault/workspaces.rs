//! Workspaces: made, shown, changed, deleted.

use std::time::SystemTime;

use prost_types::Timestamp;
use proto::{Uid, WorkspaceName, page::Page, serve::authz::Scope};

use super::{
    VaultError, Writer, blocking,
    stored::{self, Kind, WorkspaceRecord},
};
use crate::{
    authz::AdminPermit,
    store::{Batch, CommitError, Store},
};

/// Entries of a deleted workspace that are removed at once.
const SWEEP: usize = 512;

/// How many secrets a workspace may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// 10.
    Free,
    /// 50.
    Starter,
    /// 200.
    Pro,
    /// 1,000.
    Business,
    /// Any number.
    Enterprise,
}

impl Plan {
    const ALL: [Self; 5] = [
        Self::Free,
        Self::Starter,
        Self::Pro,
        Self::Business,
        Self::Enterprise,
    ];

    /// The most secrets, if there is a limit.
    pub fn limit(self) -> Option<u64> {
        match self {
            Self::Free => Some(10),
            Self::Starter => Some(50),
            Self::Pro => Some(200),
            Self::Business => Some(1000),
            Self::Enterprise => None,
        }
    }

    /// The number that stands for it in the store; never changes.
    fn stored(self) -> u32 {
        match self {
            Self::Free => 1,
            Self::Starter => 2,
            Self::Pro => 3,
            Self::Business => 4,
            Self::Enterprise => 5,
        }
    }
}

/// A workspace as it is shown.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Its name.
    pub name: WorkspaceName,
    /// Tells it from others of its name.
    pub uid: Uid,
    /// Changes with every change.
    pub revision: u64,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
    /// What it may hold.
    pub plan: Plan,
    /// What it holds.
    pub secret_count: u64,
}

/// A workspace as it stands in the store, and its bytes there, for compare-and-set.
pub(super) struct Found {
    pub(super) name: WorkspaceName,
    pub(super) uid: Uid,
    pub(super) plan: Plan,
    pub(super) record: WorkspaceRecord,
    pub(super) bytes: Vec<u8>,
}

impl Found {
    pub(super) fn decode(name: WorkspaceName, bytes: Vec<u8>) -> Result<Self, VaultError> {
        let record: WorkspaceRecord = stored::decode(&bytes)?;
        let uid = stored::uid(&record.uid).ok_or(VaultError::Corrupt(None))?;
        let plan = Plan::ALL.into_iter().find(|plan| plan.stored() == record.plan);
        let plan = plan.ok_or(VaultError::Corrupt(None))?;
        Ok(Self {
            name,
            uid,
            plan,
            record,
            bytes,
        })
    }

    /// The workspace must still be what it was when it was read.
    pub(super) fn unchanged(&self, batch: Batch) -> Batch {
        batch.expect_value(stored::workspace(&self.name), self.bytes.clone())
    }

    fn check_revision(&self, given: u64) -> Result<(), VaultError> {
        if given == 0 || given == self.record.revision {
            Ok(())
        } else {
            Err(VaultError::RevisionMismatch)
        }
    }

    fn shown(self, store: &Store) -> Result<Workspace, VaultError> {
        let secret_count = read_count(store, &self.uid)?;
        let Self {
            name,
            uid,
            plan,
            record,
            bytes: _,
        } = self;
        let WorkspaceRecord {
            uid: _,
            revision,
            create_time,
            update_time,
            plan: _,
            wrapped_kek: _,
        } = record;
        Ok(Workspace {
            name,
            uid,
            revision,
            create_time,
            update_time,
            plan,
            secret_count,
        })
    }
}

pub(super) fn find(store: &Store, name: &WorkspaceName) -> Result<Found, VaultError> {
    match store.read(&stored::workspace(name))? {
        Some(bytes) => Found::decode(name.clone(), bytes),
        None => Err(VaultError::NoWorkspace(name.clone())),
    }
}

fn read_count(store: &Store, workspace: &Uid) -> Result<u64, VaultError> {
    match store.read(&stored::count(workspace))? {
        None => Ok(0),
        Some(bytes) => bytes
            .as_slice()
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| VaultError::Corrupt(None)),
    }
}

impl Writer {
    /// Makes an empty workspace with keys of its own.
    pub async fn create_workspace(&self, permit: &AdminPermit, plan: Plan) -> Result<Workspace, VaultError> {
        let name = permit.workspace().clone();
        let uid = Uid::generate();
        let now = Timestamp::from(SystemTime::now());
        let record = WorkspaceRecord {
            uid: uid.as_bytes().to_vec(),
            revision: 1,
            create_time: now,
            update_time: now,
            plan: plan.stored(),
            wrapped_kek: self.keyring.make(&uid)?,
        };
        let key = stored::workspace(&name);
        let batch = Batch::new()
            .expect_absent(key.clone())
            .put(key, stored::encode(&record));
        match self.store.commit(batch).await.map_err(VaultError::from) {
            Ok(()) => {}
            Err(VaultError::Conflict) => return Err(VaultError::WorkspaceExists(name)),
            Err(error) => return Err(error),
        }
        Ok(Workspace {
            name,
            uid,
            revision: 1,
            create_time: now,
            update_time: now,
            plan,
            secret_count: 0,
        })
    }

    /// Shows a workspace.
    pub async fn workspace(&self, permit: &AdminPermit) -> Result<Workspace, VaultError> {
        let (store, name) = (self.store.clone(), permit.workspace().clone());
        blocking(move || find(&store, &name)?.shown(&store)).await
    }

    /// A page of the workspaces in `scope`, and whether more follow.
    pub async fn workspaces(&self, scope: Scope, page: Page) -> Result<(Vec<Workspace>, bool), VaultError> {
        let store = self.store.clone();
        blocking(move || {
            let mut found = match scope {
                Scope::All => scan(&store, &page)?,
                Scope::Only(names) => pick(&store, &page, names)?,
            };
            let more = found.len() > page.size;
            found.truncate(page.size);
            let shown = found
                .into_iter()
                .map(|workspace| workspace.shown(&store))
                .collect::<Result<_, _>>()?;
            Ok((shown, more))
        })
        .await
    }

    /// Changes a workspace's plan. A `revision` other than 0 must be the current one.
    pub async fn update_workspace(
        &self,
        permit: &AdminPermit,
        revision: u64,
        plan: Plan,
    ) -> Result<Workspace, VaultError> {
        self.retrying(async || {
            let (store, name) = (self.store.clone(), permit.workspace().clone());
            let found = blocking(move || find(&store, &name)).await?;
            found.check_revision(revision)?;
            let mut record = found.record.clone();
            record.revision += 1;
            record.update_time = Timestamp::from(SystemTime::now());
            record.plan = plan.stored();
            let bytes = stored::encode(&record);
            let batch = found
                .unchanged(Batch::new())
                .put(stored::workspace(&found.name), bytes.clone());
            self.store.commit(batch).await?;
            let (store, changed) = (
                self.store.clone(),
                Found {
                    plan,
                    record,
                    bytes,
                    ..found
                },
            );
            blocking(move || changed.shown(&store)).await
        })
        .await
    }

    /// Deletes a workspace and destroys its key: from the commit on, nothing in it can be decrypted. What it held is
    /// removed afterwards, in the background, and after a restart if need be.
    pub async fn delete_workspace(
        &self,
        permit: &AdminPermit,
        revision: u64,
        force: bool,
    ) -> Result<(), VaultError> {
        let uid = self
            .retrying(async || {
                let (store, name) = (self.store.clone(), permit.workspace().clone());
                let (found, count) = blocking(move || {
                    let found = find(&store, &name)?;
                    let count = read_count(&store, &found.uid)?;
                    Ok::<_, VaultError>((found, count))
                })
                .await?;
                found.check_revision(revision)?;
                if count > 0 && !force {
                    return Err(VaultError::WorkspaceNotEmpty(found.name));
                }
                let batch = found.unchanged(Batch::new());
                // Without force the count must still be none when this commits.
                let batch = if force {
                    batch
                } else {
                    batch.expect_absent(stored::count(&found.uid))
                };
                let batch = batch
                    .delete(stored::workspace(&found.name))
                    .put(stored::garbage(&found.uid), []);
                self.store.commit(batch).await?;
                Ok(found.uid)
            })
            .await?;
        self.keyring.forget(&uid);
        let sweeper = self.clone();
        tokio::spawn(async move {
            if let Err(error) = sweeper.sweep(uid).await {
                tracing::warn!(%error, "a deleted workspace was not swept; the next start goes on with it");
            }
        });
        Ok(())
    }

    /// Removes what deleted workspaces left behind when the process stopped before it was done.
    pub async fn sweep_all(&self) -> Result<(), VaultError> {
        loop {
            let store = self.store.clone();
            let left = blocking(move || store.scan(stored::GARBAGE, None, SWEEP)).await?;
            if left.is_empty() {
                return Ok(());
            }
            for entry in left {
                let uid = entry.key.get(stored::GARBAGE.len()..).and_then(stored::uid);
                self.sweep(uid.ok_or(VaultError::Corrupt(None))?).await?;
            }
        }
    }

    pub(super) async fn sweep(&self, workspace: Uid) -> Result<(), VaultError> {
        for kind in Kind::ALL {
            loop {
                let (store, prefix) = (self.store.clone(), kind.of(&workspace));
                let entries = blocking(move || store.scan(&prefix, None, SWEEP)).await?;
                if entries.is_empty() {
                    break;
                }
                let batch = entries
                    .into_iter()
                    .fold(still_garbage(&workspace), |batch, entry| batch.delete(entry.key));
                if !self.commit_sweep(batch).await? {
                    return Ok(());
                }
            }
        }
        let last = still_garbage(&workspace)
            .delete(stored::count(&workspace))
            .delete(stored::garbage(&workspace));
        self.commit_sweep(last).await.map(drop)
    }

    /// False when there is nothing to sweep any more: another has done it, or the workspace came back with a backup.
    async fn commit_sweep(&self, batch: Batch) -> Result<bool, VaultError> {
        match self.store.commit(batch).await {
            Ok(()) => Ok(true),
            Err(CommitError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a deleted workspace held is removed while it says that it is deleted.
fn still_garbage(workspace: &Uid) -> Batch {
    Batch::new().expect_value(stored::garbage(workspace), [])
}

/// One more than the page holds, when there is more.
fn scan(store: &Store, page: &Page) -> Result<Vec<Found>, VaultError> {
    let after = page
        .after
        .as_ref()
        .map(|name| [stored::WORKSPACES, name.as_bytes()].concat());
    let entries = store.scan(stored::WORKSPACES, after.as_deref(), page.size + 1)?;
    entries
        .into_iter()
        .map(|entry| {
            let name = entry
                .key
                .get(stored::WORKSPACES.len()..)
                .and_then(|name| str::from_utf8(name).ok());
            let name = name
                .and_then(|name| WorkspaceName::parse(name).ok())
                .ok_or(VaultError::Corrupt(None))?;
            Found::decode(name, entry.value)
        })
        .collect()
}

fn pick(
    store: &Store,
    page: &Page,
    names: impl IntoIterator<Item = WorkspaceName>,
) -> Result<Vec<Found>, VaultError> {
    let mut found = Vec::new();
    for name in names {
        if page.after.as_deref().is_some_and(|after| name.as_str() <= after) {
            continue;
        }
        match find(store, &name) {
            Ok(workspace) => found.push(workspace),
            Err(VaultError::NoWorkspace(_)) => {}
            Err(error) => return Err(error),
        }
        if found.len() > page.size {
            break;
        }
    }
    Ok(found)
}
