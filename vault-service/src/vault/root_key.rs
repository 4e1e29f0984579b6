//! The root key: which one a store needs, unlocking, and replacing it.
//!
//! The root key wraps the store keys in the file `keys`, and nothing in the store. So one replacement of that file replaces
//! the root key.

use std::sync::Arc;

use super::{
    OpenError, UnlockError, VaultError, Writer,
    access::with_store,
    key_file::WrappedKeys,
    keyring::{Keyring, UnlockedKeys},
    store_keys,
    stored::Meta,
};
use crate::{
    authz::VaultPermit,
    crypto::{KeyId, StoreKey},
    root::{Provider, Providers},
    store::Store,
};

/// Checks that the file `keys` belongs to the store and that `providers` have its root key. Returns `None` for a store that
/// never had keys. `count` returns the number of workspaces, for the error.
pub(super) fn check_key_file(
    file: Option<WrappedKeys>,
    meta: &Meta,
    providers: &Providers,
    count: impl FnOnce() -> Result<u64, OpenError>,
) -> Result<Option<WrappedKeys>, OpenError> {
    let needed = KeyId::from_stored(&meta.store_key_id);
    let Some(file) = file else {
        return match needed {
            None => Ok(None),
            Some(_) => Err(OpenError::NoKeys),
        };
    };
    if let Some(needed) = needed.filter(|needed| !file.has_store_key(*needed)) {
        return Err(OpenError::OtherKeys(needed.to_string()));
    }
    let known = providers.known(file.wrapped_root.as_ref());
    if known.iter().any(|known| known.id == file.root_key) {
        return Ok(Some(file));
    }
    let given: Vec<_> = known.iter().map(|known| known.id.to_string()).collect();
    Err(OpenError::OtherRootKey {
        given: given.join(", "),
        needed: file.root_key.to_string(),
        workspaces: count()?,
    })
}

/// Gets the root key from its provider and the store keys from the file `keys`, and loads both into `keyring`. When the active
/// provider has another root key than the one that wraps the store keys, the function wraps them with the provider's.
pub(super) async fn unlock(
    store: &Store,
    keyring: &Keyring,
    providers: &Providers,
) -> Result<(), UnlockError> {
    let _lock = keyring.file_lock.lock().await;
    let file = with_store(store, WrappedKeys::read).await?;
    let current = match &file {
        None => None,
        Some(file) => Some(open(file, providers).await?),
    };
    let (id, wrapped) = match &current {
        None => (None, None),
        Some(current) => (Some(current.root.id()), current.wrapped_root.as_ref()),
    };
    let unlocked = match (providers.successor(id, wrapped).await?, current) {
        (None, Some(current)) => current,
        (None, None) => return Err(VaultError::KeyNotLoaded.into()),
        (Some((root, wrapped_root)), current) => {
            let store_keys = match current {
                Some(current) => {
                    tracing::info!(root_key = %root.id(), "another root key is active; it wraps the store's keys now");
                    current.store_keys
                }
                None => vec![Arc::new(StoreKey::generate().map_err(VaultError::from)?)],
            };
            let unlocked = UnlockedKeys {
                root,
                wrapped_root,
                store_keys,
            };
            WrappedKeys::replace(store, &unlocked).await?;
            unlocked
        }
    };
    store_keys::settle(store, &unlocked).await?;
    keyring.load(unlocked);
    Ok(())
}

/// Opens the file `keys` with its root key, from one of `providers`.
pub(super) async fn open(file: &WrappedKeys, providers: &Providers) -> Result<UnlockedKeys, UnlockError> {
    let root = providers.open(file.root_key, file.wrapped_root.as_ref()).await?;
    let root = root.ok_or(VaultError::KeyNotLoaded)?;
    Ok(UnlockedKeys {
        store_keys: file.unwrap(&root)?,
        wrapped_root: file.wrapped_root.clone(),
        root,
    })
}

impl Writer {
    /// Returns true while the vault has no root key.
    pub(crate) fn is_locked(&self) -> bool {
        self.keyring.is_locked()
    }

    /// Returns the permit of a command on this machine. The root key is the proof, so a locked vault returns an error.
    pub(crate) fn operator_permit(&self) -> Result<VaultPermit, VaultError> {
        Ok(VaultPermit::of_operator(&self.keyring.loaded()?.root))
    }

    /// Gets the root key from its provider. Fails when the provider does not have it, or does not answer.
    pub(crate) async fn unlock(&self) -> Result<(), UnlockError> {
        unlock(&self.store, &self.keyring, &self.providers).await?;
        self.keys_changed.notify_one();
        Ok(())
    }

    /// Makes a new root key, which has replaced the old one when this returns. Returns the id of the new root key.
    pub(crate) async fn rotate_root_key(&self, _: &VaultPermit) -> Result<KeyId, VaultError> {
        let _lock = self.keyring.file_lock.lock().await;
        let current = self.keyring.loaded()?;
        let wrapper = match self.providers.active() {
            Provider::File(_) => return Err(VaultError::RootKeyFromFile),
            Provider::Wrapper(wrapper) => wrapper,
        };
        let (root, wrapped_root) = wrapper.generate().await.map_err(VaultError::Provider)?;
        let id = root.id();
        let unlocked = UnlockedKeys {
            root,
            wrapped_root: Some(wrapped_root),
            ..current
        };
        WrappedKeys::replace(&self.store, &unlocked).await?;
        self.keyring.load(unlocked);
        Ok(id)
    }

    /// Encrypts the root key again when the KMS has switched to another key.
    pub(crate) async fn follow_kms(&self) -> Result<(), UnlockError> {
        let Provider::Wrapper(wrapper) = self.providers.active() else {
            return Ok(());
        };
        let _lock = self.keyring.file_lock.lock().await;
        let mut unlocked = self.keyring.loaded()?;
        let Some(wrapped_root) = &mut unlocked.wrapped_root else {
            return Ok(());
        };
        if !wrapper.is_stale(wrapped_root).await? {
            return Ok(());
        }
        wrapped_root.wrapping = Some(wrapper.wrap(&unlocked.root).await?);
        WrappedKeys::replace(&self.store, &unlocked).await?;
        self.keyring.load(unlocked);
        tracing::info!("the KMS has another key; the root key was encrypted with it");
        Ok(())
    }
}
