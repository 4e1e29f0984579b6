//! The check of a whole store that may be damaged, for the commands `verify` and `repair`: which items authenticate, and
//! which are lost.
//!
//! The check decrypts records only to find out whether they authenticate, and wipes the values at once.

mod damage;
mod secret;
mod walk;

use std::path::Path;

use tokio::runtime::Runtime;

pub use damage::{Damage, DamageKind, RepairOutcome};

use super::{
    OpenError, VaultError,
    backup::RESTORING,
    key_file::WrappedKeys,
    keyring::Keyring,
    open::{check_format, new_meta},
    root_key,
    stored::{self, Meta},
};
use crate::{
    crypto::KeyId,
    root::Providers,
    store::{self, Batch, EXCLUSIVE_WRITER, Entry, KeyHistory, LogDamage, SalvageReader, Store},
};
use walk::StoreWalk;

const BATCH_BYTES: usize = 256 * 1024;

/// Reason for which a store cannot be checked or repaired.
#[derive(Debug, thiserror::Error)]
pub enum IntegrityCheckError {
    #[error(transparent)]
    Store(#[from] store::StoreOpenError),
    #[error(transparent)]
    Vault(#[from] OpenError),
    /// The store has a part of a backup, so it is incomplete even when nothing is damaged.
    #[error("the restore of a backup into this store was interrupted: restore it again, into a new store")]
    InterruptedRestore,
    #[error("the new store could not be written")]
    Write(#[from] store::CommitError),
    #[error("the new store's keys could not be written")]
    WriteKeys(#[source] VaultError),
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct IntegrityReport {
    /// Number of workspaces whose active KEK can be unwrapped.
    pub workspaces: u64,
    /// Number of secrets of which a version authenticates.
    pub secrets: u64,
    /// Number of further versions that authenticate.
    pub older: u64,
    /// Number of damaged items by outcome: kept, older than acknowledged, lost, and doubtful.
    pub damage_by_outcome: [u64; 4],
    /// Extent to which the log could be read.
    pub log_damage: LogDamage,
    /// Reason for which the vault would refuse to open the store; `None` if it would open the store.
    pub refusal: Option<String>,
}

impl IntegrityReport {
    pub fn damaged(&self) -> u64 {
        self.damage_by_outcome.iter().sum()
    }

    /// Returns true when the store has all acknowledged data.
    pub fn is_complete(&self) -> bool {
        self.damaged() == 0 && self.log_damage.lost_nothing()
    }

    /// Returns true when the store has all acknowledged data, has no corrected errors, and can be opened.
    pub fn is_sound(&self) -> bool {
        self.is_complete() && self.log_damage.corrected_messages == 0 && self.refusal.is_none()
    }

    fn count(&mut self, outcome: RepairOutcome) {
        let [kept, older, lost, doubtful] = &mut self.damage_by_outcome;
        *match outcome {
            RepairOutcome::Kept => kept,
            RepairOutcome::Older => older,
            RepairOutcome::Lost => lost,
            RepairOutcome::Doubtful => doubtful,
        } += 1;
    }
}

/// Treatment of secrets that may have been deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubtfulSecrets {
    LeaveOut,
    Keep,
}

/// A store to verify or repair, and its keys.
pub struct IntegrityCheck {
    salvage: SalvageReader,
    keyring: Keyring,
    meta: Meta,
}

impl IntegrityCheck {
    /// Reads the store in `dir`, with a root key of `providers`. The store stays unchanged. Blocking; must not be called in an
    /// async context.
    pub fn open(dir: &Path, providers: &Providers, runtime: &Runtime) -> Result<Self, IntegrityCheckError> {
        let salvage = SalvageReader::open(dir)?;
        if salvage
            .read(EXCLUSIVE_WRITER)
            .is_some_and(|hold| hold == RESTORING)
        {
            return Err(IntegrityCheckError::InterruptedRestore);
        }
        let states = salvage
            .history(stored::META)
            .into_iter()
            .flat_map(KeyHistory::values_since_deletion);
        let mut meta = match states.filter_map(|bytes| stored::decode(&bytes).ok()).next() {
            Some(meta) => check_format(&meta).map(|()| meta)?,
            // The other entries of the store may still be readable.
            None => new_meta(),
        };
        let keyring = Keyring::locked();
        if let Some(file) = read_key_file(&salvage, &mut meta, providers)? {
            let opened = runtime.block_on(root_key::open(&file, providers));
            keyring.load(opened.map_err(OpenError::from)?);
        }
        Ok(Self {
            salvage,
            keyring,
            meta,
        })
    }

    /// Checks the store, reports all damage to `damaged`, and finds out on a copy in `scratch` whether the vault would open the
    /// store in `dir`. Blocking.
    pub fn verify(
        &mut self,
        dir: &Path,
        scratch: &Path,
        cache_bytes: u64,
        mut damaged: impl FnMut(&Damage),
    ) -> Result<IntegrityReport, IntegrityCheckError> {
        self.salvage.try_open(dir, scratch, cache_bytes)?;
        Ok(StoreWalk::run(
            self,
            DoubtfulSecrets::LeaveOut,
            &mut damaged,
            &mut |_: Entry| (),
        ))
    }

    /// Checks the store, writes all items that authenticate into a new store in `to`, and reports all damage to `damaged`. No
    /// vault opens the new store before it is complete. Blocking; must not be called in an async context.
    pub fn repair(
        &self,
        to: &Path,
        cache_bytes: u64,
        doubtful: DoubtfulSecrets,
        runtime: &Runtime,
        mut damaged: impl FnMut(&Damage),
    ) -> Result<IntegrityReport, IntegrityCheckError> {
        let store = Store::begin_repair(to, cache_bytes)?;
        if let Ok(loaded) = self.keyring.loaded() {
            let written = runtime.block_on(WrappedKeys::replace(&store, &loaded));
            written.map_err(IntegrityCheckError::WriteKeys)?;
        }
        let mut writer = RepairWriter {
            to: &store,
            runtime,
            batch: Batch::new(),
            bytes: 0,
            failed: None,
        };
        writer.put(Entry {
            key: stored::META.to_vec(),
            value: stored::encode(&self.meta),
        });
        let report = StoreWalk::run(self, doubtful, &mut damaged, &mut |entry: Entry| {
            writer.put(entry)
        });
        writer.flush();
        if let Some(error) = writer.failed {
            return Err(error.into());
        }
        runtime.block_on(store.close())?;
        Store::end_repair(to)?;
        Ok(report)
    }
}

/// Reads the store's file `keys`, which must have the store key that `meta` names. When `meta` names no store key, the
/// function makes `meta` name the newest one in the file. Returns `None` for a store that never had a store key.
fn read_key_file(
    salvage: &SalvageReader,
    meta: &mut Meta,
    providers: &Providers,
) -> Result<Option<WrappedKeys>, OpenError> {
    let bytes = salvage
        .key_file()
        .map_err(|error| OpenError::Keys(error.into()))?;
    let file = bytes.map(|bytes| WrappedKeys::decode(&bytes));
    let file = file.transpose().map_err(OpenError::Keys)?;
    if file.is_none() && count_workspaces(salvage) > 0 {
        return Err(OpenError::NoKeys);
    }
    let file = root_key::check_key_file(file, meta, providers, || Ok(count_workspaces(salvage)))?;
    let newest = file.as_ref().and_then(|file| file.store_keys.last());
    if let (None, Some(newest)) = (KeyId::from_stored(&meta.store_key_id), newest) {
        meta.store_key_id = newest.id.as_bytes().to_vec();
    }
    Ok(file)
}

fn count_workspaces(salvage: &SalvageReader) -> u64 {
    salvage.live(stored::WORKSPACES).count() as u64
}

struct RepairWriter<'a> {
    to: &'a Store,
    runtime: &'a Runtime,
    batch: Batch,
    bytes: usize,
    failed: Option<store::CommitError>,
}

impl RepairWriter<'_> {
    fn put(&mut self, Entry { key, value }: Entry) {
        self.bytes += key.len() + value.len();
        self.batch = std::mem::take(&mut self.batch).put(key, value);
        if self.bytes >= BATCH_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if self.failed.is_none() {
            self.failed = self.runtime.block_on(self.to.commit(batch)).err();
        }
    }
}

#[cfg(test)]
mod tests;
