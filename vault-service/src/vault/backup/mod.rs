//! Backups: everything that the store holds, as it is encrypted there, sealed once more as a whole.
//!
//! A backup carries entries as opaque bytes, so a new kind of entry needs no change here. After the entries come the
//! store keys, wrapped by the root key that the backup is sealed under, in the form of an entry at [`KEYS`].

mod archive;
mod hold;
mod item;
mod keys;
mod restore;
#[cfg(test)]
mod vectors;

use std::{mem, sync::Arc, time::UNIX_EPOCH};

use prost::Message as _;
use tokio::sync::{Notify, OwnedMutexGuard, OwnedRwLockReadGuard};

pub use archive::Archive;
pub(super) use hold::{FILLING, recover};
pub use restore::{Incoming, Restored};

use super::{
    VaultError, Writer, blocking,
    key_file::KeyFile,
    keyring::{Keyring, UnsealedKeys},
    roots,
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
use item::Encoder;

/// Frames that are given at once.
const AT_ONCE: usize = 4;
/// Stands for the store keys among the entries. No entry of the store has this key.
const KEYS: &[u8] = b"keys";

/// A backup that is being made. Given up when it is dropped.
pub struct Backup {
    export: Export,
    /// None once the end was written.
    items: Option<Encoder>,
    encryptor: BackupEncryptor,
    /// Items that are not sealed yet.
    plain: Vec<u8>,
    /// What goes first: the header.
    sealed: Vec<u8>,
    root: Arc<RootKey>,
    keyring: Arc<Keyring>,
    _kept: KeptStoreKeys,
    _turn: OwnedMutexGuard<()>,
}

/// A guard that keeps the vault from destroying a store key, because any store key may wrap the exported workspaces'
/// keys.
struct KeptStoreKeys {
    guard: Option<OwnedRwLockReadGuard<()>>,
    /// Wakes the rotations, which may wait for the end of the backup.
    rotate: Arc<Notify>,
}

impl Drop for KeptStoreKeys {
    fn drop(&mut self) {
        drop(self.guard.take());
        self.rotate.notify_one();
    }
}

impl Writer {
    /// Begins a backup of the whole vault, with all that was acknowledged before, sealed under the active root key.
    pub async fn back_up(&self, _permit: &VaultPermit) -> Result<Backup, VaultError> {
        let turn = self.turn_of_backups()?;
        let kept = KeptStoreKeys {
            guard: Some(self.keyring.exports.clone().read_owned().await),
            rotate: self.rotate.clone(),
        };
        let (store, keyring, now) = (self.store.clone(), self.keyring.clone(), (self.clock)());
        blocking(move || {
            let export = store.export()?;
            let (_, meta) = roots::read_meta(&store)?;
            let UnsealedKeys {
                root,
                held,
                store_keys: _,
            } = keyring.loaded()?;
            let Meta {
                format: _,
                vault_uid,
                store_key_id: _,
            } = meta;
            let held = keys::HeldRootKeys {
                keys: held.into_iter().collect(),
            };
            let info = BackupInfo {
                vault_uid: stored::uid(&vault_uid).ok_or(VaultError::Corrupt(None))?,
                created: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
                further_keys: Vec::new(),
                root_keys: held.encode_to_vec(),
            };
            let (sealed, encryptor) = BackupEncryptor::begin(&root, &info)?;
            Ok(Backup {
                export,
                items: Some(Encoder::default()),
                encryptor,
                plain: Vec::new(),
                sealed,
                root,
                keyring,
                _kept: kept,
                _turn: turn,
            })
        })
        .await
    }

    /// One backup is made or restored at a time.
    fn turn_of_backups(&self) -> Result<OwnedMutexGuard<()>, VaultError> {
        let backups = Arc::clone(&self.backups);
        backups.try_lock_owned().map_err(|_| VaultError::BackupUnderWay)
    }
}

impl Backup {
    /// The next bytes, 256 KiB and a little at the most, and what gives those behind them; nothing when it is whole.
    pub async fn part(self) -> Result<(Vec<u8>, Option<Self>), VaultError> {
        blocking(|| self.next_frames()).await
    }

    fn next_frames(mut self) -> Result<(Vec<u8>, Option<Self>), VaultError> {
        let mut sealed = mem::take(&mut self.sealed);
        for _ in 0..AT_ONCE {
            if !self.has_more_than_a_frame()? {
                self.encryptor.encrypt_last(&self.plain, &mut sealed);
                return Ok((sealed, None));
            }
            let rest = self.plain.split_off(FRAME);
            let frame = mem::replace(&mut self.plain, rest);
            self.encryptor.encrypt(&frame, &mut sealed);
        }
        Ok((sealed, Some(self)))
    }

    /// Reads on until there is, or all was read and the end was written.
    fn has_more_than_a_frame(&mut self) -> Result<bool, VaultError> {
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
        let keys = KeyFile::seal(&self.root, None, &self.keyring.loaded()?.store_keys)?;
        Ok(Change::Put(Entry {
            key: KEYS.to_vec(),
            value: keys.encode(),
        }))
    }
}

impl From<ExportError> for VaultError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::UnderWay => Self::BackupUnderWay,
            ExportError::Outpaced => Self::BackupOutpaced,
            ExportError::ExclusiveWriter => Self::Restoring,
            ExportError::Unreadable(fault) => Self::Read(fault),
            ExportError::Ended(error) => error.into(),
        }
    }
}
