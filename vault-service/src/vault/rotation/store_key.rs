//! The rotation of the store key, which rewraps the KEKs of all workspaces.

use super::step::{NextState, PAGE, ReleasedKeys, StepWork, UnreadableEntry, next_pass, plan_page};
use crate::{
    store::Store,
    vault::{
        VaultError,
        keyring::Keyring,
        meta,
        stored::{self, Rotation, WorkspaceRecord},
    },
};

pub(super) fn plan(store: &Store, keyring: &Keyring, rotation: Rotation) -> Result<StepWork, VaultError> {
    let active = meta::active_store_key(&meta::read(store)?.1)?;
    let after = Some(rotation.cursor.as_slice()).filter(|cursor| !cursor.is_empty());
    let entries = store.scan(stored::WORKSPACES, after, PAGE)?;
    if entries.is_empty() {
        return Ok(StepWork::only(match rotation.unreadable {
            0 => NextState::End(ReleasedKeys::StoreKeys),
            1.. => NextState::Wait(next_pass(rotation)),
        }));
    }
    plan_page(rotation, entries, stored::WORKSPACES.len(), |entry| {
        let mut record: WorkspaceRecord = stored::decode(&entry.value).map_err(|_| UnreadableEntry)?;
        let uid = stored::uid(&record.uid).ok_or(UnreadableEntry)?;
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
