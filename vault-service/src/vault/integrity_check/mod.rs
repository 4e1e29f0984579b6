//! The check of a whole store that may be damaged, for the commands `verify` and `repair`: which items authenticate, and
//! which are lost.
//!
//! The check decrypts records only to find out whether they authenticate, and wipes the values at once.

mod damage;
mod open;
mod report;
mod secret;
mod walk;

use std::path::Path;

use tokio::runtime::Runtime;

pub use damage::{Damage, DamageKind, RepairOutcome};
pub use open::{IntegrityCheck, IntegrityCheckError};
pub use report::{DoubtfulSecrets, IntegrityReport};

use super::{key_file::WrappedKeys, stored};
use crate::store::{self, Batch, Entry, Store};
use walk::StoreWalk;

const BATCH_BYTES: usize = 256 * 1024;

impl IntegrityCheck {
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
