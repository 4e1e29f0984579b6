//! The store key's rotation, which moves the workspaces' keys to another store key.

use super::step::{Ended, PAGE, Then, Unreadable, What, another_pass, page};
use crate::{
    store::Store,
    vault::{
        VaultError,
        keyring::Keyring,
        roots, store_keys,
        stored::{self, Rotation, WorkspaceRecord},
    },
};

/// The next step of the store key's rotation.
pub(super) fn next(store: &Store, keyring: &Keyring, rotation: Rotation) -> Result<What, VaultError> {
    let active = store_keys::active(&roots::read_meta(store)?.1)?;
    let after = Some(rotation.cursor.as_slice()).filter(|cursor| !cursor.is_empty());
    let entries = store.scan(stored::WORKSPACES, after, PAGE)?;
    if entries.is_empty() {
        return Ok(What::only(match rotation.unreadable {
            0 => Then::End(Ended::StoreKey),
            1.. => Then::Wait(another_pass(rotation)),
        }));
    }
    page(rotation, entries, stored::WORKSPACES.len(), |entry| {
        let mut record: WorkspaceRecord = stored::decode(&entry.value).map_err(|_| Unreadable)?;
        let uid = stored::uid(&record.uid).ok_or(Unreadable)?;
        let retired = record.retired_keks.iter_mut().map(|kek| &mut kek.wrapped_kek);
        let mut changed = false;
        for wrapped in std::iter::once(&mut record.wrapped_kek).chain(retired) {
            if let Some(rewrapped) = keyring.rewrap(&uid, wrapped, active)? {
                *wrapped = rewrapped;
                changed = true;
            }
        }
        Ok(changed.then(|| stored::encode(&record)))
    })
}
