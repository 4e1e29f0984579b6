//! Version numbers of deleted secrets, which are never given to a new secret of the same name.
//!
//! A deletion stores the last version number of the secret under its name. A caller who may put and delete could fill the
//! disk with such entries, so a workspace has at most [`MAX_LAST_VERSIONS`] of them; beyond that, a deletion raises the
//! workspace's version floor instead, which all new secrets start above.

use proto::SecretName;

use crate::{
    store::{Batch, Store},
    vault::{VaultError, stored::Kind, workspace::StoredWorkspace},
};

/// Maximum number of deleted secrets of a workspace that have an entry of their own.
const MAX_LAST_VERSIONS: usize = 1000;

/// Adds to a deletion of secret `name` that no new secret of this name gets a version number up to `version`.
pub(super) fn reserve(
    batch: Batch,
    store: &Store,
    workspace: &StoredWorkspace,
    name: &SecretName,
    version: u64,
) -> Result<Batch, VaultError> {
    let entries = store.scan(&Kind::LastVersion.of(&workspace.uid), None, MAX_LAST_VERSIONS)?;
    if entries.len() < MAX_LAST_VERSIONS {
        let key = Kind::LastVersion.key(&workspace.uid, name);
        return Ok(batch.put(key, version.to_be_bytes()));
    }
    let key = Kind::VersionFloor.of(&workspace.uid);
    let floor = read_number(store, &key)?;
    if floor.is_some_and(|floor| floor >= version) {
        return Ok(batch);
    }
    let batch = match floor {
        Some(floor) => batch.expect_value(key.clone(), floor.to_be_bytes()),
        None => batch.expect_absent(key.clone()),
    };
    Ok(batch.put(key, version.to_be_bytes()))
}

/// Returns a number that no version of a deleted secret of this name exceeded; 0 when the name was never used.
pub(super) fn last_version(
    store: &Store,
    workspace: &StoredWorkspace,
    name: &SecretName,
) -> Result<u64, VaultError> {
    match read_number(store, &Kind::LastVersion.key(&workspace.uid, name))? {
        Some(last) => Ok(last),
        None => Ok(read_number(store, &Kind::VersionFloor.of(&workspace.uid))?.unwrap_or(0)),
    }
}

fn read_number(store: &Store, key: &[u8]) -> Result<Option<u64>, VaultError> {
    let number = store
        .read(key)?
        .map(|bytes| bytes.as_slice().try_into().map(u64::from_be_bytes));
    number.transpose().map_err(|_| VaultError::Corrupt(None))
}
