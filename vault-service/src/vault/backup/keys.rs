//! The keys that a backup needs, and their sources.

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

/// Wrapped root keys that no root key file holds, as stored in a backup's header.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HeldRootKeys {
    #[prost(message, repeated, tag = "1")]
    pub(super) keys: Vec<WrappedRootKey>,
}

/// Returns the root key that the archive's header names: the loaded one, or one from a provider.
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
        HeldRootKeys::decode(archive.info().root_keys.as_slice()).map_err(|_| BackupError::Damaged(None))?;
    let held = keys.iter().find(|held| held.id == id.as_bytes());
    let opened = providers.open(id, held).await.map_err(VaultError::Provider)?;
    Ok(opened.ok_or(BackupError::OtherRootKey(id))?)
}

/// Description of the vault that was backed up, from the backup's contents.
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

    /// Opens the store keys that wrap the keys of the backup's workspaces.
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
