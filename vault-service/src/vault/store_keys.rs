//! The store keys: which is active, and how another one takes its place.
//!
//! 1. The file `keys` is replaced by one with the active and a new store key.
//! 2. The store says that the new one is active: what is wrapped from then on is under it. In the same batch the rotation
//!    begins that moves the workspaces' keys.
//! 3. When a whole pass found none under another one and all of that is durable, the file is replaced by one with the active
//!    store key alone. From then on nobody can unwrap what the store's log keeps of the time before.
//!
//! A crash between two steps leaves a file with both keys, and the rotation goes on, or begins anew (`settle`).

use std::sync::Arc;

use super::{
    VaultError, Writer, blocking,
    keyring::UnsealedKeys,
    roots,
    stored::{self, Meta, Rotation},
};
use crate::{
    crypto::{KeyId, StoreKey},
    store::{Batch, Store},
};

/// Returns the id of the active store key, which wraps all new keys.
pub(super) fn active(meta: &Meta) -> Result<KeyId, VaultError> {
    if meta.store_key_id.is_empty() {
        return Err(VaultError::Sealed);
    }
    KeyId::from_stored(&meta.store_key_id).ok_or(VaultError::Corrupt(None))
}

/// Has the store say which store key is active, if it does not yet. Begins the rotation that leaves only that one, when there
/// are others and none is under way.
pub(super) async fn settle(store: &Store, loaded: &UnsealedKeys) -> Result<(), VaultError> {
    loop {
        let (reading, keys) = (store.clone(), loaded.store_keys.clone());
        match blocking(move || settling(&reading, &keys)).await? {
            None => return Ok(()),
            Some(batch) => match store.commit(batch).await.map_err(VaultError::from) {
                Err(VaultError::Conflict) => {}
                done => return done,
            },
        }
    }
}

fn settling(store: &Store, keys: &[Arc<StoreKey>]) -> Result<Option<Batch>, VaultError> {
    let (before, mut meta) = roots::read_meta(store)?;
    let unnamed = meta.store_key_id.is_empty();
    let unsettled = keys.len() > 1 && store.read(stored::STORE_KEY_ROTATION)?.is_none();
    if !unnamed && !unsettled {
        return Ok(None);
    }
    let mut batch = Batch::new().expect_value(stored::META, before);
    if let (true, Some(newest)) = (unnamed, keys.last()) {
        meta.store_key_id = newest.id().as_bytes().to_vec();
        batch = batch.put(stored::META, stored::encode(&meta));
    }
    if unsettled {
        batch = batch
            .expect_absent(stored::STORE_KEY_ROTATION)
            .put(stored::STORE_KEY_ROTATION, stored::encode(&rotation(store)?));
    }
    Ok(Some(batch))
}

/// Makes a new rotation of the store key, at its beginning.
fn rotation(store: &Store) -> Result<Rotation, VaultError> {
    Ok(Rotation {
        total: roots::workspaces(store)?,
        start_time: std::time::SystemTime::now().into(),
        ..Rotation::default()
    })
}

impl Writer {
    /// Makes a new store key the active one, and begins the rotation that moves the workspaces' keys to it. Returns
    /// false, and changes nothing, while such a rotation is running.
    pub(super) async fn replace_store_key(&self) -> Result<bool, VaultError> {
        let _changing = self.keyring.file.lock().await;
        let store = self.store.clone();
        let (before, mut meta, rotation) = blocking(move || {
            let (before, meta) = roots::read_meta(&store)?;
            let rotation = match store.read(stored::STORE_KEY_ROTATION)? {
                Some(_) => None,
                None => Some(rotation(&store)?),
            };
            Ok::<_, VaultError>((before, meta, rotation))
        })
        .await?;
        let Some(rotation) = rotation else {
            return Ok(false);
        };
        let mut loaded = self.keyring.loaded()?;
        let now = loaded.store_key(active(&meta)?)?.clone();
        let new = Arc::new(StoreKey::generate()?);
        meta.store_key_id = new.id().as_bytes().to_vec();
        loaded.store_keys = vec![now, new];
        roots::write(&self.store, &loaded).await?;
        // The key is loaded before the store names it as active, so that the vault never needs a store key that is not
        // loaded.
        self.keyring.load(loaded);
        let batch = Batch::new()
            .expect_value(stored::META, before)
            .expect_absent(stored::STORE_KEY_ROTATION)
            .put(stored::META, stored::encode(&meta))
            .put(stored::STORE_KEY_ROTATION, stored::encode(&rotation));
        self.store.commit(batch).await?;
        Ok(true)
    }

    /// Destroys all store keys except the active one. Returns false, and changes nothing, while a backup is being made,
    /// because an old store key may still wrap exported workspaces' keys.
    pub(super) async fn drop_store_keys(&self) -> Result<bool, VaultError> {
        let _changing = self.keyring.file.lock().await;
        let Ok(_none_is_made) = self.keyring.exports.try_write() else {
            return Ok(false);
        };
        let store = self.store.clone();
        let (_, meta) = blocking(move || roots::read_meta(&store)).await?;
        let active = active(&meta)?;
        let mut loaded = self.keyring.loaded()?;
        loaded.store_key(active)?;
        loaded.store_keys.retain(|key| key.id() == active);
        roots::write(&self.store, &loaded).await?;
        self.keyring.load(loaded);
        Ok(true)
    }
}
