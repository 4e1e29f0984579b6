//! Backups: all entries of the store, with values as they are encrypted there, encrypted once more as a whole.
//!
//! A backup carries entries as opaque bytes, so a new kind of entry needs no change here. After the entries come the
//! store keys, wrapped by the root key that encrypts the backup, in the form of an entry at [`KEYS`].

mod archive;
mod hold;
mod item;
mod keys;
mod restore;
#[cfg(test)]
mod vectors;

use std::{mem, sync::Arc, time::UNIX_EPOCH};

use chassis::blocking::blocking;
use prost::Message as _;
use tokio::sync::{Notify, OwnedMutexGuard, OwnedRwLockReadGuard};

pub use archive::Archive;
pub(super) use hold::{RESTORING, recover};
pub use restore::{BackupUpload, RestoreSummary};

use super::{
    VaultError, Writer,
    key_file::WrappedKeys,
    keyring::{Keyring, UnlockedKeys},
    meta,
    stored::{self, Meta},
};
use crate::{
    authz::VaultPermit,
    crypto::{
        RootKey,
        backup::{BackupEncryptor, BackupInfo, FRAME},
    },
    store::{Change, Entry, Export, ExportError},
};
use item::ItemWriter;
use keys::KEYS;

const FRAMES_PER_PART: usize = 4;
/// A backup that is being made. Dropping it gives the backup up.
pub struct Backup {
    export: Export,
    /// `None` once the end was written.
    items: Option<ItemWriter>,
    encryptor: BackupEncryptor,
    /// Items that are not encrypted yet.
    plain: Vec<u8>,
    /// Encrypted bytes for the next part: at first the header.
    sealed: Vec<u8>,
    root: Arc<RootKey>,
    keyring: Arc<Keyring>,
    _store_keys: StoreKeyGuard,
    _lock: OwnedMutexGuard<()>,
}

/// A guard that keeps the vault from destroying a store key, because any store key may wrap the exported workspaces'
/// KEKs.
struct StoreKeyGuard {
    guard: Option<OwnedRwLockReadGuard<()>>,
    /// Wakes the rotations, which may wait for the end of the backup.
    keys_changed: Arc<Notify>,
}

impl Drop for StoreKeyGuard {
    fn drop(&mut self) {
        drop(self.guard.take());
        self.keys_changed.notify_one();
    }
}

impl Writer {
    /// Begins a backup of the whole vault, with everything that was acknowledged before, encrypted with the active root key.
    pub(crate) async fn back_up(&self, _permit: &VaultPermit) -> Result<Backup, VaultError> {
        let lock = self.lock_backups()?;
        let store_keys = StoreKeyGuard {
            guard: Some(self.keyring.exports.clone().read_owned().await),
            keys_changed: self.keys_changed.clone(),
        };
        let (store, keyring, now) = (self.store.clone(), self.keyring.clone(), (self.clock)());
        blocking(move || {
            let export = store.export()?;
            let (_, meta) = meta::read(&store)?;
            let UnlockedKeys {
                root,
                wrapped_root,
                store_keys: _,
            } = keyring.loaded()?;
            let Meta {
                format: _,
                vault_uid,
                store_key_id: _,
            } = meta;
            let root_keys = keys::WrappedRootKeys {
                keys: wrapped_root.into_iter().collect(),
            };
            let info = BackupInfo {
                vault_uid: stored::uid(&vault_uid).ok_or(VaultError::Corrupt(None))?,
                created: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
                further_keys: Vec::new(),
                root_keys: root_keys.encode_to_vec(),
            };
            let (sealed, encryptor) = BackupEncryptor::begin(&root, &info)?;
            Ok(Backup {
                export,
                items: Some(ItemWriter::default()),
                encryptor,
                plain: Vec::new(),
                sealed,
                root,
                keyring,
                _store_keys: store_keys,
                _lock: lock,
            })
        })
        .await
    }

    /// Takes the lock that every backup and restore holds.
    fn lock_backups(&self) -> Result<OwnedMutexGuard<()>, VaultError> {
        let lock = Arc::clone(&self.backup_lock);
        lock.try_lock_owned().map_err(|_| VaultError::BackupUnderWay)
    }
}

impl Backup {
    /// Returns the next bytes, little more than 256 KiB, and the backup that yields the bytes after them; `None` at the end.
    pub(crate) async fn part(self) -> Result<(Vec<u8>, Option<Self>), VaultError> {
        blocking(|| self.next_frames()).await
    }

    fn next_frames(mut self) -> Result<(Vec<u8>, Option<Self>), VaultError> {
        let mut sealed = mem::take(&mut self.sealed);
        for _ in 0..FRAMES_PER_PART {
            if !self.fill_frame()? {
                self.encryptor.encrypt_last(&self.plain, &mut sealed);
                return Ok((sealed, None));
            }
            let rest = self.plain.split_off(FRAME);
            let frame = mem::replace(&mut self.plain, rest);
            self.encryptor.encrypt(&frame, &mut sealed);
        }
        Ok((sealed, Some(self)))
    }

    /// Reads entries until `plain` is longer than a frame or the end was written. Returns true in the first case.
    fn fill_frame(&mut self) -> Result<bool, VaultError> {
        while self.plain.len() <= FRAME {
            let Some(mut items) = self.items.take() else {
                return Ok(false);
            };
            match self.export.next_part()? {
                Some(part) => {
                    for change in &part {
                        items.item(change, &mut self.plain);
                    }
                    self.items = Some(items);
                }
                None => {
                    items.item(&self.store_keys()?, &mut self.plain);
                    items.end(&mut self.plain);
                }
            }
        }
        Ok(true)
    }

    /// Returns all current store keys. They include every key that the exported entries need, because the guard keeps
    /// keys from being destroyed; keys may have been added since the export began.
    fn store_keys(&self) -> Result<Change, VaultError> {
        let keys = WrappedKeys::wrap(&self.root, None, &self.keyring.loaded()?.store_keys)?;
        Ok(Change::Put(Entry {
            key: KEYS.to_vec(),
            value: keys.encode(),
        }))
    }
}

impl From<ExportError> for VaultError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::AlreadyRunning => Self::BackupUnderWay,
            ExportError::Outpaced => Self::BackupOutpaced,
            ExportError::ExclusiveWriter => Self::Restoring,
            ExportError::Unreadable(fault) => Self::Read(fault),
            ExportError::Stopped(error) => error.into(),
        }
    }
}
