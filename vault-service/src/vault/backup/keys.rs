//! The keys that a backup needs, and their sources.

use std::sync::Arc;

use prost::Message;

use crate::{
    crypto::{
        KeyId, RootKey,
        backup::{BackupError, BackupInfo},
    },
    root::{Providers, WrappedRootKey},
    store::{Change, Entry},
    vault::{
        VaultError,
        key_file::WrappedKeys,
        keyring::UnlockedKeys,
        stored::{self, META, Meta},
    },
};

/// Key of the item with the store keys. No entry of the store has this key.
pub(super) const KEYS: &[u8] = b"keys";

/// Wrapped root keys in the header of a backup. A root key from an operator's file is not among them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WrappedRootKeys {
    #[prost(message, repeated, tag = "1")]
    pub(super) keys: Vec<WrappedRootKey>,
}

/// Returns the root key with this `id`: the loaded one, or one from a provider. `info` is from the header of the backup, and
/// may have the wrapped root key.
pub(super) async fn find_root_key(
    id: KeyId,
    info: &BackupInfo,
    loaded: Option<&UnlockedKeys>,
    providers: &Providers,
) -> Result<Arc<RootKey>, VaultError> {
    if let Some(loaded) = loaded.filter(|loaded| loaded.root.id() == id) {
        return Ok(loaded.root.clone());
    }
    let WrappedRootKeys { keys } =
        WrappedRootKeys::decode(info.root_keys.as_slice()).map_err(|_| BackupError::Damaged(None))?;
    let wrapped = keys.iter().find(|key| key.id == id.as_bytes());
    let root = providers.open(id, wrapped).await.map_err(VaultError::Provider)?;
    Ok(root.ok_or(BackupError::OtherRootKey(id))?)
}

/// The entries of a backup that a restore needs before all others.
#[derive(Default)]
pub(super) struct BackupContents {
    meta: Option<Vec<u8>>,
    keys: Option<Vec<u8>>,
}

impl BackupContents {
    pub(super) fn note(&mut self, change: Change) {
        match change {
            Change::Put(Entry { key, value }) if key == META => self.meta = Some(value),
            Change::Put(Entry { key, value }) if key == KEYS => self.keys = Some(value),
            Change::Put(_) | Change::Delete(_) => {}
        }
    }

    /// Returns the [`Meta`] of the vault that was backed up.
    pub(super) fn meta(&self) -> Result<Meta, VaultError> {
        let bytes = self.meta.as_deref().ok_or(BackupError::Damaged(None))?;
        Ok(stored::decode(bytes)?)
    }

    /// Unwraps the store keys, which wrap the KEKs of the backup's workspaces.
    pub(super) fn keys(&self, root: Arc<RootKey>) -> Result<UnlockedKeys, VaultError> {
        let bytes = self.keys.as_deref().ok_or(BackupError::Damaged(None))?;
        let store_keys = WrappedKeys::decode(bytes)?.unwrap(&root)?;
        Ok(UnlockedKeys {
            root,
            wrapped_root: None,
            store_keys,
        })
    }
}
