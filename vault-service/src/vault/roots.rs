//! The root key: which one the store needs, and how it is replaced.
//!
//! The root key wraps the store keys in the file `keys`, and nothing in the store. So another root key takes its place with
//! one replacement of that file.

use std::sync::Arc;

use super::{
    OpenError, UnsealError, VaultError, Writer, blocking,
    key_file::KeyFile,
    keyring::{Keyring, UnsealedKeys},
    store_keys,
    stored::{self, Meta},
};
use crate::{
    authz::VaultPermit,
    crypto::{KeyId, StoreKey},
    root::{Provider, Providers},
    store::{ReadEntries, Store},
};

/// Workspaces counted at once.
const PAGE: usize = 1000;

/// What the store says of itself, and its bytes there.
pub(super) fn read_meta(store: &Store) -> Result<(Vec<u8>, Meta), VaultError> {
    let bytes = store.read(stored::META)?.ok_or(VaultError::Corrupt(None))?;
    let meta = stored::decode(&bytes)?;
    Ok((bytes, meta))
}

/// The number of workspaces, each of which needs the root key.
pub(super) fn workspaces<S: ReadEntries>(store: &S) -> Result<u64, S::Error> {
    let (mut count, mut after) = (0, None::<Vec<u8>>);
    loop {
        let page = store.scan(stored::WORKSPACES, after.as_deref(), PAGE)?;
        let Some(last) = page.last() else {
            return Ok(count);
        };
        count += page.len() as u64;
        after = Some(last.key.clone());
    }
}

/// The file `keys`, which must be the one that belongs to this store, and its root key among those that can be had. None of
/// a store that never had one.
pub(super) fn check<S>(store: &S, meta: &Meta, providers: &Providers) -> Result<Option<KeyFile>, OpenError>
where
    S: ReadEntries<Error: Into<OpenError>>,
{
    let file = KeyFile::read(store).map_err(OpenError::Keys)?;
    let needed = KeyId::from_stored(&meta.store_key_id);
    match (file, needed) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(OpenError::NoKeys),
        (Some(file), Some(needed)) if !file.holds(needed) => Err(OpenError::OtherKeys(needed.to_string())),
        (Some(file), Some(_) | None) => match missing(&file, providers) {
            None => Ok(Some(file)),
            Some(Missing { given, needed }) => Err(OpenError::OtherRootKey {
                given,
                needed,
                workspaces: workspaces(store).map_err(Into::into)?,
            }),
        },
    }
}

/// A root key that is needed and cannot be had.
pub(super) struct Missing {
    /// The ids of those that can be.
    pub(super) given: String,
    /// Its id.
    pub(super) needed: String,
}

/// Returns the root key that `file` needs, if no provider has it; `None` when a provider has it.
pub(super) fn missing(file: &KeyFile, providers: &Providers) -> Option<Missing> {
    let known = providers.known(file.held.as_ref());
    if known.iter().any(|known| known.id == file.root_key) {
        return None;
    }
    let given: Vec<_> = known.iter().map(|known| known.id.to_string()).collect();
    Some(Missing {
        given: given.join(", "),
        needed: file.root_key.to_string(),
    })
}

/// Takes the root key from its provider, and the store keys from the file `keys`. Where the active provider gives another
/// root key, that wraps them from now on.
pub(super) async fn unseal(
    store: &Store,
    keyring: &Keyring,
    providers: &Providers,
) -> Result<(), UnsealError> {
    let _changing = keyring.file.lock().await;
    let reading = store.clone();
    let file = blocking(move || KeyFile::read(&reading)).await?;
    let before = match &file {
        None => None,
        Some(file) => Some(open(file, providers).await?),
    };
    let (id, held) = match &before {
        None => (None, None),
        Some(before) => (Some(before.root.id()), before.held.as_ref()),
    };
    let loaded = match (providers.successor(id, held).await?, before) {
        (None, Some(before)) => before,
        (None, None) => return Err(VaultError::KeyNotLoaded.into()),
        (Some((root, held)), before) => {
            let store_keys = match before {
                Some(before) => {
                    tracing::info!(root_key = %root.id(), "another root key is active; it wraps the store's keys now");
                    before.store_keys
                }
                None => vec![Arc::new(StoreKey::generate().map_err(VaultError::from)?)],
            };
            let loaded = UnsealedKeys {
                root,
                held,
                store_keys,
            };
            write(store, &loaded).await?;
            loaded
        }
    };
    store_keys::settle(store, &loaded).await?;
    keyring.load(loaded);
    Ok(())
}

/// The keys of the file `keys`.
pub(super) async fn open(file: &KeyFile, providers: &Providers) -> Result<UnsealedKeys, UnsealError> {
    let root = providers.open(file.root_key, file.held.as_ref()).await?;
    let root = root.ok_or(VaultError::KeyNotLoaded)?;
    Ok(UnsealedKeys {
        store_keys: file.open(&root)?,
        held: file.held.clone(),
        root,
    })
}

/// Replaces the file `keys`.
pub(super) async fn write(store: &Store, loaded: &UnsealedKeys) -> Result<(), VaultError> {
    let UnsealedKeys {
        root,
        held,
        store_keys,
    } = loaded;
    let file = KeyFile::seal(root, held.clone(), store_keys)?;
    let store = store.clone();
    blocking(move || file.write(&store)).await
}

impl Writer {
    /// Whether the root key is still to come.
    pub fn is_sealed(&self) -> bool {
        self.keyring.is_sealed()
    }

    /// Takes the root key, if its provider gives it now.
    pub async fn unseal(&self) -> Result<(), UnsealError> {
        unseal(&self.store, &self.keyring, &self.providers).await?;
        self.rotate.notify_one();
        Ok(())
    }

    /// Returns the permit of a command on this machine. Fails while the vault is sealed: the root key is the proof.
    pub(crate) fn operator_permit(&self) -> Result<VaultPermit, VaultError> {
        Ok(VaultPermit::of_operator(&self.keyring.loaded()?.root))
    }

    /// Makes a new root key, which takes the place of the old one before this returns.
    pub async fn rotate_root_key(&self, _: &VaultPermit) -> Result<KeyId, VaultError> {
        let _changing = self.keyring.file.lock().await;
        let before = self.keyring.loaded()?;
        let wrapper = match self.providers.active() {
            Provider::File(_) => return Err(VaultError::RootKeyFromFile),
            Provider::Wrapper(wrapper) => wrapper,
        };
        let (root, held) = wrapper.make().await.map_err(VaultError::Provider)?;
        let id = root.id();
        let loaded = UnsealedKeys {
            root,
            held: Some(held),
            ..before
        };
        write(&self.store, &loaded).await?;
        self.keyring.load(loaded);
        Ok(id)
    }

    /// Encrypts the root key again when the KMS has switched to another key.
    pub async fn follow_kms(&self) -> Result<(), UnsealError> {
        let Provider::Wrapper(wrapper) = self.providers.active() else {
            return Ok(());
        };
        let _changing = self.keyring.file.lock().await;
        let mut loaded = self.keyring.loaded()?;
        let Some(held) = &mut loaded.held else {
            return Ok(());
        };
        if !wrapper.is_stale(held).await? {
            return Ok(());
        }
        held.wrapping = Some(wrapper.wrap(&loaded.root).await?);
        write(&self.store, &loaded).await?;
        self.keyring.load(loaded);
        tracing::info!("the KMS has another key; the root key was encrypted with it");
        Ok(())
    }
}
