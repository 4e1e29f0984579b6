//! Reading a whole store that may be damaged: what is in it and authenticates, and what is lost.
//!
//! Nothing here hands out a value. Records are opened to see whether they open, and what was in them is wiped.

mod damage;
mod walk;

use std::{collections::BTreeMap, path::Path};

use tokio::runtime::Runtime;

pub use damage::{Damage, What};

use super::{
    FORMAT, OpenError,
    backup::FILLING,
    initial,
    keyring::Keyring,
    roots::{self, Missing},
    stored::{self, Meta},
};
use crate::{
    crypto::KeyId,
    root::{ProviderError, Providers},
    store::{self, Batch, Entry, HOLD, Salvage, Store},
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
    /// It is not of these root keys or this release.
    #[error(transparent)]
    Vault(#[from] OpenError),
    /// A root key is not to be had.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// What came in of a backup is not all of it, however sound it looks.
    #[error("a backup was restored into this store by half: restore it again, into a new store")]
    ByHalf,
    /// The new store could not be written.
    #[error("the new store could not be written")]
    Write(#[from] store::CommitError),
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
    /// Lines of damage.
    pub damaged: u64,
    /// Parts of the store that cannot be read.
    pub gaps: u64,
    /// Why the vault would not open the store, if it would not.
    pub refusal: Option<String>,
}

impl Report {
    /// Whether nothing at all is the matter.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0 && self.gaps == 0 && self.refusal.is_none()
    }
}

/// A store to be read, and the root keys for it.
pub struct Audit {
    salvage: Salvage,
    keyring: Keyring,
    meta: Meta,
}

impl Audit {
    /// Copies the store in `dir` into `scratch` and opens the copy, with the root keys that `providers` give. The store itself
    /// stays as it is. Blocking, and not from within a runtime.
    pub fn open(
        dir: &Path,
        scratch: &Path,
        cache_bytes: u64,
        providers: &Providers,
        runtime: &Runtime,
    ) -> Result<Self, AuditError> {
        let salvage = Salvage::open(dir, scratch, cache_bytes)?;
        if let Ok(Some(held)) = salvage.read(HOLD)
            && held == FILLING
        {
            return Err(AuditError::ByHalf);
        }
        let mut meta = match salvage.read(stored::META) {
            Ok(Some(bytes)) => check(
                stored::decode(&bytes).map_err(OpenError::Corrupt)?,
                providers,
                &salvage,
            )?,
            // All else may still be there.
            Ok(None) | Err(_) => initial(),
        };
        let mut keys = runtime.block_on(providers.open(&meta.root_keys))?;
        if meta.root_key_id.is_empty() {
            let active = runtime.block_on(providers.activate(&mut keys, &mut meta.root_keys))?;
            meta.root_key_id = active.as_bytes().to_vec();
        }
        let keyring = Keyring::sealed();
        keyring.load(keys);
        Ok(Self {
            salvage,
            keyring,
            meta,
        })
    }

    /// Reads everything, and names what is damaged. Blocking.
    pub fn verify(&self, mut damaged: impl FnMut(&Damage)) -> Report {
        Walk::over(self, &mut damaged, &mut |_: Entry| ())
    }

    /// Reads everything, writes what authenticates to `to`, which must be new, and names what is lost; closes `to`. Blocking, and not
    /// from within a runtime.
    pub fn repair(
        &self,
        to: Store,
        runtime: &Runtime,
        mut damaged: impl FnMut(&Damage),
    ) -> Result<Report, AuditError> {
        let mut writing = Writing {
            to: &to,
            runtime,
            batch: Batch::new(),
            bytes: 0,
            failed: None,
        };
        writing.put(Entry {
            key: stored::META.to_vec(),
            value: stored::encode(&self.meta),
        });
        let report = Walk::over(self, &mut damaged, &mut |entry: Entry| writing.put(entry));
        writing.flush();
        if let Some(error) = writing.failed {
            return Err(error.into());
        }
        runtime.block_on(to.close())?;
        Ok(report)
    }
}

/// A newer layout, or one of another root key, would only look damaged.
fn check(meta: Meta, providers: &Providers, salvage: &Salvage) -> Result<Meta, OpenError> {
    if meta.format != FORMAT {
        return Err(OpenError::Format {
            found: meta.format,
            supported: FORMAT,
        });
    }
    // What a workspace needs beside the active one is said of that workspace: its record may be damaged.
    let missing = roots::missing(&meta, providers, &BTreeMap::new());
    match missing.and_then(|_| roots::missing(&meta, providers, &workspaces_of_each(salvage))) {
        None => Ok(meta),
        Some(Missing {
            given,
            needed,
            workspaces,
        }) => Err(OpenError::OtherRootKey {
            given,
            needed,
            workspaces,
        }),
    }
}

/// How many workspaces have keys that each root key wraps, as far as they can be read.
fn workspaces_of_each(salvage: &Salvage) -> BTreeMap<KeyId, u64> {
    let mut counts = BTreeMap::new();
    salvage.each(stored::WORKSPACES, |entry| {
        for root in roots::roots_of(&entry.value) {
            *counts.entry(root).or_default() += 1;
        }
    });
    counts
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
