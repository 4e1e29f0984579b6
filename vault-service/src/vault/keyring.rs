//! The root keys, and the workspaces' keys that were unwrapped with them. Each is chosen by its id, and none is tried.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use proto::Uid;

use super::VaultError;
use crate::crypto::{KeyId, RootKey, WorkspaceKek, root_key_id, wrapped_kek_id};

/// Workspace KEKs kept unwrapped; some 150 bytes each. Beyond it, one is dropped (and wiped) for each that comes in.
const KEPT: usize = 10_000;
/// Destroyed KEKs that are remembered, so that a call which read the workspace before does not bring one back.
const DESTROYED: usize = 256;

pub(super) struct Keyring {
    /// None while the vault is sealed.
    roots: RwLock<Option<Vec<Arc<RootKey>>>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    keks: HashMap<(Uid, KeyId), Arc<WorkspaceKek>>,
    destroyed: VecDeque<KeyId>,
}

impl Keyring {
    /// One that has still to be given root keys.
    pub(super) fn sealed() -> Self {
        Self {
            roots: RwLock::new(None),
            kept: Mutex::default(),
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.roots
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Takes its first root keys.
    pub(super) fn load(&self, roots: Vec<Arc<RootKey>>) {
        *self.roots.write().unwrap_or_else(PoisonError::into_inner) = Some(roots);
    }

    /// Takes these root keys, too.
    pub(super) fn add(&self, more: impl IntoIterator<Item = Arc<RootKey>>) {
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        // Who is sealed takes all that it needs when it unseals.
        let Some(roots) = roots.as_mut() else { return };
        for root in more {
            if roots.iter().all(|held| held.id() != root.id()) {
                roots.push(root);
            }
        }
    }

    /// Wipes root keys that nothing needs any more.
    pub(super) fn unload(&self, ids: &[KeyId]) {
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(roots) = &mut *roots {
            roots.retain(|root| !ids.contains(&root.id()));
        }
    }

    /// All root keys.
    pub(super) fn roots(&self) -> Result<Vec<Arc<RootKey>>, VaultError> {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots.clone().ok_or(VaultError::Sealed)
    }

    /// The root key that `id` names.
    pub(super) fn root(&self, id: KeyId) -> Result<Arc<RootKey>, VaultError> {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        let roots = roots.as_ref().ok_or(VaultError::Sealed)?;
        let root = roots.iter().find(|root| root.id() == id);
        root.cloned().ok_or(VaultError::KeyNotLoaded)
    }

    /// A new KEK for a workspace, wrapped by the root key that `root` names.
    pub(super) fn make(&self, workspace: &Uid, root: KeyId) -> Result<Vec<u8>, VaultError> {
        let root = self.root(root)?;
        Ok(root.wrap(&WorkspaceKek::generate()?, workspace)?)
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

    /// The same KEK, wrapped by the root key that `to` names; none when it is already.
    pub(super) fn rewrap(
        &self,
        workspace: &Uid,
        wrapped: &[u8],
        to: KeyId,
    ) -> Result<Option<Vec<u8>>, VaultError> {
        if root_key_id(wrapped)? == to {
            return Ok(None);
        }
        let kek = self.unwrap(workspace, wrapped)?;
        Ok(Some(self.root(to)?.wrap(&kek, workspace)?))
    }

    fn unwrap(&self, workspace: &Uid, wrapped: &[u8]) -> Result<WorkspaceKek, VaultError> {
        Ok(self.root(root_key_id(wrapped)?)?.unwrap(wrapped, workspace)?)
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

    #[test]
    fn so_many_keys_are_kept_in_memory_and_no_more() {
        let (keyring, root) = (Keyring::sealed(), Arc::new(RootKey::generate().unwrap()));
        keyring.load(vec![root.clone()]);
        for number in 0..KEPT + 10 {
            let workspace = Uid::generate();
            let wrapped = keyring.make(&workspace, root.id()).unwrap();
            keyring.open(&workspace, &wrapped).unwrap();
            assert!(keyring.holds(&workspace, &wrapped), "{number}");
        }
        assert_eq!(keyring.kept().keks.len(), KEPT);
    }

    #[test]
    fn so_many_destroyed_keys_are_remembered_and_no_more() {
        let (keyring, root) = (Keyring::sealed(), Arc::new(RootKey::generate().unwrap()));
        keyring.load(vec![root.clone()]);
        for _ in 0..DESTROYED + 10 {
            let workspace = Uid::generate();
            let wrapped = keyring.make(&workspace, root.id()).unwrap();
            keyring.forget(&workspace, &wrapped);
            keyring.open(&workspace, &wrapped).unwrap();
            assert!(!keyring.holds(&workspace, &wrapped));
        }
        assert_eq!(keyring.kept().destroyed.len(), DESTROYED);
    }
}
