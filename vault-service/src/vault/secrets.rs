//! Secrets: put, listed, deleted. Nothing here can decrypt.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::SystemTime,
};

use prost_types::Timestamp;
use proto::{OriginPattern, SecretName, SecretValue, Uid, WorkspaceName, page::Page};

use super::{
    VaultError, Writer, blocking,
    keyring::Keyring,
    stored::{self, Kind, SecretRecord},
    workspaces::{self, Found},
};
use crate::{
    authz::AdminPermit,
    crypto::record::{self, EncryptError, Place},
    store::{Batch, CommitError, Store},
};

/// The most origins that a value may be bound to.
pub const MAX_ORIGINS: usize = 16;

/// What is put.
pub struct NewSecret {
    /// Its name.
    pub name: SecretName,
    /// Its value.
    pub value: SecretValue,
    /// Where the value may be sent, at most [`MAX_ORIGINS`]; empty means anywhere.
    pub upstream_origins: Vec<OriginPattern>,
}

/// What may be known of a secret.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretMetadata {
    /// The workspace it is in.
    pub workspace: WorkspaceName,
    /// Its name.
    pub name: SecretName,
    /// Tells it from an earlier one of its name.
    pub uid: Uid,
    /// Counts up with every put.
    pub version: u64,
    /// When the name was first put.
    pub create_time: Timestamp,
    /// When this version was put.
    pub update_time: Timestamp,
    /// Where the value may be sent.
    pub upstream_origins: Vec<String>,
}

/// What a put did.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// The secret as it is now.
    pub secret: SecretMetadata,
    /// Whether the name is new.
    pub created: bool,
}

impl SecretMetadata {
    pub(super) fn decode(
        workspace: &WorkspaceName,
        name: SecretName,
        bytes: &[u8],
    ) -> Result<Self, VaultError> {
        let SecretRecord {
            uid,
            version,
            create_time,
            update_time,
            upstream_origins,
        } = stored::decode(bytes)?;
        let uid = stored::uid(&uid).ok_or(VaultError::Corrupt(None))?;
        Ok(Self {
            workspace: workspace.clone(),
            name,
            uid,
            version,
            create_time,
            update_time,
            upstream_origins,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        stored::encode(&SecretRecord {
            uid: self.uid.as_bytes().to_vec(),
            version: self.version,
            create_time: self.create_time,
            update_time: self.update_time,
            upstream_origins: self.upstream_origins.clone(),
        })
    }
}

impl Writer {
    /// Makes a secret, or a new version of it.
    pub async fn put_secret(&self, permit: &AdminPermit, new: NewSecret) -> Result<Put, VaultError> {
        let new = Arc::new(new);
        let _turn = self.turn(permit.workspace(), &new.name).await;
        self.retrying(async || {
            let (store, keyring) = (self.store.clone(), self.keyring.clone());
            let (name, new) = (permit.workspace().clone(), new.clone());
            let Prepared { put, batch, limit } =
                blocking(move || prepare(&store, &keyring, &name, &new)).await?;
            match self.store.commit(batch).await {
                Ok(()) => Ok(put),
                Err(CommitError::LimitReached) => Err(VaultError::PlanLimit {
                    workspace: permit.workspace().clone(),
                    limit,
                }),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Shows what may be known of a secret.
    pub async fn secret(
        &self,
        permit: &AdminPermit,
        name: &SecretName,
    ) -> Result<SecretMetadata, VaultError> {
        let (store, workspace, name) = (self.store.clone(), permit.workspace().clone(), name.clone());
        blocking(move || {
            let found = workspaces::find(&store, &workspace)?;
            match store.read(&Kind::Metadata.key(&found.uid, &name))? {
                Some(bytes) => SecretMetadata::decode(&workspace, name, &bytes),
                None => Err(VaultError::NoSecret(workspace, name)),
            }
        })
        .await
    }

    /// A page of a workspace's secrets, and whether more follow.
    pub async fn secrets(
        &self,
        permit: &AdminPermit,
        page: Page,
    ) -> Result<(Vec<SecretMetadata>, bool), VaultError> {
        let (store, workspace) = (self.store.clone(), permit.workspace().clone());
        blocking(move || {
            let prefix = Kind::Metadata.of(&workspaces::find(&store, &workspace)?.uid);
            let after = page
                .after
                .as_ref()
                .map(|name| [prefix.as_slice(), name.as_bytes()].concat());
            let mut entries = store.scan(&prefix, after.as_deref(), page.size + 1)?;
            let more = entries.len() > page.size;
            entries.truncate(page.size);
            let shown = entries.into_iter().map(|entry| {
                let name = entry
                    .key
                    .get(prefix.len()..)
                    .and_then(|name| str::from_utf8(name).ok());
                let name = name
                    .and_then(|name| SecretName::parse(name).ok())
                    .ok_or(VaultError::Corrupt(None))?;
                SecretMetadata::decode(&workspace, name, &entry.value)
            });
            Ok((shown.collect::<Result<_, _>>()?, more))
        })
        .await
    }

    /// Deletes a secret, and keeps its last version number, so that it is not used again.
    pub async fn delete_secret(&self, permit: &AdminPermit, name: &SecretName) -> Result<(), VaultError> {
        let _turn = self.turn(permit.workspace(), name).await;
        self.retrying(async || {
            let (store, workspace, name) = (self.store.clone(), permit.workspace().clone(), name.clone());
            let batch = blocking(move || {
                let found = workspaces::find(&store, &workspace)?;
                let key = Kind::Metadata.key(&found.uid, &name);
                let Some(bytes) = store.read(&key)? else {
                    return Err(VaultError::NoSecret(workspace, name));
                };
                let version = SecretMetadata::decode(&workspace, name.clone(), &bytes)?.version;
                Ok(found
                    .unchanged(Batch::new())
                    .expect_value(key.clone(), bytes)
                    .delete(key)
                    .delete(Kind::Record.key(&found.uid, &name))
                    .put(Kind::LastVersion.key(&found.uid, &name), version.to_be_bytes())
                    .add(stored::count(&found.uid), -1, None))
            })
            .await?;
            Ok(self.store.commit(batch).await?)
        })
        .await
    }

    /// Waits for other writes of the same secret. Only saves them failing each other's compare-and-set.
    async fn turn(
        &self,
        workspace: &WorkspaceName,
        name: &SecretName,
    ) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        (workspace, name).hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % 1024).unwrap_or(0);
        match self.stripes.get(stripe) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }
}

/// A put that only has to be committed.
struct Prepared {
    put: Put,
    batch: Batch,
    limit: u64,
}

fn prepare(
    store: &Store,
    keyring: &Keyring,
    workspace: &WorkspaceName,
    new: &NewSecret,
) -> Result<Prepared, VaultError> {
    let found = workspaces::find(store, workspace)?;
    let before = store.read(&Kind::Metadata.key(&found.uid, &new.name))?;
    let secret = next(store, &found, new, before.as_deref())?;
    let kek = keyring.open(&found.uid, &found.record.wrapped_kek)?;
    let place = Place {
        workspace_uid: &found.uid,
        name: &new.name,
        version: secret.version,
    };
    let encrypted =
        record::encrypt(&kek, &place, &new.upstream_origins, &new.value).map_err(|error| match error {
            EncryptError::NoRandomness(error) => VaultError::Randomness(error),
            EncryptError::Origins => VaultError::Corrupt(None),
        })?;
    let (limit, created) = (found.plan.limit(), before.is_none());
    let batch = replace(&found, &new.name, before, &secret, encrypted, limit);
    Ok(Prepared {
        put: Put { secret, created },
        batch,
        limit: limit.unwrap_or(u64::MAX),
    })
}

/// The secret as it will be.
fn next(
    store: &Store,
    found: &Found,
    new: &NewSecret,
    before: Option<&[u8]>,
) -> Result<SecretMetadata, VaultError> {
    let now = Timestamp::from(SystemTime::now());
    let upstream_origins = new
        .upstream_origins
        .iter()
        .map(|origin| origin.as_str().to_owned())
        .collect();
    match before {
        Some(bytes) => {
            let before = SecretMetadata::decode(&found.name, new.name.clone(), bytes)?;
            Ok(SecretMetadata {
                version: before.version + 1,
                update_time: now,
                upstream_origins,
                ..before
            })
        }
        None => Ok(SecretMetadata {
            workspace: found.name.clone(),
            name: new.name.clone(),
            uid: Uid::generate(),
            version: last_version(store, found, &new.name)? + 1,
            create_time: now,
            update_time: now,
            upstream_origins,
        }),
    }
}

/// The last version of a deleted secret of this name; 0 when there was none.
fn last_version(store: &Store, found: &Found, name: &SecretName) -> Result<u64, VaultError> {
    match store.read(&Kind::LastVersion.key(&found.uid, name))? {
        None => Ok(0),
        Some(bytes) => bytes
            .as_slice()
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| VaultError::Corrupt(None)),
    }
}

fn replace(
    found: &Found,
    name: &SecretName,
    before: Option<Vec<u8>>,
    secret: &SecretMetadata,
    encrypted: Vec<u8>,
    limit: Option<u64>,
) -> Batch {
    let key = Kind::Metadata.key(&found.uid, name);
    let batch = found.unchanged(Batch::new());
    let batch = match before {
        Some(bytes) => batch.expect_value(key.clone(), bytes),
        None => batch
            .expect_absent(key.clone())
            .delete(Kind::LastVersion.key(&found.uid, name))
            .add(stored::count(&found.uid), 1, limit),
    };
    batch
        .put(key, secret.encode())
        .put(Kind::Record.key(&found.uid, name), encrypted)
}
