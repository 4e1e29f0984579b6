//! Secret key bytes, and the ids that name keys in stored bytes.

use std::fmt;

use zeroize::{Zeroize as _, ZeroizeOnDrop};

use super::{
    Corruption, NoRandomness,
    derive::{Purpose, derive},
    field_reader::FieldReader,
};

pub(super) const KEY_LEN: usize = 32;

/// 256 secret bits, which are wiped on drop.
///
/// A key has no `Debug`, `Clone` or `PartialEq`. The bytes are made in place on the heap, so moving a key copies none of
/// them.
pub(super) struct Key(Box<[u8; KEY_LEN]>);

impl Key {
    pub(super) fn init(fill: impl FnOnce(&mut [u8; KEY_LEN])) -> Self {
        let mut key = Self(Box::new([0; KEY_LEN]));
        fill(&mut key.0);
        key
    }

    pub(super) fn try_init<E>(fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self(Box::new([0; KEY_LEN]));
        fill(&mut key.0)?;
        Ok(key)
    }

    pub(super) fn random() -> Result<Self, NoRandomness> {
        Self::try_init(|bytes| getrandom::fill(bytes).map_err(NoRandomness))
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

/// Id of a root key, a store key or a workspace's KEK. The id is derived from the key, so one id never names two keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// `id = HKDF-SHA256[(), purpose](key, 16)`
    pub(super) fn of(key: &Key, purpose: Purpose) -> Self {
        let mut id = [0; 16];
        derive(key.expose(), None, purpose, &mut id);
        Self(id)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns `None` when `bytes` does not have the length of an id.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn read(reader: &mut FieldReader<'_>) -> Result<Self, Corruption> {
        reader.array().copied().map(Self)
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
