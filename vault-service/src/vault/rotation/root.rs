//! The keys of the workspaces, moved to another root key.

use super::step::{Ended, Move, PAGE, Then, Unreadable, What, another_pass, page};
use crate::{
    crypto::KeyId,
    root::WrappedRootKey,
    store::Store,
    vault::{
        VaultError,
        keyring::Keyring,
        roots,
        stored::{self, Rotation, WorkspaceRecord},
    },
};

/// The next step of the root key's rotation.
pub(super) fn next(store: &Store, keyring: &Keyring, rotation: Rotation) -> Result<What, VaultError> {
    let (meta_bytes, mut meta) = roots::read_meta(store)?;
    let active = roots::active(&meta)?;
    let after = Some(rotation.cursor.as_slice()).filter(|cursor| !cursor.is_empty());
    let entries = store.scan(stored::WORKSPACES, after, PAGE)?;
    if entries.is_empty() {
        if rotation.unreadable > 0 {
            return Ok(What::only(Then::Wait(another_pass(rotation))));
        }
        let needed = |kept: &WrappedRootKey| kept.id == meta.root_key_id;
        let (kept, destroyed): (Vec<_>, Vec<_>) = meta.root_keys.into_iter().partition(needed);
        meta.root_keys = kept;
        let pruned = Move {
            key: stored::META.to_vec(),
            from: meta_bytes,
            to: stored::encode(&meta),
        };
        let ids = destroyed.iter().filter_map(|key| KeyId::from_stored(&key.id));
        return Ok(What::with(pruned, Then::End(Ended::Root(ids.collect()))));
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
