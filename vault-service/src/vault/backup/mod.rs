//! Backups: everything that the store holds, as it is encrypted there, sealed once more as a whole.
//!
//! Entries are carried as bytes, whatever they are: a new kind of entry needs nothing here.

mod archive;
mod hold;
mod item;
mod restore;
#[cfg(test)]
mod vectors;

use std::{
    mem,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::OwnedMutexGuard;

pub use archive::Archive;
pub(super) use hold::recover;
pub use restore::{Restore, Restored};

use super::{
    VaultError, Writer, blocking,
    stored::{self, Meta},
};
use crate::{
    authz::VaultPermit,
    crypto::backup::{About, FRAME, Sealer},
    store::{Export, ExportError, Store},
};
use item::Encoder;

/// Frames that are given at once.
const AT_ONCE: usize = 4;

/// A backup that is being made. Given up when it is dropped.
pub struct Backup {
    export: Export,
    /// None once the end was written.
    items: Option<Encoder>,
    sealer: Sealer,
    /// Items that are not sealed yet.
    plain: Vec<u8>,
    /// What goes first: the header.
    sealed: Vec<u8>,
    _turn: OwnedMutexGuard<()>,
}

impl Writer {
    /// Begins a backup of the whole vault, with all that was acknowledged before.
    pub async fn back_up(&self, _permit: &VaultPermit) -> Result<Backup, VaultError> {
        let turn = self.turn_of_backups()?;
        let (store, keyring) = (self.store.clone(), self.keyring.clone());
        blocking(move || {
            let export = store.export()?;
            let Meta { vault_uid, .. } = meta(&store)?;
            let about = About {
                vault_uid: stored::uid(&vault_uid).ok_or(VaultError::Corrupt(None))?,
                created: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
                further_keys: Vec::new(),
            };
            let (sealed, sealer) = Sealer::begin(keyring.root(), &about)?;
            Ok(Backup {
                export,
                items: Some(Encoder::default()),
                sealer,
                plain: Vec::new(),
                sealed,
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
                self.sealer.seal_last(&self.plain, &mut sealed);
                return Ok((sealed, None));
            }
            let rest = self.plain.split_off(FRAME);
            let frame = mem::replace(&mut self.plain, rest);
            self.sealer.seal(&frame, &mut sealed);
        }
        Ok((sealed, Some(self)))
    }

    /// Reads on until there is, or all was read and the end was written.
    fn has_more_than_a_frame(&mut self) -> Result<bool, VaultError> {
        while self.plain.len() <= FRAME {
            let Some(mut items) = self.items.take() else {
                return Ok(false);
            };
            match self.export.part()? {
                Some(part) => {
                    for change in &part {
                        items.item(change, &mut self.plain);
                    }
                    self.items = Some(items);
                }
                None => items.end(&mut self.plain),
            }
        }
        Ok(true)
    }
}

fn meta(store: &Store) -> Result<Meta, VaultError> {
    let bytes = store.read(stored::META)?.ok_or(VaultError::Corrupt(None))?;
    Ok(stored::decode(&bytes)?)
}

impl From<ExportError> for VaultError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::UnderWay => Self::BackupUnderWay,
            ExportError::Outpaced => Self::BackupOutpaced,
            ExportError::Held => Self::Restoring,
            ExportError::Unreadable(fault) => Self::Read(fault),
            ExportError::Ended(error) => error.into(),
        }
    }
}
