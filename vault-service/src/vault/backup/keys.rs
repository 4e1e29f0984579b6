//! Which keys a backup needs, and where they come from.

use std::sync::Arc;

use prost::Message;

use super::{Archive, KEYS};
use crate::{
    crypto::{RootKey, backup::BackupError},
    root::{Providers, WrappedRootKey},
    store::{Change, Entry},
    vault::{
        VaultError,
        key_file::KeyFile,
        keyring::UnsealedKeys,
        stored::{self, META, Meta},
    },
};

/// The root keys that no file holds, as a backup's header has them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HeldRootKeys {
    #[prost(message, repeated, tag = "1")]
    pub(super) keys: Vec<WrappedRootKey>,
}

/// The root key that the archive's header names: the one that is loaded, or one that a provider gives.
pub(super) async fn opening(
    archive: &Archive,
    loaded: Option<&UnsealedKeys>,
    providers: &Providers,
) -> Result<Arc<RootKey>, VaultError> {
    let id = archive.root_key();
    if let Some(loaded) = loaded.filter(|loaded| loaded.root.id() == id) {
        return Ok(loaded.root.clone());
    }
    let HeldRootKeys { keys } =
        HeldRootKeys::decode(archive.about().root_keys.as_slice()).map_err(|_| BackupError::Damaged(None))?;
    let held = keys.iter().find(|held| held.id == id.as_bytes());
    let opened = providers.open(id, held).await.map_err(VaultError::Provider)?;
    Ok(opened.ok_or(BackupError::OtherRootKey(id))?)
}

/// What a backup's contents say of the vault that was backed up.
#[derive(Default)]
pub(super) struct Described {
    meta: Option<Vec<u8>>,
    keys: Option<Vec<u8>>,
}

impl Described {
    pub(super) fn note(&mut self, change: Change) {
        match change {
            Change::Put(Entry { key, value }) if key == META => self.meta = Some(value),
            Change::Put(Entry { key, value }) if key == KEYS => self.keys = Some(value),
            Change::Put(_) | Change::Delete(_) => {}
        }
    }

    /// What the vault that was backed up said of itself.
    pub(super) fn meta(&self) -> Result<Meta, VaultError> {
        let bytes = self.meta.as_deref().ok_or(BackupError::Damaged(None))?;
        Ok(stored::decode(bytes)?)
    }

    /// The keys that its workspaces' keys are under.
    pub(super) fn keys(&self, root: Arc<RootKey>) -> Result<UnsealedKeys, VaultError> {
        let bytes = self.keys.as_deref().ok_or(BackupError::Damaged(None))?;
        let store_keys = KeyFile::decode(bytes)?.open(&root)?;
        Ok(UnsealedKeys {
            root,
            held: None,
            store_keys,
        })
    }
}
