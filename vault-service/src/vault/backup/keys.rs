//! Which root keys a backup needs, and where they come from.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;

use super::Archive;
use crate::{
    crypto::{KeyId, RootKey, backup::BackupError},
    root::{Providers, WrappedRootKey},
    store::{Change, Entry, Store},
    vault::{
        VaultError,
        roots::{self, Missing},
        stored::{self, META, Meta, WORKSPACES},
    },
};

/// The root keys that no file holds, as a backup's header has them. They are in its contents too, but those can be read only
/// with one of them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HeldRootKeys {
    #[prost(message, repeated, tag = "1")]
    pub(super) keys: Vec<WrappedRootKey>,
}

/// The root keys that workspaces need beside the active one.
pub(super) fn further(store: &Store, active: KeyId) -> Result<Vec<KeyId>, VaultError> {
    // Only a rotation leaves workspaces under another one.
    if store.read(stored::ROOT_ROTATION)?.is_none() {
        return Ok(Vec::new());
    }
    let needed = roots::workspaces_of_each(store)?.into_keys();
    Ok(needed.filter(|id| *id != active).collect())
}

/// The root key that the archive's header names: one of `loaded`, or one that the header holds and a provider unwraps.
pub(super) async fn opening(
    archive: &Archive,
    loaded: &[Arc<RootKey>],
    providers: &Providers,
) -> Result<Arc<RootKey>, VaultError> {
    let id = archive.root_key();
    let named = |keys: &[Arc<RootKey>]| keys.iter().find(|key| key.id() == id).cloned();
    if let Some(root) = named(loaded) {
        return Ok(root);
    }
    let HeldRootKeys { mut keys } =
        HeldRootKeys::decode(archive.about().root_keys.as_slice()).map_err(|_| BackupError::Damaged(None))?;
    keys.retain(|kept| kept.id == id.as_bytes());
    let opened = providers.open(&keys).await.map_err(VaultError::Provider)?;
    Ok(named(&opened).ok_or(BackupError::OtherRootKey(id))?)
}

/// What a backup's contents say of root keys.
#[derive(Default)]
pub(super) struct Described {
    meta: Option<Vec<u8>>,
    /// What each workspace needs, by its key in the store.
    workspaces: BTreeMap<Vec<u8>, Vec<KeyId>>,
}

impl Described {
    pub(super) fn note(&mut self, change: Change) {
        match change {
            Change::Put(Entry { key, value }) if key == META => self.meta = Some(value),
            Change::Put(Entry { key, value }) if key.starts_with(WORKSPACES) => {
                self.workspaces.insert(key, roots::roots_of(&value));
            }
            Change::Delete(key) => {
                self.workspaces.remove(&key);
            }
            Change::Put(_) => {}
        }
    }

    /// What the vault that was backed up said of itself.
    pub(super) fn meta(&self) -> Result<Meta, VaultError> {
        let bytes = self.meta.as_deref().ok_or(BackupError::Damaged(None))?;
        Ok(stored::decode(bytes)?)
    }

    /// Fails when a store with these contents could not be opened with these providers.
    pub(super) fn refuse_missing(&self, meta: &Meta, providers: &Providers) -> Result<(), VaultError> {
        let mut counts = BTreeMap::new();
        for id in self.workspaces.values().flatten() {
            *counts.entry(*id).or_default() += 1;
        }
        match roots::missing(meta, providers, &counts) {
            None => Ok(()),
            Some(Missing {
                given,
                needed,
                workspaces,
            }) => Err(VaultError::BackupNeedsRootKey {
                given,
                needed,
                workspaces,
            }),
        }
    }
}
