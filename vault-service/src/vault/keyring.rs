//! The root key, and the workspaces' keys that were unwrapped with it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use proto::Uid;

use crate::crypto::{self, NoRandomness, RootKey, WorkspaceKek};

/// Workspace KEKs kept unwrapped; some 100 bytes each. Beyond it, one is dropped (and wiped) for each that comes in.
const KEPT: usize = 10_000;

pub(super) struct Keyring {
    root: RootKey,
    unwrapped: Mutex<HashMap<Uid, Arc<WorkspaceKek>>>,
}

impl Keyring {
    pub(super) fn new(root: RootKey) -> Self {
        Self {
            root,
            unwrapped: Mutex::default(),
        }
    }

    /// The root key.
    pub(super) fn root(&self) -> &RootKey {
        &self.root
    }

    /// A new KEK for a workspace, wrapped.
    pub(super) fn make(&self, workspace: &Uid) -> Result<Vec<u8>, NoRandomness> {
        self.root.wrap(&WorkspaceKek::generate()?, workspace)
    }

    /// A workspace's KEK.
    pub(super) fn open(
        &self,
        workspace: &Uid,
        wrapped: &[u8],
    ) -> Result<Arc<WorkspaceKek>, crypto::OpenError> {
        if let Some(kek) = self.kept().get(workspace) {
            return Ok(kek.clone());
        }
        let kek = Arc::new(self.root.unwrap(wrapped, workspace)?);
        let mut kept = self.kept();
        if kept.len() >= KEPT
            && let Some(one) = kept.keys().next().copied()
        {
            kept.remove(&one);
        }
        kept.insert(*workspace, kek.clone());
        Ok(kek)
    }

    /// Wipes a deleted workspace's KEK.
    pub(super) fn forget(&self, workspace: &Uid) {
        self.kept().remove(workspace);
    }

    /// Wipes every KEK: workspaces may have others now.
    pub(super) fn forget_all(&self) {
        self.kept().clear();
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Uid, Arc<WorkspaceKek>>> {
        self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
