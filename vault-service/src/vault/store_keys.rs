//! The store keys: which one is active, and how a new one replaces it.
//!
//! 1. The file `keys` is replaced by one with the active store key and a new one.
//! 2. One batch makes the new store key the active one, which wraps everything from then on, and begins the rotation that
//!    rewraps the workspaces' KEKs.
//! 3. When a whole pass of the rotation found no KEK under another store key, and all of that is durable, the file is
//!    replaced by one with the active store key alone. From then on nobody can unwrap the older KEKs in the store's log.
//!
//! A crash between two steps leaves a file with both keys. The rotation then goes on, or [`settle`] begins it anew.

use std::sync::Arc;

use super::{
    VaultError, Writer,
    access::with_store,
    key_file::WrappedKeys,
    keyring::UnlockedKeys,
    meta,
    stored::{self, Rotation},
};
use crate::{
    crypto::StoreKey,
    store::{Batch, Store},
};

/// Makes the newest store key the active one when the store names none yet. Begins the rotation to the active store key when
/// there are others and no such rotation is under way.
pub(super) async fn settle(store: &Store, loaded: &UnlockedKeys) -> Result<(), VaultError> {
    loop {
        let keys = loaded.store_keys.clone();
        match with_store(store, move |store| settling_batch(store, &keys)).await? {
            None => return Ok(()),
            Some(batch) => match store.commit(batch).await.map_err(VaultError::from) {
                Err(VaultError::Conflict) => {}
                done => return done,
            },
        }
    }
}

/// Returns the batch that [`settle`] commits; `None` when there is nothing to do.
fn settling_batch(store: &Store, keys: &[Arc<StoreKey>]) -> Result<Option<Batch>, VaultError> {
    let (before, mut meta) = meta::read(store)?;
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
            .put(stored::STORE_KEY_ROTATION, stored::encode(&new_rotation(store)?));
    }
    Ok(Some(batch))
}

/// Makes the entry of a new rotation of the store key.
fn new_rotation(store: &Store) -> Result<Rotation, VaultError> {
    Ok(Rotation {
        total: meta::count_workspaces(store)?,
        start_time: std::time::SystemTime::now().into(),
        ..Rotation::default()
    })
}

impl Writer {
    /// Makes a new store key the active one, and begins the rotation that moves the workspaces' keys to it. Returns
    /// false, and changes nothing, while such a rotation is running.
    pub(super) async fn replace_store_key(&self) -> Result<bool, VaultError> {
        let _lock = self.keyring.file_lock.lock().await;
        let (before, mut meta, rotation) = with_store(&self.store, |store| {
            let (before, meta) = meta::read(store)?;
            let rotation = match store.read(stored::STORE_KEY_ROTATION)? {
                Some(_) => None,
                None => Some(new_rotation(store)?),
            };
            Ok::<_, VaultError>((before, meta, rotation))
        })
        .await?;
        let Some(rotation) = rotation else {
            return Ok(false);
        };
        let mut loaded = self.keyring.loaded()?;
        let old = loaded.store_key(meta::active_store_key(&meta)?)?.clone();
        let new = Arc::new(StoreKey::generate()?);
        meta.store_key_id = new.id().as_bytes().to_vec();
        loaded.store_keys = vec![old, new];
        WrappedKeys::replace(&self.store, &loaded).await?;
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
        let _lock = self.keyring.file_lock.lock().await;
        let Ok(_no_export) = self.keyring.exports.try_write() else {
            return Ok(false);
        };
        let (_, meta) = with_store(&self.store, meta::read).await?;
        let active = meta::active_store_key(&meta)?;
        let mut loaded = self.keyring.loaded()?;
        loaded.store_key(active)?;
        loaded.store_keys.retain(|key| key.id() == active);
        WrappedKeys::replace(&self.store, &loaded).await?;
        self.keyring.load(loaded);
        Ok(true)
    }
}
