//! Workspaces: made, shown, changed, deleted.

use chassis::authz::Scope;
use prost_types::Timestamp;
use proto::{Uid, WorkspaceName, page::Page};

use super::{
    VaultError, Writer, blocking, erasure,
    keyring::Keyring,
    roots, store_keys,
    stored::{self, Kind, WorkspaceRecord},
};
use crate::{
    authz::AdminPermit,
    crypto::{KeyId, wrapped_kek_id},
    store::{Batch, CommitError, Store},
};

/// Entries of a deleted workspace that are removed at once.
const SWEEP: usize = 512;

/// How many secrets a workspace may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Plan {
    /// 10 secrets
    Free,
    /// 50 secrets
    Starter,
    /// 200 secrets
    Pro,
    /// 1,000 secrets
    Business,
    /// Any number of secrets
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

/// How many versions of each secret are kept, the current one counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptVersions(u32);

/// There is no such number of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("kept_versions is 1 to {}", KeptVersions::MAX)]
pub struct KeptVersionsError;

impl KeptVersions {
    /// The most.
    pub const MAX: u64 = 100;

    /// 1 to 100.
    pub fn parse(number: u32) -> Result<Self, KeptVersionsError> {
        match u64::from(number) {
            1..=Self::MAX => Ok(Self(number)),
            _ => Err(KeptVersionsError),
        }
    }

    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl Default for KeptVersions {
    fn default() -> Self {
        Self(3)
    }
}

/// What can be chosen of a workspace.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What it may hold.
    pub plan: Plan,
    /// What it keeps.
    pub kept_versions: KeptVersions,
}

impl From<Plan> for Settings {
    /// All else is as it usually is.
    fn from(plan: Plan) -> Self {
        Self {
            plan,
            kept_versions: KeptVersions::default(),
        }
    }
}

/// What is changed of a workspace's settings; what is none stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes {
    /// What it may hold.
    pub plan: Option<Plan>,
    /// What it keeps.
    pub kept_versions: Option<KeptVersions>,
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
    /// What was chosen of it.
    pub settings: Settings,
    /// What it holds.
    pub secret_count: u64,
}

/// A workspace as it stands in the store, and its bytes there, for compare-and-set.
pub(super) struct Found {
    pub(super) name: WorkspaceName,
    pub(super) uid: Uid,
    pub(super) plan: Plan,
    pub(super) kept_versions: KeptVersions,
    pub(super) record: WorkspaceRecord,
    pub(super) bytes: Vec<u8>,
}

impl Found {
    pub(super) fn decode(name: WorkspaceName, bytes: Vec<u8>) -> Result<Self, VaultError> {
        let record: WorkspaceRecord = stored::decode(&bytes)?;
        let uid = stored::uid(&record.uid).ok_or(VaultError::Corrupt(None))?;
        let plan = Plan::ALL.into_iter().find(|plan| plan.stored() == record.plan);
        let plan = plan.ok_or(VaultError::Corrupt(None))?;
        let kept_versions =
            KeptVersions::parse(record.kept_versions).map_err(|_| VaultError::Corrupt(None))?;
        Ok(Self {
            name,
            uid,
            plan,
            kept_versions,
            record,
            bytes,
        })
    }

    /// The workspace must still be what it was when it was read.
    pub(super) fn unchanged(&self, batch: Batch) -> Batch {
        batch.expect_value(stored::workspace(&self.name), self.bytes.clone())
    }

    /// Its retired KEK of this id.
    pub(super) fn retired(&self, id: KeyId) -> Option<&[u8]> {
        let mut wrapped = self.record.retired_keks.iter().map(|kek| &*kek.wrapped_kek);
        wrapped.find(|wrapped| wrapped_kek_id(wrapped) == Ok(id))
    }

    /// Wipes its KEKs from memory, once they are gone from the store.
    fn forget_keys(&self, keyring: &Keyring) {
        keyring.forget(&self.uid, &self.record.wrapped_kek);
        for retired in &self.record.retired_keks {
            keyring.forget(&self.uid, &retired.wrapped_kek);
        }
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
            kept_versions,
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
            kept_versions: _,
            retired_keks: _,
            kek_create_time: _,
            last_look: _,
        } = record;
        Ok(Workspace {
            name,
            uid,
            revision,
            create_time,
            update_time,
            settings: Settings { plan, kept_versions },
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

/// A workspace that only has to be committed.
pub(super) fn create(
    store: &Store,
    keyring: &Keyring,
    name: WorkspaceName,
    settings: Settings,
    now: Timestamp,
) -> Result<(Workspace, Batch), VaultError> {
    let key = stored::workspace(&name);
    if store.read(&key)?.is_some() {
        return Err(VaultError::WorkspaceExists(name));
    }
    let (meta_bytes, meta) = roots::read_meta(store)?;
    let uid = Uid::generate();
    let record = WorkspaceRecord {
        uid: uid.as_bytes().to_vec(),
        revision: 1,
        create_time: now,
        update_time: now,
        plan: settings.plan.stored(),
        kept_versions: settings.kept_versions.0,
        wrapped_kek: keyring.make(&uid, store_keys::active(&meta)?)?,
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

pub(super) fn read_count(store: &Store, workspace: &Uid) -> Result<u64, VaultError> {
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
    pub async fn create_workspace(
        &self,
        permit: &AdminPermit,
        settings: impl Into<Settings>,
    ) -> Result<Workspace, VaultError> {
        let settings = settings.into();
        self.retrying(async || {
            let (store, keyring, name) = (
                self.store.clone(),
                self.keyring.clone(),
                permit.workspace().clone(),
            );
            let now = Timestamp::from((self.clock)());
            let (created, batch) = blocking(move || create(&store, &keyring, name, settings, now)).await?;
            self.store.commit(batch).await?;
            Ok(created)
        })
        .await
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

    /// Changes a workspace's settings. A `revision` other than 0 must be the current one. Versions that are no longer to
    /// be kept stay until their secret gets its next one.
    pub async fn update_workspace(
        &self,
        permit: &AdminPermit,
        revision: u64,
        changes: Changes,
    ) -> Result<Workspace, VaultError> {
        self.retrying(async || {
            let (store, name) = (self.store.clone(), permit.workspace().clone());
            let found = blocking(move || find(&store, &name)).await?;
            found.check_revision(revision)?;
            let plan = changes.plan.unwrap_or(found.plan);
            let kept_versions = changes.kept_versions.unwrap_or(found.kept_versions);
            let mut record = found.record.clone();
            record.revision += 1;
            record.update_time = Timestamp::from((self.clock)());
            record.plan = plan.stored();
            record.kept_versions = kept_versions.0;
            let bytes = stored::encode(&record);
            let batch = found
                .unchanged(Batch::new())
                .put(stored::workspace(&found.name), bytes.clone());
            self.store.commit(batch).await?;
            let (store, changed) = (
                self.store.clone(),
                Found {
                    plan,
                    kept_versions,
                    record,
                    bytes,
                    ..found
                },
            );
            blocking(move || changed.shown(&store)).await
        })
        .await
    }

    /// Deletes a workspace and its keys: from the commit on, nothing in it is decrypted. What it held is removed afterwards, in
    /// the background, and after a restart if need be. What the store's log keeps of its keys is erased in time.
    pub async fn delete_workspace(
        &self,
        permit: &AdminPermit,
        revision: u64,
        force: bool,
    ) -> Result<(), VaultError> {
        let uid = self
            .retrying(async || {
                let (store, name, now) = (self.store.clone(), permit.workspace().clone(), (self.clock)());
                let (found, count, batch) = blocking(move || {
                    let found = find(&store, &name)?;
                    let count = read_count(&store, &found.uid)?;
                    let batch = found.unchanged(Batch::new());
                    let batch = erasure::note_workspace(batch, &store, &found, now)?;
                    Ok::<_, VaultError>((found, count, batch))
                })
                .await?;
                found.check_revision(revision)?;
                if count > 0 && !force {
                    return Err(VaultError::WorkspaceNotEmpty(found.name));
                }
                // Without force the count must still be none when this commits.
                let batch = if force {
                    batch
                } else {
                    batch.expect_absent(stored::count(&found.uid))
                };
                let batch = batch
                    .delete(stored::workspace(&found.name))
                    .delete(stored::workspace_rotation(&found.uid))
                    .put(stored::garbage(&found.uid), []);
                self.store.commit(batch).await?;
                found.forget_keys(&self.keyring);
                Ok(found.uid)
            })
            .await?;
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
                // What was counted of uses is written only to secrets that are there; not to some that just go.
                let _still = self.uses.still().await;
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
