//! Reading stored bytes strictly: what is announced must be there, and nothing after it.

use super::{ALGORITHM, Corruption};

/// What is left to read.
pub(super) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// Starts behind `format` and the algorithm.
    pub(super) fn open(bytes: &'a [u8], format: u8) -> Result<Bytes<'a>, Corruption> {
        Bytes::open_any(bytes, &[format]).map(|(_, bytes)| bytes)
    }

    /// Starts behind one of `formats`, and says which, and the algorithm.
    pub(super) fn open_any(bytes: &'a [u8], formats: &[u8]) -> Result<(u8, Bytes<'a>), Corruption> {
        let mut bytes = Bytes(bytes);
        match bytes.array()? {
            [found, _] if !formats.contains(found) => Err(Corruption::UnknownFormat(*found)),
            [_, found] if *found != ALGORITHM => Err(Corruption::UnknownAlgorithm(*found)),
            [found, _] => Ok((*found, bytes)),
        }
    }

    /// Starts at the first byte.
    pub(super) fn all(bytes: &'a [u8]) -> Bytes<'a> {
        Bytes(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Corruption> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Corruption::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// The next `len` bytes.
    pub(super) fn slice(&mut self, len: usize) -> Result<&'a [u8], Corruption> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Corruption::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// All that is left: a ciphertext and its tag.
    pub(super) fn sealed<const TAG: usize>(self) -> Result<(&'a [u8], &'a [u8; TAG]), Corruption> {
        self.0.split_last_chunk().ok_or(Corruption::Truncated)
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Corruption> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Corruption::TrailingBytes)
        }
    }
}
