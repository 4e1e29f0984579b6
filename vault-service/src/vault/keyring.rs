//! The root key, the store keys, and the workspaces' keys that were unwrapped with them. The keyring selects each key
//! by its id, and never by trial decryption.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use proto::Uid;

use super::VaultError;
use crate::{
    crypto::{KeyId, RootKey, StoreKey, WorkspaceKek, store_key_id, wrapped_kek_id},
    root::WrappedRootKey,
};

/// Workspace KEKs kept unwrapped; some 150 bytes each. Beyond it, one is dropped (and wiped) for each that comes in.
const KEPT: usize = 10_000;
/// Destroyed KEKs that are remembered, so that a call which read the workspace before does not bring one back.
const DESTROYED: usize = 256;

pub(super) struct Keyring {
    /// None while the vault is sealed.
    loaded: RwLock<Option<UnsealedKeys>>,
    kept: Mutex<Kept>,
    /// Held while the file `keys` is replaced, so that one change of it does not undo another.
    pub(super) file: tokio::sync::Mutex<()>,
    /// Read while a backup is made, and written while a store key is destroyed.
    pub(super) exports: Arc<tokio::sync::RwLock<()>>,
}

/// The keys of an unsealed vault. A key is wiped when its last clone is dropped.
#[derive(Clone)]
pub(super) struct UnsealedKeys {
    pub(super) root: Arc<RootKey>,
    /// The root key as the file `keys` holds it. Kept beside `root`, so that the two always belong together.
    pub(super) held: Option<WrappedRootKey>,
    pub(super) store_keys: Vec<Arc<StoreKey>>,
}

#[derive(Default)]
struct Kept {
    keks: HashMap<(Uid, KeyId), Arc<WorkspaceKek>>,
    destroyed: VecDeque<KeyId>,
}

impl UnsealedKeys {
    /// The store key that `id` names.
    pub(super) fn store_key(&self, id: KeyId) -> Result<&Arc<StoreKey>, VaultError> {
        let mut keys = self.store_keys.iter();
        keys.find(|key| key.id() == id).ok_or(VaultError::KeyNotLoaded)
    }

    /// A KEK of a workspace.
    pub(super) fn unwrap(&self, workspace: &Uid, wrapped: &[u8]) -> Result<WorkspaceKek, VaultError> {
        Ok(self
            .store_key(store_key_id(wrapped)?)?
            .unwrap(wrapped, workspace)?)
    }
}

impl Keyring {
    /// Makes a keyring without keys, as a sealed vault has it.
    pub(super) fn sealed() -> Self {
        Self {
            loaded: RwLock::new(None),
            kept: Mutex::default(),
            file: tokio::sync::Mutex::default(),
            exports: Arc::default(),
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.loaded
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Replaces the loaded keys with `loaded`.
    pub(super) fn load(&self, loaded: UnsealedKeys) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
    }

    /// Returns the root key and the store keys; fails while the vault is sealed.
    pub(super) fn loaded(&self) -> Result<UnsealedKeys, VaultError> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.clone().ok_or(VaultError::Sealed)
    }

    /// The store key that `id` names.
    fn store_key(&self, id: KeyId) -> Result<Arc<StoreKey>, VaultError> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.as_ref().ok_or(VaultError::Sealed)?.store_key(id).cloned()
    }

    /// Makes a new KEK for a workspace, and returns it wrapped by the store key that `store_key` names.
    pub(super) fn make(&self, workspace: &Uid, store_key: KeyId) -> Result<Vec<u8>, VaultError> {
        self.wrap(&WorkspaceKek::generate()?, workspace, store_key)
    }

    /// Wraps a KEK of a workspace with the store key that `store_key` names.
    pub(super) fn wrap(
        &self,
        kek: &WorkspaceKek,
        workspace: &Uid,
        store_key: KeyId,
    ) -> Result<Vec<u8>, VaultError> {
        Ok(self.store_key(store_key)?.wrap(kek, workspace)?)
    }

    /// A workspace's KEK.
    pub(super) fn open(&self, workspace: &Uid, wrapped: &[u8]) -> Result<Arc<WorkspaceKek>, VaultError> {
        let id = (*workspace, wrapped_kek_id(wrapped)?);
        if let Some(kek) = self.kept().keks.get(&id) {
            return Ok(kek.clone());
        }
        let kek = Arc::new(self.unwrap(workspace, wrapped)?);
        let mut kept = self.kept();
        if kept.destroyed.contains(&id.1) {
            return Ok(kek);
        }
        if kept.keks.len() >= KEPT
            && let Some(one) = kept.keks.keys().next().copied()
        {
            kept.keks.remove(&one);
        }
        kept.keks.insert(id, kek.clone());
        Ok(kek)
    }

    /// Rewraps a KEK with the store key that `to` names; returns `None` when that store key wraps it already.
    pub(super) fn rewrap(
        &self,
        workspace: &Uid,
        wrapped: &[u8],
        to: KeyId,
    ) -> Result<Option<Vec<u8>>, VaultError> {
        if store_key_id(wrapped)? == to {
            return Ok(None);
        }
        Ok(Some(self.wrap(
            &self.unwrap(workspace, wrapped)?,
            workspace,
            to,
        )?))
    }

    fn unwrap(&self, workspace: &Uid, wrapped: &[u8]) -> Result<WorkspaceKek, VaultError> {
        Ok(self
            .store_key(store_key_id(wrapped)?)?
            .unwrap(wrapped, workspace)?)
    }

    /// Wipes a KEK that was destroyed.
    pub(super) fn forget(&self, workspace: &Uid, wrapped: &[u8]) {
        // What does not parse was never unwrapped.
        let Ok(id) = wrapped_kek_id(wrapped) else { return };
        let mut kept = self.kept();
        kept.keks.remove(&(*workspace, id));
        kept.destroyed.push_back(id);
        if kept.destroyed.len() > DESTROYED {
            kept.destroyed.pop_front();
        }
    }

    /// Wipes every KEK: workspaces may have others now, and such as were destroyed.
    pub(super) fn forget_all(&self) {
        *self.kept() = Kept::default();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a KEK is in memory.
    #[cfg(test)]
    pub(super) fn holds(&self, workspace: &Uid, wrapped: &[u8]) -> bool {
        let id = (*workspace, wrapped_kek_id(wrapped).unwrap());
        self.kept().keks.contains_key(&id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    /// One with a store key, and the id of that.
    fn unsealed() -> (Keyring, KeyId) {
        let (keyring, store_key) = (Keyring::sealed(), Arc::new(StoreKey::generate().unwrap()));
        let id = store_key.id();
        keyring.load(UnsealedKeys {
            root: Arc::new(RootKey::generate().unwrap()),
            held: None,
            store_keys: vec![store_key],
        });
        (keyring, id)
    }

    #[test]
    fn so_many_keys_are_kept_in_memory_and_no_more() {
        let (keyring, store_key) = unsealed();
        for number in 0..KEPT + 10 {
            let workspace = Uid::generate();
            let wrapped = keyring.make(&workspace, store_key).unwrap();
            keyring.open(&workspace, &wrapped).unwrap();
            assert!(keyring.holds(&workspace, &wrapped), "{number}");
        }
        assert_eq!(keyring.kept().keks.len(), KEPT);
    }

    #[test]
    fn so_many_destroyed_keys_are_remembered_and_no_more() {
        let (keyring, store_key) = unsealed();
        for _ in 0..DESTROYED + 10 {
            let workspace = Uid::generate();
            let wrapped = keyring.make(&workspace, store_key).unwrap();
            keyring.forget(&workspace, &wrapped);
            keyring.open(&workspace, &wrapped).unwrap();
            assert!(!keyring.holds(&workspace, &wrapped));
        }
        assert_eq!(keyring.kept().destroyed.len(), DESTROYED);
    }
}
