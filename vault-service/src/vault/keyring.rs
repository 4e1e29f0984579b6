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

/// Maximum number of unwrapped KEKs in the cache, of some 150 bytes each. Beyond it, each new KEK evicts (and wipes) another.
const MAX_CACHED: usize = 10_000;
/// Number of destroyed KEKs that are remembered, so that a call which read its workspace earlier does not cache one again.
const MAX_DESTROYED: usize = 256;

pub(super) struct Keyring {
    /// `None` while the vault is locked.
    loaded: RwLock<Option<UnlockedKeys>>,
    keks: Mutex<KekCache>,
    /// Held while the file `keys` is replaced, so that one change of the file does not undo another.
    pub(super) file_lock: tokio::sync::Mutex<()>,
    /// Read-locked while a backup is made, and write-locked while store keys are destroyed.
    pub(super) exports: Arc<tokio::sync::RwLock<()>>,
}

/// The keys of an unlocked vault. A key is wiped when its last clone is dropped.
#[derive(Clone)]
pub(super) struct UnlockedKeys {
    pub(super) root: Arc<RootKey>,
    /// `root` as wrapped by its provider, in the file `keys`; `None` when an operator's file holds the root key.
    pub(super) wrapped_root: Option<WrappedRootKey>,
    pub(super) store_keys: Vec<Arc<StoreKey>>,
}

#[derive(Default)]
struct KekCache {
    by_id: HashMap<(Uid, KeyId), Arc<WorkspaceKek>>,
    destroyed: VecDeque<KeyId>,
}

impl UnlockedKeys {
    pub(super) fn store_key(&self, id: KeyId) -> Result<&Arc<StoreKey>, VaultError> {
        let mut keys = self.store_keys.iter();
        keys.find(|key| key.id() == id).ok_or(VaultError::KeyNotLoaded)
    }

    pub(super) fn unwrap(&self, workspace: &Uid, wrapped: &[u8]) -> Result<WorkspaceKek, VaultError> {
        Ok(self
            .store_key(store_key_id(wrapped)?)?
            .unwrap(wrapped, workspace)?)
    }
}

impl Keyring {
    /// Makes the keyring of a locked vault, without keys.
    pub(super) fn locked() -> Self {
        Self {
            loaded: RwLock::new(None),
            keks: Mutex::default(),
            file_lock: tokio::sync::Mutex::default(),
            exports: Arc::default(),
        }
    }

    pub(super) fn is_locked(&self) -> bool {
        self.loaded
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    pub(super) fn load(&self, loaded: UnlockedKeys) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
    }

    /// Returns the root key and the store keys; fails while the vault is locked.
    pub(super) fn loaded(&self) -> Result<UnlockedKeys, VaultError> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.clone().ok_or(VaultError::Locked)
    }

    fn store_key(&self, id: KeyId) -> Result<Arc<StoreKey>, VaultError> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.as_ref().ok_or(VaultError::Locked)?.store_key(id).cloned()
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

    /// Returns a KEK of a workspace, from the cache or unwrapped.
    pub(super) fn open(&self, workspace: &Uid, wrapped: &[u8]) -> Result<Arc<WorkspaceKek>, VaultError> {
        let id = (*workspace, wrapped_kek_id(wrapped)?);
        if let Some(kek) = self.cache().by_id.get(&id) {
            return Ok(kek.clone());
        }
        let kek = Arc::new(self.unwrap(workspace, wrapped)?);
        let mut cache = self.cache();
        if cache.destroyed.contains(&id.1) {
            return Ok(kek);
        }
        if cache.by_id.len() >= MAX_CACHED
            && let Some(one) = cache.by_id.keys().next().copied()
        {
            cache.by_id.remove(&one);
        }
        cache.by_id.insert(id, kek.clone());
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

    /// Removes a destroyed KEK from the cache, which wipes it.
    pub(super) fn forget(&self, workspace: &Uid, wrapped: &[u8]) {
        // A KEK without a valid id was never unwrapped.
        let Ok(id) = wrapped_kek_id(wrapped) else { return };
        let mut cache = self.cache();
        cache.by_id.remove(&(*workspace, id));
        cache.destroyed.push_back(id);
        if cache.destroyed.len() > MAX_DESTROYED {
            cache.destroyed.pop_front();
        }
    }

    /// Empties the cache, after a restored backup brought workspaces with KEKs of their own.
    pub(super) fn forget_all(&self) {
        *self.cache() = KekCache::default();
    }

    fn cache(&self) -> MutexGuard<'_, KekCache> {
        self.keks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true when the KEK is in the cache.
    #[cfg(test)]
    pub(super) fn is_cached(&self, workspace: &Uid, wrapped: &[u8]) -> bool {
        let id = (*workspace, wrapped_kek_id(wrapped).unwrap());
        self.cache().by_id.contains_key(&id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    /// Returns a keyring with one store key, and the id of that key.
    fn unlocked() -> (Keyring, KeyId) {
        let (keyring, store_key) = (Keyring::locked(), Arc::new(StoreKey::generate().unwrap()));
        let id = store_key.id();
        keyring.load(UnlockedKeys {
            root: Arc::new(RootKey::generate().unwrap()),
            wrapped_root: None,
            store_keys: vec![store_key],
        });
        (keyring, id)
    }

    #[test]
    fn the_number_of_cached_keks_is_bounded() {
        let (keyring, store_key) = unlocked();
        for number in 0..MAX_CACHED + 10 {
            let workspace = Uid::generate();
            let wrapped = keyring.make(&workspace, store_key).unwrap();
            keyring.open(&workspace, &wrapped).unwrap();
            assert!(keyring.is_cached(&workspace, &wrapped), "{number}");
        }
        assert_eq!(keyring.cache().by_id.len(), MAX_CACHED);
    }

    #[test]
    fn the_number_of_remembered_destroyed_keks_is_bounded() {
        let (keyring, store_key) = unlocked();
        for _ in 0..MAX_DESTROYED + 10 {
            let workspace = Uid::generate();
            let wrapped = keyring.make(&workspace, store_key).unwrap();
            keyring.forget(&workspace, &wrapped);
            keyring.open(&workspace, &wrapped).unwrap();
            assert!(!keyring.is_cached(&workspace, &wrapped));
        }
        assert_eq!(keyring.cache().destroyed.len(), MAX_DESTROYED);
    }
}
