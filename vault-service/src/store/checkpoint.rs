//! The store's checkpoint: an entry that says which groups of batches the store contains.

use std::{fmt, io};

/// Key of the checkpoint entry. Callers can neither read nor write this key.
pub(super) const CHECKPOINT_KEY: &[u8] = b"\0store";
const FORMAT: u8 = 1;
/// Generation of a store to which nothing was committed yet.
pub(super) const FIRST_GENERATION: u64 = 1;

/// Random id of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreId([u8; 16]);

/// Every group of batches writes the checkpoint too, so the checkpoint is exactly as durable as the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) id: StoreId,
    /// Number of committed groups.
    pub(super) generation: u64,
    /// Number of entries without the checkpoint.
    pub(super) entries: u64,
}

impl StoreId {
    /// Parses an id from its displayed form.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self(u128::from_str_radix(text, 16).ok()?.to_be_bytes()))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl Checkpoint {
    /// Returns the checkpoint of a new, empty store.
    pub(super) fn of_new_store() -> io::Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        Ok(Self {
            id: StoreId(id),
            generation: FIRST_GENERATION,
            entries: 0,
        })
    }

    /// Returns the checkpoint after one more group, which adds `added` entries.
    pub(super) fn next(self, added: i64) -> Self {
        Self {
            id: self.id,
            generation: self.generation.saturating_add(1),
            entries: self.entries.saturating_add_signed(added),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.id.0);
        bytes.extend(self.generation.to_be_bytes());
        bytes.extend(self.entries.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.strip_prefix(&[FORMAT])?.split_first_chunk()?;
        let (generation, entries) = rest.split_first_chunk()?;
        Some(Self {
            id: StoreId(*id),
            generation: u64::from_be_bytes(*generation),
            entries: u64::from_be_bytes(entries.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_encoded_checkpoint_is_decoded() {
        let checkpoint = Checkpoint {
            id: StoreId(*b"0123456789abcdef"),
            generation: 42,
            entries: 97,
        };
        let bytes = checkpoint.encode();
        assert_eq!(Checkpoint::decode(&bytes), Some(checkpoint));
        for length in 0..bytes.len() {
            assert_eq!(Checkpoint::decode(&bytes[..length]), None);
        }
        assert_eq!(Checkpoint::decode(&[bytes.as_slice(), &[0]].concat()), None);
    }
}
