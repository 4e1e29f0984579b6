//! The store's file `keys`: the store keys, wrapped by the root key.
//!
//! The file usually has one store key. While a new store key replaces an old one, the file has both, until no workspace needs
//! the old one.

use std::sync::Arc;

use prost::Message;

use super::{VaultError, access::with_store, keyring::UnlockedKeys, stored};
use crate::{
    crypto::{KeyId, NoRandomness, RootKey, StoreKey, root_key_id, wrapped_store_key_id},
    root::WrappedRootKey,
    store::{ReadEntries, Store},
};

#[derive(Clone, PartialEq)]
pub(super) struct WrappedKeys {
    /// Id of the root key, which wraps all store keys.
    pub(super) root_key: KeyId,
    /// The root key itself, wrapped by its provider; `None` when an operator's file holds the root key.
    pub(super) wrapped_root: Option<WrappedRootKey>,
    /// The wrapped store keys; the newest is the last.
    pub(super) store_keys: Vec<WrappedStoreKey>,
}

#[derive(Clone, PartialEq)]
pub(super) struct WrappedStoreKey {
    pub(super) id: KeyId,
    bytes: Vec<u8>,
}

/// Encoded form of the file.
#[derive(Clone, PartialEq, Message)]
struct KeyFileContent {
    #[prost(message, optional, tag = "1")]
    wrapped_root: Option<WrappedRootKey>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    store_keys: Vec<Vec<u8>>,
}

impl WrappedKeys {
    /// Wraps the store keys with the root key.
    pub(super) fn wrap(
        root: &RootKey,
        wrapped_root: Option<WrappedRootKey>,
        store_keys: &[Arc<StoreKey>],
    ) -> Result<Self, NoRandomness> {
        let wrapped = |key: &Arc<StoreKey>| {
            Ok(WrappedStoreKey {
                id: key.id(),
                bytes: root.wrap(key)?,
            })
        };
        Ok(Self {
            root_key: root.id(),
            wrapped_root,
            store_keys: store_keys.iter().map(wrapped).collect::<Result<_, _>>()?,
        })
    }

    /// Unwraps the store keys.
    pub(super) fn unwrap(&self, root: &RootKey) -> Result<Vec<Arc<StoreKey>>, VaultError> {
        let unwrap = |key: &WrappedStoreKey| Ok(Arc::new(root.unwrap(&key.bytes)?));
        self.store_keys.iter().map(unwrap).collect()
    }

    /// Returns true when the file has the store key with this id.
    pub(super) fn has_store_key(&self, id: KeyId) -> bool {
        self.store_keys.iter().any(|key| key.id == id)
    }

    /// Decodes the file. Fails unless the file has at least one store key and one root key wraps all of them.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, VaultError> {
        let KeyFileContent {
            wrapped_root,
            store_keys,
        } = stored::decode(bytes)?;
        let mut roots = Vec::new();
        let mut wrapped = Vec::new();
        for bytes in store_keys {
            roots.push(root_key_id(&bytes)?);
            let id = wrapped_store_key_id(&bytes)?;
            wrapped.push(WrappedStoreKey { id, bytes });
        }
        let root_key = *roots.first().ok_or(VaultError::Corrupt(None))?;
        let is_same_root = wrapped_root
            .as_ref()
            .is_none_or(|wrapped_root| wrapped_root.id == root_key.as_bytes());
        if !is_same_root || roots.iter().any(|root| *root != root_key) {
            return Err(VaultError::Corrupt(None));
        }
        Ok(Self {
            root_key,
            wrapped_root,
            store_keys: wrapped,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Self {
            root_key: _,
            wrapped_root,
            store_keys,
        } = self;
        stored::encode(&KeyFileContent {
            wrapped_root: wrapped_root.clone(),
            store_keys: store_keys.iter().map(|key| key.bytes.clone()).collect(),
        })
    }

    /// Reads the file of a store; returns `None` when the store has none yet. Blocking.
    pub(super) fn read(store: &impl ReadEntries) -> Result<Option<Self>, VaultError> {
        store.key_file()?.map(|bytes| Self::decode(&bytes)).transpose()
    }

    /// Replaces the file of a store by one with the `unlocked` keys.
    pub(super) async fn replace(store: &Store, unlocked: &UnlockedKeys) -> Result<(), VaultError> {
        let UnlockedKeys {
            root,
            wrapped_root,
            store_keys,
        } = unlocked;
        let file = Self::wrap(root, wrapped_root.clone(), store_keys)?;
        with_store(store, move |store| Ok(store.replace_key_file(&file.encode())?)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> Vec<Arc<StoreKey>> {
        let key = |_| Arc::new(StoreKey::generate().expect("randomness"));
        (0..count).map(key).collect()
    }

    #[test]
    fn wrapped_store_keys_unwrap_with_their_root_key() {
        let root = RootKey::generate().expect("randomness");
        let keys = keys(2);
        let file = WrappedKeys::wrap(&root, None, &keys).expect("randomness");
        let decoded = WrappedKeys::decode(&file.encode()).expect("a file of this root key");
        let unwrapped = decoded.unwrap(&root).expect("a file of this root key");
        assert!(decoded == file);
        assert!(
            unwrapped
                .iter()
                .map(|key| key.id())
                .eq(keys.iter().map(|key| key.id()))
        );
        assert!(keys.iter().all(|key| decoded.has_store_key(key.id())));
    }

    #[test]
    fn a_file_without_store_keys_or_with_two_root_keys_is_refused() {
        let [one, two] = [(); 2].map(|()| RootKey::generate().expect("randomness"));
        let wrap = |root, count| WrappedKeys::wrap(root, None, &keys(count)).expect("randomness");
        assert!(WrappedKeys::decode(&wrap(&one, 0).encode()).is_err());
        let mut mixed = wrap(&one, 1);
        mixed.store_keys.extend(wrap(&two, 1).store_keys);
        assert!(WrappedKeys::decode(&mixed.encode()).is_err());
        let mut mismatched = wrap(&one, 1);
        mismatched.wrapped_root = Some(WrappedRootKey {
            id: two.id().as_bytes().to_vec(),
            ..WrappedRootKey::default()
        });
        assert!(WrappedKeys::decode(&mismatched.encode()).is_err());
    }
}
