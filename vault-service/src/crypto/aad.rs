//! Additional authenticated data (AAD): the fields that a ciphertext is bound to.
//!
//! `AAD = LP(f1) || LP(f2) || ...` with `LP(f) = u64be(len(f)) || f`, so two different lists of fields never give the
//! same bytes.

use super::{ALGORITHM, derive::Purpose, format, key::KeyId, record_id::RecordId};
use proto::Uid;

pub(super) struct Aad(Vec<u8>);

impl Aad {
    fn new(format: u8) -> Self {
        Self(Vec::with_capacity(256)).field(&[format]).field(&[ALGORITHM])
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    fn record_id(self, id: &RecordId<'_>) -> Self {
        let RecordId {
            workspace_uid,
            name,
            version,
        } = id;
        self.field(workspace_uid.as_bytes())
            .field(name.as_str().as_bytes())
            .field(&version.to_be_bytes())
    }
}

impl AsRef<[u8]> for Aad {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// `format, algorithm, purpose, root key id, store key id`
pub(super) fn wrapped_store_key(root: KeyId, store_key: KeyId) -> Aad {
    Aad::new(format::WRAPPED_STORE_KEY)
        .field(Purpose::WrapStoreKey.label())
        .field(root.as_bytes())
        .field(store_key.as_bytes())
}

/// `format, algorithm, purpose, store key id, workspace uid, KEK id`
pub(super) fn wrapped_kek(store_key: KeyId, workspace_uid: &Uid, kek: KeyId) -> Aad {
    Aad::new(format::WRAPPED_KEK)
        .field(Purpose::WrapWorkspaceKek.label())
        .field(store_key.as_bytes())
        .field(workspace_uid.as_bytes())
        .field(kek.as_bytes())
}

/// `format, algorithm, purpose, root key id, Argon2id parameters and salt`
pub(super) fn wrapped_root_key(root: KeyId, argon2: &[u8]) -> Aad {
    Aad::new(format::WRAPPED_ROOT_KEY)
        .field(Purpose::WrapRootKey.label())
        .field(root.as_bytes())
        .field(argon2)
}

/// `format, algorithm, purpose, KEK id, workspace uid, name, version`
pub(super) fn wrapped_dek(kek: KeyId, id: &RecordId<'_>) -> Aad {
    Aad::new(format::RECORD)
        .field(Purpose::WrapDek.label())
        .field(kek.as_bytes())
        .record_id(id)
}

/// `format, algorithm, workspace uid, name, version, expiry, count of origins, each origin`
///
/// The KEK's id is not part of this AAD, because a rewrap must not touch the encrypted value.
pub(super) fn record(id: &RecordId<'_>, expiry: [u8; 8], origins: &[&[u8]]) -> Aad {
    let aad = Aad::new(format::RECORD)
        .record_id(id)
        .field(&expiry)
        .field(&(origins.len() as u64).to_be_bytes());
    origins.iter().fold(aad, |aad, origin| aad.field(origin))
}

/// `format, algorithm, purpose, all bytes of the backup's header before the wrap`
pub(super) fn wrapped_backup_key(format: u8, header: &[u8]) -> Aad {
    Aad::new(format)
        .field(Purpose::WrapBackupKey.label())
        .field(header)
}

/// `format, algorithm`
///
/// A backup's frames need no more: each backup has a key of its own, and a frame's position is in its nonce.
pub(super) fn backup_frame(format: u8) -> Aad {
    Aad::new(format)
}

#[cfg(test)]
mod tests;
