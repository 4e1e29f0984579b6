//! Creating, listing, changing and deleting workspaces.

use std::time::SystemTime;

use chassis::authz::Scope;
use prost_types::Timestamp;
use proto::{Uid, WorkspaceName, page::Page};

use super::{
    VaultError, Writer,
    access::with_store,
    deletions,
    keyring::Keyring,
    meta,
    stored::{self, Kind, WorkspaceRecord},
    workspace::{self, KeptVersions, Plan, StoredWorkspace, WorkspaceSettings, read_count},
};
use crate::{
    authz::AdminPermit,
    store::{Batch, CommitError, Store},
};

/// Number of entries of a deleted workspace that one batch removes.
const SWEEP_ENTRIES: usize = 512;

/// A change of a workspace's settings; a setting that is `None` stays.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SettingsChange {
    pub(crate) plan: Option<Plan>,
    pub(crate) kept_versions: Option<KeptVersions>,
}

#[derive(Debug, Clone)]
pub struct Workspace {
    pub name: WorkspaceName,
    /// Distinguishes the workspace from an earlier, deleted workspace of the same name.
    pub uid: Uid,
    /// Counts the changes of the workspace.
    pub revision: u64,
    pub create_time: Timestamp,
    pub update_time: Timestamp,
    pub settings: WorkspaceSettings,
    pub secret_count: u64,
}

impl Workspace {
    fn read(store: &Store, workspace: StoredWorkspace) -> Result<Self, VaultError> {
        let secret_count = read_count(store, &workspace.uid)?;
        let StoredWorkspace {
            name,
            uid,
            plan,
            kept_versions,
            record,
            bytes: _,
        } = workspace;
        let WorkspaceRecord {
            uid: _,
            revision,
            create_time,
            update_time,
            plan: _,
            wrapped_kek: _,
            kept_versions: _,
            retired_keks: _,
            kek_create_time: _,
            last_pass: _,
        } = record;
        Ok(Self {
            name,
            uid,
            revision,
            create_time,
            update_time,
            settings: WorkspaceSettings { plan, kept_versions },
            secret_count,
        })
    }
}

impl Writer {
    /// Creates an empty workspace with a KEK of its own.
    pub async fn create_workspace(
        &self,
        permit: &AdminPermit,
        settings: impl Into<WorkspaceSettings>,
    ) -> Result<Workspace, VaultError> {
        let settings = settings.into();
        self.retry_on_conflict(async || {
            let (keyring, name) = (self.keyring.clone(), permit.workspace().clone());
            let now = Timestamp::from((self.clock)());
            let prepare = move |store: &Store| prepare_create(store, &keyring, name, settings, now);
            let (created, batch) = with_store(&self.store, prepare).await?;
            self.store.commit(batch).await?;
            Ok(created)
        })
        .await
    }

    pub async fn workspace(&self, permit: &AdminPermit) -> Result<Workspace, VaultError> {
        let name = permit.workspace().clone();
        let read = move |store: &Store| Workspace::read(store, workspace::find(store, &name)?);
        with_store(&self.store, read).await
    }

    /// Returns a page of the workspaces in `scope`, and true when more follow.
    pub(crate) async fn workspaces(
        &self,
        scope: Scope,
        page: Page,
    ) -> Result<(Vec<Workspace>, bool), VaultError> {
        with_store(&self.store, move |store| {
            let mut found = match scope {
                Scope::All => scan_page(store, &page)?,
                Scope::Only(names) => find_page(store, &page, names)?,
            };
            let more = found.len() > page.size;
            found.truncate(page.size);
            let workspaces = found
                .into_iter()
                .map(|workspace| Workspace::read(store, workspace))
                .collect::<Result<_, _>>()?;
            Ok((workspaces, more))
        })
        .await
    }

    /// Changes a workspace's settings. A `revision` other than 0 must be the current one. Versions beyond a lower
    /// `kept_versions` stay until the next version of their secret.
    pub(crate) async fn update_workspace(
        &self,
        permit: &AdminPermit,
        revision: u64,
        change: SettingsChange,
    ) -> Result<Workspace, VaultError> {
        self.retry_on_conflict(async || {
            let name = permit.workspace().clone();
            let found = with_store(&self.store, move |store| workspace::find(store, &name)).await?;
            check_revision(&found, revision)?;
            let plan = change.plan.unwrap_or(found.plan);
            let kept_versions = change.kept_versions.unwrap_or(found.kept_versions);
            let mut record = found.record.clone();
            record.revision += 1;
            record.update_time = Timestamp::from((self.clock)());
            record.plan = plan.stored();
            record.kept_versions = kept_versions.number();
            let bytes = stored::encode(&record);
            let batch = found
                .expect_unchanged(Batch::new())
                .put(stored::workspace(&found.name), bytes.clone());
            self.store.commit(batch).await?;
            let changed = StoredWorkspace {
                plan,
                kept_versions,
                record,
                bytes,
                ..found
            };
            with_store(&self.store, move |store| Workspace::read(store, changed)).await
        })
        .await
    }

    /// Deletes a workspace and its keys: from the commit on, nothing in it can be decrypted. A background task removes the
    /// entries of the workspace, after a restart if necessary, and a key rotation later erases the copies of its keys in the
    /// store's log.
    pub(crate) async fn delete_workspace(
        &self,
        permit: &AdminPermit,
        revision: u64,
        force: bool,
    ) -> Result<(), VaultError> {
        let uid = self
            .retry_on_conflict(async || {
                let (name, now) = (permit.workspace().clone(), (self.clock)());
                let prepare = move |store: &Store| prepare_delete(store, &name, revision, force, now);
                let (found, batch) = with_store(&self.store, prepare).await?;
                self.store.commit(batch).await?;
                for wrapped in found.wrapped_keks() {
                    self.keyring.forget(&found.uid, wrapped);
                }
                Ok(found.uid)
            })
            .await?;
        let writer = self.clone();
        tokio::spawn(async move {
            if let Err(error) = writer.sweep(uid).await {
                tracing::warn!(
                    %error,
                    "the data of a deleted workspace could not be removed; the vault tries it again at its next start"
                );
            }
        });
        Ok(())
    }

    /// Removes the entries of all deleted workspaces.
    pub(crate) async fn sweep_all(&self) -> Result<(), VaultError> {
        loop {
            let scan = |store: &Store| store.scan(stored::GARBAGE, None, SWEEP_ENTRIES);
            let deleted = with_store(&self.store, scan).await?;
            if deleted.is_empty() {
                return Ok(());
            }
            for entry in deleted {
                let uid = entry.key.get(stored::GARBAGE.len()..).and_then(stored::uid);
                self.sweep(uid.ok_or(VaultError::Corrupt(None))?).await?;
            }
        }
    }

    pub(super) async fn sweep(&self, workspace: Uid) -> Result<(), VaultError> {
        for kind in Kind::ALL {
            loop {
                // A flush of use counters could write an entry for a secret that this batch deletes.
                let _paused = self.use_counters.pause_flush().await;
                let prefix = kind.of(&workspace);
                let scan = move |store: &Store| store.scan(&prefix, None, SWEEP_ENTRIES);
                let entries = with_store(&self.store, scan).await?;
                if entries.is_empty() {
                    break;
                }
                let batch = entries
                    .into_iter()
                    .fold(expect_garbage(&workspace), |batch, entry| batch.delete(entry.key));
                if !self.commit_sweep(batch).await? {
                    return Ok(());
                }
            }
        }
        let last = expect_garbage(&workspace)
            .delete(stored::count(&workspace))
            .delete(stored::garbage(&workspace));
        self.commit_sweep(last).await.map(drop)
    }

    /// Commits one batch of a sweep. Returns false when the workspace has nothing left to sweep: another sweep finished, or a
    /// restored backup brought the workspace back.
    async fn commit_sweep(&self, batch: Batch) -> Result<bool, VaultError> {
        match self.store.commit(batch).await {
            Ok(()) => Ok(true),
            Err(CommitError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn prepare_create(
    store: &Store,
    keyring: &Keyring,
    name: WorkspaceName,
    settings: WorkspaceSettings,
    now: Timestamp,
) -> Result<(Workspace, Batch), VaultError> {
    let key = stored::workspace(&name);
    if store.read(&key)?.is_some() {
        return Err(VaultError::WorkspaceExists(name));
    }
    let (meta_bytes, meta) = meta::read(store)?;
    let uid = Uid::generate();
    let record = WorkspaceRecord {
        uid: uid.as_bytes().to_vec(),
        revision: 1,
        create_time: now,
        update_time: now,
        plan: settings.plan.stored(),
        kept_versions: settings.kept_versions.number(),
        wrapped_kek: keyring.make(&uid, meta::active_store_key(&meta)?)?,
        ..WorkspaceRecord::default()
    };
    // The batch requires that the store key is still the active one, because a rotation does not return to entries that
    // it has passed.
    let batch = Batch::new()
        .expect_value(stored::META, meta_bytes)
        .expect_absent(key.clone())
        .put(key, stored::encode(&record));
    let created = Workspace {
        name,
        uid,
        revision: 1,
        create_time: now,
        update_time: now,
        settings,
        secret_count: 0,
    };
    Ok((created, batch))
}

fn prepare_delete(
    store: &Store,
    name: &WorkspaceName,
    revision: u64,
    force: bool,
    now: SystemTime,
) -> Result<(StoredWorkspace, Batch), VaultError> {
    let found = workspace::find(store, name)?;
    let count = read_count(store, &found.uid)?;
    let batch = found.expect_unchanged(Batch::new());
    let batch = deletions::note_workspace(batch, store, &found, now)?;
    check_revision(&found, revision)?;
    if count > 0 && !force {
        return Err(VaultError::WorkspaceNotEmpty(found.name));
    }
    // Without `force`, the workspace must still be empty at the commit.
    let batch = match force {
        true => batch,
        false => batch.expect_absent(stored::count(&found.uid)),
    };
    let batch = batch
        .delete(stored::workspace(&found.name))
        .delete(stored::workspace_rotation(&found.uid))
        .put(stored::garbage(&found.uid), []);
    Ok((found, batch))
}

/// Refuses a change whose caller knows another revision; 0 accepts any.
fn check_revision(workspace: &StoredWorkspace, expected: u64) -> Result<(), VaultError> {
    if expected == 0 || expected == workspace.record.revision {
        Ok(())
    } else {
        Err(VaultError::RevisionMismatch)
    }
}

/// Makes a batch that holds only while the workspace is deleted and not swept.
fn expect_garbage(workspace: &Uid) -> Batch {
    Batch::new().expect_value(stored::garbage(workspace), [])
}

/// Reads the workspaces of a page, and one more when more follow.
fn scan_page(store: &Store, page: &Page) -> Result<Vec<StoredWorkspace>, VaultError> {
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
            StoredWorkspace::decode(name, entry.value)
        })
        .collect()
}

/// Reads the workspaces of a page among `names`, which are sorted, and one more when more follow.
fn find_page(
    store: &Store,
    page: &Page,
    names: impl IntoIterator<Item = WorkspaceName>,
) -> Result<Vec<StoredWorkspace>, VaultError> {
    let mut found = Vec::new();
    for name in names {
        if page.after.as_deref().is_some_and(|after| name.as_str() <= after) {
            continue;
        }
        match workspace::find(store, &name) {
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
