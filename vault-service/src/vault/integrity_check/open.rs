//! Opening a store that may be damaged, for a check.

use std::path::Path;

use tokio::runtime::Runtime;

use crate::{
    crypto::KeyId,
    root::Providers,
    store::{self, EXCLUSIVE_WRITER, KeyHistory, SalvageReader},
    vault::{
        OpenError, VaultError,
        backup::RESTORING,
        key_file::WrappedKeys,
        keyring::Keyring,
        open::{check_format, new_meta},
        root_key,
        stored::{self, Meta},
    },
};

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

/// A store to verify or repair, and its keys.
pub struct IntegrityCheck {
    pub(super) salvage: SalvageReader,
    pub(super) keyring: Keyring,
    pub(super) meta: Meta,
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
