//! Keys, each of a type of its own, and their ids.
//!
//! No key can be printed, cloned or compared; each lives in one place on the heap, so that moving it
//! leaves no copy behind, and is wiped on drop.

use std::fmt;

use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use super::{
    ALGORITHM, Corruption, DecryptionError, NoRandomness, aad,
    bytes::Bytes,
    format,
    nonce::{self, FreshNonce, NONCE_LEN, TAG_LEN},
    record::RecordId,
    wrap::{self, Purpose, Wrapped},
};
use proto::Uid;

pub(super) const KEY_LEN: usize = 32;

/// 256 secret bits.
pub(super) struct Key(Box<[u8; KEY_LEN]>);

impl Key {
    /// Makes a key in place.
    pub(super) fn init(fill: impl FnOnce(&mut [u8; KEY_LEN])) -> Key {
        let mut key = Key(Box::new([0; KEY_LEN]));
        fill(&mut key.0);
        key
    }

    /// Makes a key in place, or none.
    pub(super) fn try_init<E>(fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>) -> Result<Key, E> {
        let mut key = Key(Box::new([0; KEY_LEN]));
        fill(&mut key.0)?;
        Ok(key)
    }

    pub(super) fn random() -> Result<Key, NoRandomness> {
        Key::try_init(|bytes| getrandom::fill(bytes).map_err(NoRandomness))
    }

    pub(super) fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for Key {}

/// Names a root key, a store key or a workspace's KEK. Derived from the key, so one id never names two keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// `id = HKDF-SHA256[(), purpose](key, 16)`
    fn of(key: &Key, purpose: Purpose) -> KeyId {
        let mut id = [0; 16];
        wrap::derive(key, None, purpose, &mut id);
        KeyId(id)
    }

    /// The id as stored.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// An id as stored; none when the bytes are not one.
    pub fn from_stored(bytes: &[u8]) -> Option<KeyId> {
        bytes.try_into().ok().map(KeyId)
    }

    pub(super) fn read(bytes: &mut Bytes<'_>) -> Result<KeyId, Corruption> {
        bytes.array().copied().map(KeyId)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The bytes are all the same: not a key, but a file that was never filled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a root key whose bytes are all the same is no key")]
pub struct WeakKey;

/// Wraps the keys of a store, and those of its backups.
pub struct RootKey {
    key: Key,
    id: KeyId,
}

impl RootKey {
    /// Takes 32 bytes that came from a random generator.
    pub fn from_bytes(bytes: Zeroizing<[u8; KEY_LEN]>) -> Result<RootKey, WeakKey> {
        let [first, rest @ ..] = &*bytes;
        if rest.iter().all(|byte| byte == first) {
            return Err(WeakKey);
        }
        Ok(RootKey::new(Key::init(|key| *key = *bytes)))
    }

    /// A fresh key.
    pub fn generate() -> Result<RootKey, NoRandomness> {
        Key::random().map(RootKey::new)
    }

    fn new(key: Key) -> RootKey {
        let id = KeyId::of(&key, Purpose::RootKeyId);
        RootKey { key, id }
    }

    /// Names this key in what it wraps.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn expose(&self) -> &[u8; KEY_LEN] {
        self.key.expose()
    }

    /// A copy, for who encrypts root keys elsewhere.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.expose().to_vec())
    }

    /// Takes a key that was wrapped; it must be the one that `id` names.
    pub(super) fn unwrapped(key: Key, id: KeyId) -> Result<RootKey, Corruption> {
        let root = RootKey::new(key);
        if root.id != id {
            return Err(Corruption::KeyIdMismatch);
        }
        Ok(root)
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Wraps the key of the backup that begins with `header`.
    pub(super) fn wrap_backup_key(
        &self,
        key: &Key,
        format: u8,
        header: &[u8],
    ) -> Result<Wrapped, NoRandomness> {
        let aad = aad::wrapped_backup_key(format, header);
        wrap::wrap(&self.key, Purpose::WrapBackupKey, &aad, key)
    }

    pub(super) fn unwrap_backup_key(
        &self,
        wrapped: &Wrapped,
        format: u8,
        header: &[u8],
    ) -> Result<Key, Corruption> {
        let aad = aad::wrapped_backup_key(format, header);
        wrap::unwrap(&self.key, Purpose::WrapBackupKey, &aad, wrapped)
    }

    /// Wraps the key of a store.
    pub fn wrap(&self, store_key: &StoreKey) -> Result<Vec<u8>, NoRandomness> {
        let aad = aad::wrapped_store_key(self.id, store_key.id);
        let wrapped = wrap::wrap(&self.key, Purpose::WrapStoreKey, &aad, &store_key.key)?;
        Ok(WrappedKey::write(
            format::WRAPPED_STORE_KEY,
            self.id,
            store_key.id,
            &wrapped,
        ))
    }

    /// Unwraps a store key that [`Self::wrap`] wrapped with this root key.
    pub fn unwrap(&self, bytes: &[u8]) -> Result<StoreKey, DecryptionError> {
        let WrappedKey { by, id, wrapped } = WrappedKey::parse(bytes, format::WRAPPED_STORE_KEY)?;
        if by != self.id {
            return Err(DecryptionError::UnknownKey(by));
        }
        let aad = aad::wrapped_store_key(by, id);
        let store_key = StoreKey::new(wrap::unwrap(&self.key, Purpose::WrapStoreKey, &aad, &wrapped)?);
        if store_key.id != id {
            return Err(Corruption::KeyIdMismatch.into());
        }
        Ok(store_key)
    }
}

/// The key that wraps the KEKs of a store's workspaces. Destroying a store key makes every KEK that only it has wrapped
/// unreadable.
pub struct StoreKey {
    key: Key,
    id: KeyId,
}

impl StoreKey {
    /// A fresh key.
    pub fn generate() -> Result<StoreKey, NoRandomness> {
        Key::random().map(StoreKey::new)
    }

    pub(super) fn new(key: Key) -> StoreKey {
        let id = KeyId::of(&key, Purpose::StoreKeyId);
        StoreKey { key, id }
    }

    /// Returns the id of this key, which each of its wraps names.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Wraps `kek` for this workspace, and no other.
    pub fn wrap(&self, kek: &WorkspaceKek, workspace_uid: &Uid) -> Result<Vec<u8>, NoRandomness> {
        let aad = aad::wrapped_kek(self.id, workspace_uid, kek.id);
        let wrapped = wrap::wrap(&self.key, Purpose::WrapWorkspaceKek, &aad, &kek.key)?;
        Ok(WrappedKey::write(format::WRAPPED_KEK, self.id, kek.id, &wrapped))
    }

    /// Unwraps what `wrap` made with this key for this workspace.
    pub fn unwrap(&self, bytes: &[u8], workspace_uid: &Uid) -> Result<WorkspaceKek, DecryptionError> {
        let WrappedKey { by, id, wrapped } = WrappedKey::parse(bytes, format::WRAPPED_KEK)?;
        if by != self.id {
            return Err(DecryptionError::UnknownKey(by));
        }
        let aad = aad::wrapped_kek(by, workspace_uid, id);
        let key = wrap::unwrap(&self.key, Purpose::WrapWorkspaceKek, &aad, &wrapped)?;
        let kek = WorkspaceKek::new(key);
        if kek.id != id {
            return Err(Corruption::KeyIdMismatch.into());
        }
        Ok(kek)
    }
}

/// Returns the id of the root key that wrapped the store key.
pub fn root_key_id(wrapped_store_key: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(WrappedKey::parse(wrapped_store_key, format::WRAPPED_STORE_KEY)?.by)
}

/// Returns the id of the wrapped store key.
pub fn wrapped_store_key_id(wrapped_store_key: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(WrappedKey::parse(wrapped_store_key, format::WRAPPED_STORE_KEY)?.id)
}

/// Returns the id of the store key that wrapped the KEK.
pub fn store_key_id(wrapped_kek: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(WrappedKey::parse(wrapped_kek, format::WRAPPED_KEK)?.by)
}

/// The id of the KEK in this wrap.
pub fn wrapped_kek_id(wrapped_kek: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(WrappedKey::parse(wrapped_kek, format::WRAPPED_KEK)?.id)
}

/// A wrapped key with the ids of both keys in front of it.
struct WrappedKey {
    /// The key that wrapped it.
    by: KeyId,
    /// The key inside.
    id: KeyId,
    wrapped: Wrapped,
}

impl WrappedKey {
    fn write(format: u8, by: KeyId, id: KeyId, wrapped: &Wrapped) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + 16 + 16 + Wrapped::LEN);
        out.extend_from_slice(&[format, ALGORITHM]);
        out.extend_from_slice(by.as_bytes());
        out.extend_from_slice(id.as_bytes());
        wrapped.write(&mut out);
        out
    }

    fn parse(bytes: &[u8], format: u8) -> Result<WrappedKey, Corruption> {
        let mut bytes = Bytes::open(bytes, format)?;
        let parsed = WrappedKey {
            by: KeyId::read(&mut bytes)?,
            id: KeyId::read(&mut bytes)?,
            wrapped: Wrapped::read(&mut bytes)?,
        };
        bytes.end()?;
        Ok(parsed)
    }
}

/// Wraps the DEKs of one workspace. Without it, none of its values can be read.
pub struct WorkspaceKek {
    key: Key,
    id: KeyId,
}

impl WorkspaceKek {
    /// A fresh key.
    pub fn generate() -> Result<WorkspaceKek, NoRandomness> {
        Key::random().map(WorkspaceKek::new)
    }

    fn new(key: Key) -> WorkspaceKek {
        let id = KeyId::of(&key, Purpose::WorkspaceKekId);
        WorkspaceKek { key, id }
    }

    /// Names this key in what it wraps.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// A key for fingerprints of requests; it wraps nothing.
    pub(super) fn fingerprint_key(&self) -> Key {
        Key::init(|key| wrap::derive(&self.key, None, Purpose::RequestFingerprint, key))
    }

    pub(super) fn wrap_dek(&self, dek: &Dek, place: &RecordId<'_>) -> Result<Wrapped, NoRandomness> {
        let aad = aad::wrapped_dek(self.id, place);
        wrap::wrap(&self.key, Purpose::WrapDek, &aad, &dek.0)
    }

    pub(super) fn rewrap_dek(&self, dek: &SpentDek, place: &RecordId<'_>) -> Result<Wrapped, NoRandomness> {
        let aad = aad::wrapped_dek(self.id, place);
        wrap::wrap(&self.key, Purpose::WrapDek, &aad, &dek.0)
    }

    pub(super) fn unwrap_dek(&self, wrapped: &Wrapped, place: &RecordId<'_>) -> Result<SpentDek, Corruption> {
        let aad = aad::wrapped_dek(self.id, place);
        wrap::unwrap(&self.key, Purpose::WrapDek, &aad, wrapped).map(SpentDek)
    }
}

/// A DEK that has not encrypted yet. It does so once and is gone.
pub(super) struct Dek(Key);

impl Dek {
    pub(super) fn generate() -> Result<Dek, NoRandomness> {
        Key::random().map(Dek)
    }

    pub(super) fn seal(self, nonce: FreshNonce, aad: &aad::Aad, buffer: &mut [u8]) -> [u8; TAG_LEN] {
        nonce::seal(&self.0, nonce, aad, buffer)
    }

    #[cfg(test)]
    pub(super) fn expose(&self) -> &[u8; KEY_LEN] {
        self.0.expose()
    }
}

/// A DEK that has encrypted its record: it opens that, and can be wrapped anew, but never encrypts.
pub(super) struct SpentDek(Key);

impl SpentDek {
    pub(super) fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &aad::Aad,
        buffer: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Corruption> {
        nonce::open(&self.0, nonce, aad, buffer, tag)
    }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
