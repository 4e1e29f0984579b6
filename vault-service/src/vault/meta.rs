//! The store's [`Meta`] entry.

use super::{
    VaultError,
    access::PagedScan,
    stored::{self, Meta},
};
use crate::{
    crypto::KeyId,
    store::{ReadEntries, Store},
};

const PAGE: usize = 1000;

/// Returns the entry, encoded and decoded.
pub(super) fn read(store: &Store) -> Result<(Vec<u8>, Meta), VaultError> {
    let bytes = store.read(stored::META)?.ok_or(VaultError::Corrupt(None))?;
    let meta = stored::decode(&bytes)?;
    Ok((bytes, meta))
}

/// Returns the id of the active store key, which wraps all new KEKs.
pub(super) fn active_store_key(meta: &Meta) -> Result<KeyId, VaultError> {
    if meta.store_key_id.is_empty() {
        return Err(VaultError::Locked);
    }
    KeyId::from_stored(&meta.store_key_id).ok_or(VaultError::Corrupt(None))
}

pub(super) fn count_entries<S: ReadEntries>(store: &S, prefix: &[u8]) -> Result<u64, S::Error> {
    let (mut scan, mut count) = (PagedScan::new(prefix, PAGE), 0);
    loop {
        match scan.next(store)?.len() {
            0 => return Ok(count),
            entries => count += entries as u64,
        }
    }
}

/// Counts the workspaces, each of which needs the store keys and so the root key.
pub(super) fn count_workspaces<S: ReadEntries>(store: &S) -> Result<u64, S::Error> {
    count_entries(store, stored::WORKSPACES)
}
