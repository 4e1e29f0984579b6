//! The hierarchy of keys: root key, store key, workspace KEK, DEK. Each key has a type of its own.

use zeroize::Zeroizing;

use super::{
    ALGORITHM, Corruption, DecryptionError, NoRandomness, aad,
    derive::{Purpose, derive},
    field_reader::FieldReader,
    format,
    gcm::{self, FreshNonce, NONCE_LEN, TAG_LEN},
    key::{KEY_LEN, Key, KeyId},
    record_id::RecordId,
    wrap::{self, KeyWrap},
};
use proto::Uid;

/// Error of a root key whose bytes are all the same, as in a file that was allocated but never filled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a root key must not have 32 equal bytes")]
pub struct WeakKey;

/// The key that wraps a store's store keys and the keys of the store's backups.
pub struct RootKey {
    key: Key,
    id: KeyId,
}

impl RootKey {
    /// Makes a root key from 32 bytes of a random generator.
    pub fn from_bytes(bytes: Zeroizing<[u8; KEY_LEN]>) -> Result<Self, WeakKey> {
        let [first, rest @ ..] = &*bytes;
        if rest.iter().all(|byte| byte == first) {
            return Err(WeakKey);
        }
        Ok(Self::new(Key::init(|key| *key = *bytes)))
    }

    pub fn generate() -> Result<Self, NoRandomness> {
        Key::random().map(Self::new)
    }

    fn new(key: Key) -> Self {
        let id = KeyId::of(&key, Purpose::RootKeyId);
        Self { key, id }
    }

    /// Makes a root key from an unwrapped key, whose id must be `id`.
    pub(super) fn from_unwrapped(key: Key, id: KeyId) -> Result<Self, Corruption> {
        let root = Self::new(key);
        match root.id == id {
            true => Ok(root),
            false => Err(Corruption::KeyIdMismatch),
        }
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn expose(&self) -> &[u8; KEY_LEN] {
        self.key.expose()
    }

    /// Returns a copy of the key bytes, to have a KMS encrypt them.
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.expose().to_vec())
    }

    /// Wraps the key of the backup whose header begins with `header`.
    pub(super) fn wrap_backup_key(
        &self,
        key: &Key,
        format: u8,
        header: &[u8],
    ) -> Result<KeyWrap, NoRandomness> {
        let aad = aad::wrapped_backup_key(format, header);
        wrap::wrap(&self.key, Purpose::WrapBackupKey, &aad, key)
    }

    pub(super) fn unwrap_backup_key(
        &self,
        wrap: &KeyWrap,
        format: u8,
        header: &[u8],
    ) -> Result<Key, Corruption> {
        let aad = aad::wrapped_backup_key(format, header);
        wrap::unwrap(&self.key, Purpose::WrapBackupKey, &aad, wrap)
    }

    pub fn wrap(&self, store_key: &StoreKey) -> Result<Vec<u8>, NoRandomness> {
        let aad = aad::wrapped_store_key(self.id, store_key.id);
        let wrap = wrap::wrap(&self.key, Purpose::WrapStoreKey, &aad, &store_key.key)?;
        Ok(WrappedKey::write(
            format::WRAPPED_STORE_KEY,
            self.id,
            store_key.id,
            &wrap,
        ))
    }

    /// Unwraps a store key that [`Self::wrap`] wrapped with this root key.
    pub fn unwrap(&self, bytes: &[u8]) -> Result<StoreKey, DecryptionError> {
        let WrappedKey { wrapped_by, id, wrap } = WrappedKey::parse(bytes, format::WRAPPED_STORE_KEY)?;
        if wrapped_by != self.id {
            return Err(DecryptionError::UnknownKey(wrapped_by));
        }
        let aad = aad::wrapped_store_key(wrapped_by, id);
        let store_key = StoreKey::new(wrap::unwrap(&self.key, Purpose::WrapStoreKey, &aad, &wrap)?);
        match store_key.id == id {
            true => Ok(store_key),
            false => Err(Corruption::KeyIdMismatch.into()),
        }
    }
}

/// The key that wraps the KEKs of a store's workspaces. Destroying a store key makes every KEK that only this key wrapped
/// unreadable.
pub struct StoreKey {
    key: Key,
    id: KeyId,
}

impl StoreKey {
    pub fn generate() -> Result<Self, NoRandomness> {
        Key::random().map(Self::new)
    }

    fn new(key: Key) -> Self {
        let id = KeyId::of(&key, Purpose::StoreKeyId);
        Self { key, id }
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Wraps `kek`. The result unwraps for this workspace only.
    pub fn wrap(&self, kek: &WorkspaceKek, workspace_uid: &Uid) -> Result<Vec<u8>, NoRandomness> {
        let aad = aad::wrapped_kek(self.id, workspace_uid, kek.id);
        let wrap = wrap::wrap(&self.key, Purpose::WrapWorkspaceKek, &aad, &kek.key)?;
        Ok(WrappedKey::write(format::WRAPPED_KEK, self.id, kek.id, &wrap))
    }

    /// Unwraps a KEK that [`Self::wrap`] wrapped with this store key for this workspace.
    pub fn unwrap(&self, bytes: &[u8], workspace_uid: &Uid) -> Result<WorkspaceKek, DecryptionError> {
        let WrappedKey { wrapped_by, id, wrap } = WrappedKey::parse(bytes, format::WRAPPED_KEK)?;
        if wrapped_by != self.id {
            return Err(DecryptionError::UnknownKey(wrapped_by));
        }
        let aad = aad::wrapped_kek(wrapped_by, workspace_uid, id);
        let kek = WorkspaceKek::new(wrap::unwrap(&self.key, Purpose::WrapWorkspaceKek, &aad, &wrap)?);
        match kek.id == id {
            true => Ok(kek),
            false => Err(Corruption::KeyIdMismatch.into()),
        }
    }
}

/// Returns the id of the root key that wrapped the store key.
pub fn root_key_id(wrapped_store_key: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(WrappedKey::parse(wrapped_store_key, format::WRAPPED_STORE_KEY)?.wrapped_by)
}

/// Returns the id of the wrapped store key.
pub(crate) fn wrapped_store_key_id(wrapped_store_key: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(WrappedKey::parse(wrapped_store_key, format::WRAPPED_STORE_KEY)?.id)
}

/// Returns the id of the store key that wrapped the KEK.
pub fn store_key_id(wrapped_kek: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(WrappedKey::parse(wrapped_kek, format::WRAPPED_KEK)?.wrapped_by)
}

/// Returns the id of the wrapped KEK.
pub(crate) fn wrapped_kek_id(wrapped_kek: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(WrappedKey::parse(wrapped_kek, format::WRAPPED_KEK)?.id)
}

/// The stored form of a wrapped store key or KEK: format, algorithm, the ids of both keys, and the wrap.
struct WrappedKey {
    wrapped_by: KeyId,
    id: KeyId,
    wrap: KeyWrap,
}

impl WrappedKey {
    fn write(format: u8, wrapped_by: KeyId, id: KeyId, wrap: &KeyWrap) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + 16 + 16 + KeyWrap::LEN);
        out.extend_from_slice(&[format, ALGORITHM]);
        out.extend_from_slice(wrapped_by.as_bytes());
        out.extend_from_slice(id.as_bytes());
        wrap.write(&mut out);
        out
    }

    fn parse(bytes: &[u8], format: u8) -> Result<Self, Corruption> {
        let mut reader = FieldReader::of_format(bytes, format)?;
        let parsed = Self {
            wrapped_by: KeyId::read(&mut reader)?,
            id: KeyId::read(&mut reader)?,
            wrap: KeyWrap::read(&mut reader)?,
        };
        reader.end()?;
        Ok(parsed)
    }
}

/// The key that wraps the DEKs of one workspace. Without this key no value of the workspace can be read.
pub struct WorkspaceKek {
    key: Key,
    id: KeyId,
}

impl WorkspaceKek {
    pub fn generate() -> Result<Self, NoRandomness> {
        Key::random().map(Self::new)
    }

    fn new(key: Key) -> Self {
        let id = KeyId::of(&key, Purpose::WorkspaceKekId);
        Self { key, id }
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Derives the key for fingerprints of requests, which wraps nothing.
    pub(super) fn fingerprint_key(&self) -> Key {
        Key::init(|key| derive(self.key.expose(), None, Purpose::RequestFingerprint, key))
    }

    pub(super) fn wrap_dek(&self, dek: &Dek, id: &RecordId<'_>) -> Result<KeyWrap, NoRandomness> {
        wrap::wrap(
            &self.key,
            Purpose::WrapDek,
            &aad::wrapped_dek(self.id, id),
            &dek.0,
        )
    }

    pub(super) fn rewrap_dek(&self, dek: &SpentDek, id: &RecordId<'_>) -> Result<KeyWrap, NoRandomness> {
        wrap::wrap(
            &self.key,
            Purpose::WrapDek,
            &aad::wrapped_dek(self.id, id),
            &dek.0,
        )
    }

    pub(super) fn unwrap_dek(&self, wrap: &KeyWrap, id: &RecordId<'_>) -> Result<SpentDek, Corruption> {
        let aad = aad::wrapped_dek(self.id, id);
        wrap::unwrap(&self.key, Purpose::WrapDek, &aad, wrap).map(SpentDek)
    }
}

/// A data encryption key (DEK) that has not encrypted yet. [`Dek::encrypt`] consumes it, so that it encrypts once.
pub(super) struct Dek(Key);

impl Dek {
    pub(super) fn generate() -> Result<Self, NoRandomness> {
        Key::random().map(Self)
    }

    pub(super) fn encrypt(self, nonce: FreshNonce, aad: &aad::Aad, buffer: &mut [u8]) -> [u8; TAG_LEN] {
        gcm::encrypt(&self.0, nonce, aad, buffer)
    }

    #[cfg(test)]
    pub(super) fn expose(&self) -> &[u8; KEY_LEN] {
        self.0.expose()
    }
}

/// A DEK that has encrypted its record. It can decrypt the record and be wrapped again, but has no method that encrypts.
pub(super) struct SpentDek(Key);

impl SpentDek {
    pub(super) fn decrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &aad::Aad,
        buffer: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Corruption> {
        gcm::decrypt(&self.0, nonce, aad, buffer, tag)
    }
}

#[cfg(test)]
mod tests;
