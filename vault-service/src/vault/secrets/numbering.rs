//! Version numbers of deleted secrets, which are never given to a new secret of the same name.
//!
//! A deletion stores the last version number of the secret under its name. A caller who may put and delete could fill the
//! disk with such entries, so a workspace has at most [`MAX_LAST_VERSIONS`] of them; beyond that, a deletion raises the
//! workspace's version floor instead, which all new secrets start above.

use super::current::SecretEntries;
use crate::{
    store::{Batch, Store},
    vault::{VaultError, stored::Kind},
};

/// Maximum number of deleted secrets of a workspace that have an entry of their own.
const MAX_LAST_VERSIONS: usize = 1000;

/// Adds to the deletion of a secret that no new secret of this name gets a version number up to `version`.
pub(super) fn reserve(batch: Batch, secret: SecretEntries<'_>, version: u64) -> Result<Batch, VaultError> {
    let SecretEntries { store, workspace, .. } = secret;
    let entries = store.scan(&Kind::LastVersion.of(&workspace.uid), None, MAX_LAST_VERSIONS)?;
    if entries.len() < MAX_LAST_VERSIONS {
        return Ok(batch.put(secret.key(Kind::LastVersion), version.to_be_bytes()));
    }
    let key = Kind::VersionFloor.of(&workspace.uid);
    let batch = match read_number(store, &key)? {
        Some(floor) if floor >= version => return Ok(batch),
        Some(floor) => batch.expect_value(key.clone(), floor.to_be_bytes()),
        None => batch.expect_absent(key.clone()),
    };
    Ok(batch.put(key, version.to_be_bytes()))
}

/// Returns a number that no version of a deleted secret of this name exceeded; 0 when the name was never used.
pub(super) fn last_version(secret: SecretEntries<'_>) -> Result<u64, VaultError> {
    if let Some(last) = read_number(secret.store, &secret.key(Kind::LastVersion))? {
        return Ok(last);
    }
    let floor = read_number(secret.store, &Kind::VersionFloor.of(&secret.workspace.uid))?;
    Ok(floor.unwrap_or(0))
}

fn read_number(store: &Store, key: &[u8]) -> Result<Option<u64>, VaultError> {
    let number = store
        .read(key)?
        .map(|bytes| bytes.as_slice().try_into().map(u64::from_be_bytes));
    number.transpose().map_err(|_| VaultError::Corrupt(None))
}
