//! What a ciphertext is bound to.
//!
//! `AAD = LP(f1) || LP(f2) || ...` with `LP(f) = u64be(len(f)) || f`: two different lists of fields
//! never give the same bytes.

use super::{
    ALGORITHM, format,
    key::KeyId,
    record::{Expiry, RecordId},
    wrap::Purpose,
};
use proto::Uid;

/// Additional authenticated data.
pub(super) struct Aad(Vec<u8>);

impl Aad {
    fn new(format: u8) -> Aad {
        Aad(Vec::with_capacity(256)).field(&[format]).field(&[ALGORITHM])
    }

    fn field(mut self, bytes: &[u8]) -> Aad {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    fn place(self, place: &RecordId<'_>) -> Aad {
        let RecordId {
            workspace_uid,
            name,
            version,
        } = place;
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

/// Returns the additional data of a wrapped store key: `format, algorithm, purpose, root key id, store key id`.
pub(super) fn wrapped_store_key(root: KeyId, store_key: KeyId) -> Aad {
    Aad::new(format::WRAPPED_STORE_KEY)
        .field(Purpose::WrapStoreKey.label())
        .field(root.as_bytes())
        .field(store_key.as_bytes())
}

/// Returns the additional data of a wrapped KEK: `format, algorithm, purpose, store key id, workspace uid, KEK id`.
pub(super) fn wrapped_kek(store_key: KeyId, workspace_uid: &Uid, kek: KeyId) -> Aad {
    Aad::new(format::WRAPPED_KEK)
        .field(Purpose::WrapWorkspaceKek.label())
        .field(store_key.as_bytes())
        .field(workspace_uid.as_bytes())
        .field(kek.as_bytes())
}

/// `format, algorithm, purpose, root key id, how the passphrase is stretched`
pub(super) fn wrapped_root_key(root: KeyId, stretch: &[u8]) -> Aad {
    Aad::new(format::WRAPPED_ROOT_KEY)
        .field(Purpose::WrapRootKey.label())
        .field(root.as_bytes())
        .field(stretch)
}

/// `format, algorithm, purpose, KEK id, workspace uid, name, version`
pub(super) fn wrapped_dek(kek: KeyId, place: &RecordId<'_>) -> Aad {
    Aad::new(format::RECORD)
        .field(Purpose::WrapDek.label())
        .field(kek.as_bytes())
        .place(place)
}

/// `format, algorithm, workspace uid, name, version, expiry, count of origins, each origin`
///
/// Without the KEK's id: a rewrap must not touch the value.
pub(super) fn record(place: &RecordId<'_>, expiry: Option<Expiry>, origins: &[&[u8]]) -> Aad {
    let aad = Aad::new(format::RECORD)
        .place(place)
        .field(&Expiry::to_bytes(expiry))
        .field(&(origins.len() as u64).to_be_bytes());
    origins.iter().fold(aad, |aad, origin| aad.field(origin))
}

/// `format, algorithm, purpose, all of the header that stands before the wrap`
pub(super) fn wrapped_backup_key(format: u8, header: &[u8]) -> Aad {
    Aad::new(format)
        .field(Purpose::WrapBackupKey.label())
        .field(header)
}

/// `format, algorithm`: the key is one backup's alone, and a frame's place is in its nonce.
pub(super) fn backup_frame(format: u8) -> Aad {
    Aad::new(format)
}

#[cfg(test)]
#[path = "aad_tests.rs"]
mod tests;
