//! The store's file `keys`: its store keys, wrapped by the root key.
//!
//! Usually it holds one. While a store key replaces another one it holds both, until no workspace needs the old one.

use std::sync::Arc;

use prost::Message;

use super::{VaultError, stored};
use crate::{
    crypto::{KeyId, NoRandomness, RootKey, StoreKey, root_key_id, wrapped_store_key_id},
    root::WrappedRootKey,
    store::{ReadEntries, Store},
};

/// The content of the file.
#[derive(Clone, PartialEq)]
pub(super) struct KeyFile {
    /// The id of the root key, which wraps all that follow.
    pub(super) root_key: KeyId,
    /// The root key itself, unless a file of the operator's holds it.
    pub(super) held: Option<WrappedRootKey>,
    /// The store keys, wrapped; the newest is the last.
    pub(super) store_keys: Vec<WrappedStoreKey>,
}

#[derive(Clone, PartialEq)]
pub(super) struct WrappedStoreKey {
    pub(super) id: KeyId,
    bytes: Vec<u8>,
}

/// The file's content, encoded.
#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(message, optional, tag = "1")]
    held: Option<WrappedRootKey>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    store_keys: Vec<Vec<u8>>,
}

impl KeyFile {
    /// Wraps the store keys with the root key.
    pub(super) fn seal(
        root: &RootKey,
        held: Option<WrappedRootKey>,
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
            held,
            store_keys: store_keys.iter().map(wrapped).collect::<Result<_, _>>()?,
        })
    }

    /// Unwraps the store keys.
    pub(super) fn open(&self, root: &RootKey) -> Result<Vec<Arc<StoreKey>>, VaultError> {
        let open = |key: &WrappedStoreKey| Ok(Arc::new(root.unwrap(&key.bytes)?));
        self.store_keys.iter().map(open).collect()
    }

    /// True if the file holds the store key that `id` names.
    pub(super) fn holds(&self, id: KeyId) -> bool {
        self.store_keys.iter().any(|key| key.id == id)
    }

    /// Decodes the file. Fails unless the file has at least one store key and one root key wraps all of them.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, VaultError> {
        let Content { held, store_keys } = stored::decode(bytes)?;
        let mut roots = Vec::new();
        let mut wrapped = Vec::new();
        for bytes in store_keys {
            roots.push(root_key_id(&bytes)?);
            let id = wrapped_store_key_id(&bytes)?;
            wrapped.push(WrappedStoreKey { id, bytes });
        }
        let root_key = *roots.first().ok_or(VaultError::Corrupt(None))?;
        let of_it = held.as_ref().is_none_or(|held| held.id == root_key.as_bytes());
        if !of_it || roots.iter().any(|root| *root != root_key) {
            return Err(VaultError::Corrupt(None));
        }
        Ok(Self {
            root_key,
            held,
            store_keys: wrapped,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Self {
            root_key: _,
            held,
            store_keys,
        } = self;
        stored::encode(&Content {
            held: held.clone(),
            store_keys: store_keys.iter().map(|key| key.bytes.clone()).collect(),
        })
    }

    /// Reads the file of a store; returns `None` when the store has none yet. Blocking.
    pub(super) fn read(store: &impl ReadEntries) -> Result<Option<Self>, VaultError> {
        store.key_file()?.map(|bytes| Self::decode(&bytes)).transpose()
    }

    /// Replaces the file of a store. Blocking.
    pub(super) fn write(&self, store: &Store) -> Result<(), VaultError> {
        Ok(store.replace_key_file(&self.encode())?)
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
    fn what_is_sealed_opens_with_its_root_key() {
        let root = RootKey::generate().expect("randomness");
        let keys = keys(2);
        let sealed = KeyFile::seal(&root, None, &keys).expect("randomness");
        let again = KeyFile::decode(&sealed.encode()).expect("its own");
        let opened = again.open(&root).expect("its own");
        assert!(again == sealed);
        assert!(
            opened
                .iter()
                .map(|key| key.id())
                .eq(keys.iter().map(|key| key.id()))
        );
        assert!(keys.iter().all(|key| again.holds(key.id())));
    }

    #[test]
    fn no_store_key_or_some_of_two_root_keys_are_refused() {
        let [one, two] = [(); 2].map(|()| RootKey::generate().expect("randomness"));
        let seal = |root, count| KeyFile::seal(root, None, &keys(count)).expect("randomness");
        assert!(KeyFile::decode(&seal(&one, 0).encode()).is_err());
        let mut mixed = seal(&one, 1);
        mixed.store_keys.extend(seal(&two, 1).store_keys);
        assert!(KeyFile::decode(&mixed.encode()).is_err());
        let mut of_another = seal(&one, 1);
        of_another.held = Some(WrappedRootKey {
            id: two.id().as_bytes().to_vec(),
            ..WrappedRootKey::default()
        });
        assert!(KeyFile::decode(&of_another.encode()).is_err());
    }
}
