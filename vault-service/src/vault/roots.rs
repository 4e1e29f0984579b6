//! The root keys: which must be there, which is active, and how that changes.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use super::{
    OpenError, UnsealError, VaultError, Writer, blocking, hex,
    keyring::Keyring,
    stored::{self, Meta, Rotation, WorkspaceRecord},
};
use crate::{
    authz::VaultPermit,
    crypto::{KeyId, RootKey, root_key_id},
    root::{Provider, Providers},
    store::{Batch, Entries, Store},
};

/// Workspaces read at once.
const PAGE: usize = 1000;

/// What the store says of itself, and its bytes there.
pub(super) fn read_meta(store: &Store) -> Result<(Vec<u8>, Meta), VaultError> {
    let bytes = store.read(stored::META)?.ok_or(VaultError::Corrupt(None))?;
    let meta = stored::decode(&bytes)?;
    Ok((bytes, meta))
}

/// The root key that wraps what is new.
pub(super) fn active(meta: &Meta) -> Result<KeyId, VaultError> {
    if meta.root_key_id.is_empty() {
        return Err(VaultError::Sealed);
    }
    KeyId::from_stored(&meta.root_key_id).ok_or(VaultError::Corrupt(None))
}

/// How many workspaces have keys that each root key wraps. A damaged workspace has none.
pub(super) fn workspaces_of_each<S: Entries>(store: &S) -> Result<BTreeMap<KeyId, u64>, S::Error> {
    let mut counts = BTreeMap::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan(stored::WORKSPACES, after.as_deref(), PAGE)?;
        let Some(last) = page.last() else {
            return Ok(counts);
        };
        after = Some(last.key.clone());
        for entry in &page {
            for root in roots_of(&entry.value) {
                *counts.entry(root).or_default() += 1;
            }
        }
    }
}

/// The root keys that a workspace needs.
pub(super) fn roots_of(workspace: &[u8]) -> Vec<KeyId> {
    let Ok(record) = stored::decode::<WorkspaceRecord>(workspace) else {
        return Vec::new();
    };
    let retired = record.retired_keks.iter().map(|retired| &retired.wrapped_kek);
    let mut roots: Vec<_> = std::iter::once(&record.wrapped_kek)
        .chain(retired)
        .filter_map(|wrapped| root_key_id(wrapped).ok())
        .collect();
    roots.sort_unstable();
    roots.dedup();
    roots
}

/// Every root key that the store needs must be among those that can be had.
pub(super) fn check<S>(store: &S, meta: &Meta, providers: &Providers) -> Result<(), OpenError>
where
    S: Entries<Error: Into<OpenError>>,
{
    // Only a rotation leaves workspaces under another one than the active.
    if store.read(stored::ROOT_ROTATION).map_err(Into::into)?.is_none() {
        return check_active(store, meta, providers);
    }
    let counts = workspaces_of_each(store).map_err(Into::into)?;
    refuse_missing(missing(meta, providers, &counts))
}

/// The active one must be.
pub(super) fn check_active<S>(store: &S, meta: &Meta, providers: &Providers) -> Result<(), OpenError>
where
    S: Entries<Error: Into<OpenError>>,
{
    match missing(meta, providers, &BTreeMap::new()) {
        None => Ok(()),
        // Now it matters how many need it.
        Some(_) => {
            let counts = workspaces_of_each(store).map_err(Into::into)?;
            refuse_missing(missing(meta, providers, &counts))
        }
    }
}

fn refuse_missing(missing: Option<Missing>) -> Result<(), OpenError> {
    match missing {
        None => Ok(()),
        Some(Missing {
            given,
            needed,
            workspaces,
        }) => Err(OpenError::OtherRootKey {
            given,
            needed,
            workspaces,
        }),
    }
}

/// A root key that is needed and cannot be had.
pub(super) struct Missing {
    /// The ids of those that can be.
    pub(super) given: String,
    /// Its id.
    pub(super) needed: String,
    /// How many workspaces need it.
    pub(super) workspaces: u64,
}

/// The active root key, or else one that a workspace needs, that no provider gives.
pub(super) fn missing(meta: &Meta, providers: &Providers, counts: &BTreeMap<KeyId, u64>) -> Option<Missing> {
    let known = providers.known(&meta.root_keys);
    let given = |id: &[u8]| known.iter().any(|known| known.id.as_bytes() == id);
    let (needed, workspaces) = if meta.root_key_id.is_empty() || given(&meta.root_key_id) {
        let (id, count) = counts.iter().find(|(id, _)| !given(id.as_bytes()))?;
        (id.to_string(), *count)
    } else {
        let id = KeyId::from_stored(&meta.root_key_id);
        let count = id.and_then(|id| counts.get(&id)).copied();
        (hex(&meta.root_key_id), count.unwrap_or(0))
    };
    let given: Vec<_> = known.iter().map(|known| known.id.to_string()).collect();
    Some(Missing {
        given: given.join(", "),
        needed,
        workspaces,
    })
}

/// Takes the root keys from their providers. The one that they say is active becomes so: if it was another one, its
/// rotation begins.
pub(super) async fn unseal(
    store: &Store,
    keyring: &Keyring,
    providers: &Providers,
) -> Result<(), UnsealError> {
    loop {
        match try_to_unseal(store, keyring, providers).await {
            Err(UnsealError::Vault(VaultError::Conflict)) => {}
            done => return done,
        }
    }
}

async fn try_to_unseal(store: &Store, keyring: &Keyring, providers: &Providers) -> Result<(), UnsealError> {
    let reading = store.clone();
    let (bytes, mut meta) = blocking(move || read_meta(&reading)).await?;
    let mut keys = providers.open(&meta.root_keys).await?;
    let active = providers.activate(&mut keys, &mut meta.root_keys).await?;
    if meta.root_key_id != active.as_bytes() {
        let first = meta.root_key_id.is_empty();
        meta.root_key_id = active.as_bytes().to_vec();
        let batch = Batch::new()
            .expect_value(stored::META, bytes)
            .put(stored::META, stored::encode(&meta));
        let batch = if first {
            batch
        } else {
            tracing::info!(root_key = %active, "another root key is active; workspaces' keys are moved to it");
            batch.put(stored::ROOT_ROTATION, stored::encode(&begin(store).await?))
        };
        store.commit(batch).await.map_err(VaultError::from)?;
    }
    keyring.load(keys);
    Ok(())
}

/// The root key's rotation, from its beginning.
pub(super) async fn begin(store: &Store) -> Result<Rotation, VaultError> {
    let store = store.clone();
    let counts = blocking(move || workspaces_of_each(&store).map_err(VaultError::from)).await?;
    Ok(Rotation {
        total: counts.values().sum(),
        start_time: SystemTime::now().into(),
        ..Rotation::default()
    })
}

impl Writer {
    /// Whether the root key is still to come.
    pub fn is_sealed(&self) -> bool {
        self.keyring.is_sealed()
    }

    /// Takes the root key, if its provider gives it now.
    pub async fn unseal(&self) -> Result<(), UnsealError> {
        unseal(&self.store, &self.keyring, &self.providers).await?;
        self.rotate.notify_one();
        Ok(())
    }

    /// Makes a new root key, and has all workspaces' keys moved to it.
    pub async fn rotate_root_key(&self, _: &VaultPermit) -> Result<KeyId, VaultError> {
        let roots = self.keyring.roots()?;
        let wrapper = match self.providers.active() {
            Provider::File(_) => return Err(VaultError::RootKeyFromFile),
            Provider::Wrapper(wrapper) => wrapper,
        };
        let made = self
            .retrying(async || {
                let store = self.store.clone();
                let (bytes, mut meta) = blocking(move || match store.read(stored::ROOT_ROTATION)? {
                    Some(_) => Err(VaultError::RotationUnderWay),
                    None => read_meta(&store),
                })
                .await?;
                // What is kept for now is wrapped as the new one is, so that a passphrase that was changed opens both.
                for kept in meta.root_keys.iter_mut().filter(|kept| wrapper.wrapped(kept)) {
                    if let Some(key) = of(&roots, &kept.id) {
                        kept.wrapping = Some(wrapper.wrap(key).await.map_err(VaultError::Provider)?);
                    }
                }
                let (key, wrapped) = wrapper.make().await.map_err(VaultError::Provider)?;
                let id = key.id();
                meta.root_keys.push(wrapped);
                meta.root_key_id = id.as_bytes().to_vec();
                // First, so that nothing is ever wrapped by a key that is not there.
                self.keyring.add([key]);
                let batch = Batch::new()
                    .expect_value(stored::META, bytes)
                    .expect_absent(stored::ROOT_ROTATION)
                    .put(stored::META, stored::encode(&meta))
                    .put(stored::ROOT_ROTATION, stored::encode(&begin(&self.store).await?));
                self.store.commit(batch).await?;
                Ok(id)
            })
            .await?;
        self.rotate.notify_one();
        Ok(made)
    }

    /// Has the root keys that the store holds encrypted anew when the KMS has another key for that by now.
    pub async fn follow_kms(&self) -> Result<(), UnsealError> {
        let Provider::Wrapper(wrapper) = self.providers.active() else {
            return Ok(());
        };
        let roots = self.keyring.roots()?;
        let store = self.store.clone();
        let (bytes, mut meta) = blocking(move || read_meta(&store)).await?;
        let before = meta.clone();
        for kept in meta.root_keys.iter_mut().filter(|kept| wrapper.wrapped(kept)) {
            if let Some(key) = of(&roots, &kept.id)
                && wrapper.is_stale(kept).await?
            {
                kept.wrapping = Some(wrapper.wrap(key).await?);
            }
        }
        if meta == before {
            return Ok(());
        }
        let batch = Batch::new()
            .expect_value(stored::META, bytes)
            .put(stored::META, stored::encode(&meta));
        self.store.commit(batch).await.map_err(VaultError::from)?;
        tracing::info!("the KMS has another key; the root key was encrypted with it");
        Ok(())
    }
}

fn of<'k>(keys: &'k [Arc<RootKey>], id: &[u8]) -> Option<&'k Arc<RootKey>> {
    keys.iter().find(|key| key.id().as_bytes() == id)
}
