//! Reading a whole store that may be damaged: what is in it and authenticates, and what is lost.
//!
//! Nothing here hands out a value. Records are opened to see whether they open, and what was in them is wiped.

mod damage;
mod secret;
mod walk;

use std::path::Path;

use tokio::runtime::Runtime;

pub use damage::{Damage, Outcome, What};

use super::{
    FORMAT, OpenError, VaultError,
    backup::FILLING,
    initial,
    key_file::KeyFile,
    keyring::Keyring,
    roots::{self, Missing},
    stored::{self, Meta},
};
use crate::{
    crypto::KeyId,
    root::Providers,
    store::{self, Batch, EXCLUSIVE_WRITER, Entry, KeyHistory, LogDamage, SalvageReader, Store},
};
use walk::Walk;

/// Bytes of entries that are written to the new store at once.
const BATCH: usize = 256 * 1024;

/// Why a store cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Not even a copy of it opens.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The store's keys are not available, or another release wrote the store.
    #[error(transparent)]
    Vault(#[from] OpenError),
    /// What came in of a backup is not all of it, however sound it looks.
    #[error("a backup was restored into this store by half: restore it again, into a new store")]
    ByHalf,
    /// The new store could not be written.
    #[error("the new store could not be written")]
    Write(#[from] store::CommitError),
    /// The new store's file of keys could not be written.
    #[error("the new store's keys could not be written")]
    WriteKeys(#[source] VaultError),
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Workspaces whose keys open.
    pub workspaces: u64,
    /// Secrets whose current values authenticate, or an older one in its place.
    pub secrets: u64,
    /// Older versions whose values authenticate.
    pub older: u64,
    /// Number of damage lines by outcome: kept, older than acknowledged, lost, and in doubt.
    pub lines: [u64; 4],
    /// Extent to which the log could be read.
    pub log_damage: LogDamage,
    /// Why the vault would not open the store, if it would not.
    pub refusal: Option<String>,
}

impl Report {
    /// Returns the number of damage lines.
    pub fn damaged(&self) -> u64 {
        self.lines.iter().sum()
    }

    /// Returns true when the store has all acknowledged data.
    pub fn is_complete(&self) -> bool {
        self.damaged() == 0 && self.log_damage.lost_nothing()
    }

    /// Whether nothing at all is the matter.
    pub fn is_sound(&self) -> bool {
        self.is_complete() && self.log_damage.corrected == 0 && self.refusal.is_none()
    }

    fn count(&mut self, outcome: Outcome) {
        let [kept, older, lost, doubtful] = &mut self.lines;
        *match outcome {
            Outcome::Kept => kept,
            Outcome::Older => older,
            Outcome::Lost => lost,
            Outcome::Doubtful => doubtful,
        } += 1;
    }
}

/// Treatment of secrets that may have been deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubtful {
    /// The repaired store leaves the secrets out.
    LeftOut,
    /// The repaired store keeps the secrets.
    Kept,
}

/// A store to verify or repair, and its keys.
pub struct Audit {
    salvage: SalvageReader,
    keyring: Keyring,
    meta: Meta,
}

impl Audit {
    /// Reads the store in `dir`, with the root keys that `providers` give. The store stays as it is. Blocking, and not from
    /// within a runtime.
    pub fn open(dir: &Path, providers: &Providers, runtime: &Runtime) -> Result<Self, AuditError> {
        let salvage = SalvageReader::open(dir)?;
        if salvage.read(EXCLUSIVE_WRITER).is_some_and(|held| held == FILLING) {
            return Err(AuditError::ByHalf);
        }
        let states = salvage
            .history(stored::META)
            .into_iter()
            .flat_map(KeyHistory::values_since_deletion);
        let mut meta = match states.filter_map(|bytes| stored::decode(&bytes).ok()).next() {
            Some(meta) => of_this_release(meta)?,
            // All else may still be there.
            None => initial(),
        };
        let keyring = Keyring::sealed();
        if let Some(file) = key_file(&salvage, &mut meta, providers)? {
            let opened = runtime.block_on(roots::open(&file, providers));
            keyring.load(opened.map_err(OpenError::from)?);
        }
        Ok(Self {
            salvage,
            keyring,
            meta,
        })
    }

    /// Reads everything, names what is damaged, and finds out on a copy in `scratch` whether the vault would open the store
    /// in `dir`. Blocking.
    pub fn verify(
        &mut self,
        dir: &Path,
        scratch: &Path,
        cache_bytes: u64,
        mut damaged: impl FnMut(&Damage),
    ) -> Result<Report, AuditError> {
        self.salvage.try_open(dir, scratch, cache_bytes)?;
        Ok(Walk::over(
            self,
            Doubtful::LeftOut,
            &mut damaged,
            &mut |_: Entry| (),
        ))
    }

    /// Reads everything, writes what authenticates into a new store in `to`, and names what is lost. Until all of it is
    /// there, no vault opens the new store. Blocking, and not from within a runtime.
    pub fn repair(
        &self,
        to: &Path,
        cache_bytes: u64,
        doubtful: Doubtful,
        runtime: &Runtime,
        mut damaged: impl FnMut(&Damage),
    ) -> Result<Report, AuditError> {
        let store = Store::begin_repair(to, cache_bytes)?;
        if let Ok(loaded) = self.keyring.loaded() {
            let written = runtime.block_on(roots::write(&store, &loaded));
            written.map_err(AuditError::WriteKeys)?;
        }
        let mut writing = Writing {
            to: &store,
            runtime,
            batch: Batch::new(),
            bytes: 0,
            failed: None,
        };
        writing.put(Entry {
            key: stored::META.to_vec(),
            value: stored::encode(&self.meta),
        });
        let report = Walk::over(self, doubtful, &mut damaged, &mut |entry: Entry| {
            writing.put(entry)
        });
        writing.flush();
        if let Some(error) = writing.failed {
            return Err(error.into());
        }
        runtime.block_on(store.close())?;
        Store::end_repair(to)?;
        Ok(report)
    }
}

/// Refuses a store of another format, which would only look damaged.
fn of_this_release(meta: Meta) -> Result<Meta, OpenError> {
    match meta.format {
        FORMAT => Ok(meta),
        found => Err(OpenError::Format {
            found,
            supported: FORMAT,
        }),
    }
}

/// Reads the store's file `keys`, which must hold the store key that `meta` names. When `meta` names no store key, the
/// function makes `meta` name the newest one in the file. Returns `None` for a store that never had a store key.
fn key_file(
    salvage: &SalvageReader,
    meta: &mut Meta,
    providers: &Providers,
) -> Result<Option<KeyFile>, OpenError> {
    let bytes = salvage
        .key_file()
        .map_err(|error| OpenError::Keys(error.into()))?;
    let needed = KeyId::from_stored(&meta.store_key_id);
    let Some(bytes) = bytes else {
        return match (needed, workspaces(salvage)) {
            (None, 0) => Ok(None),
            (Some(_), _) | (None, _) => Err(OpenError::NoKeys),
        };
    };
    let file = KeyFile::decode(&bytes).map_err(OpenError::Keys)?;
    if let Some(needed) = needed.filter(|needed| !file.holds(*needed)) {
        return Err(OpenError::OtherKeys(needed.to_string()));
    }
    if let (None, Some(newest)) = (needed, file.store_keys.last()) {
        meta.store_key_id = newest.id.as_bytes().to_vec();
    }
    match roots::missing(&file, providers) {
        None => Ok(Some(file)),
        Some(Missing { given, needed }) => Err(OpenError::OtherRootKey {
            given,
            needed,
            workspaces: workspaces(salvage),
        }),
    }
}

/// Returns the number of workspaces that can be read.
fn workspaces(salvage: &SalvageReader) -> u64 {
    salvage.live(stored::WORKSPACES).count() as u64
}

/// Entries on their way into the new store.
struct Writing<'a> {
    to: &'a Store,
    runtime: &'a Runtime,
    batch: Batch,
    bytes: usize,
    failed: Option<store::CommitError>,
}

impl Writing<'_> {
    fn put(&mut self, Entry { key, value }: Entry) {
        self.bytes += key.len() + value.len();
        self.batch = std::mem::take(&mut self.batch).put(key, value);
        if self.bytes >= BATCH {
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
