//! Strict reader of stored bytes: every announced field must be present, and no byte may follow the last field.

use super::{ALGORITHM, Corruption};

/// The bytes that were not read yet.
pub(super) struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    /// Starts after the bytes for `format` and the algorithm.
    pub(super) fn of_format(bytes: &'a [u8], format: u8) -> Result<Self, Corruption> {
        Self::of_formats(bytes, &[format]).map(|(_, reader)| reader)
    }

    /// Starts after the bytes for the format, which must be one of `formats`, and the algorithm. Also returns the format.
    pub(super) fn of_formats(bytes: &'a [u8], formats: &[u8]) -> Result<(u8, Self), Corruption> {
        let mut reader = Self(bytes);
        match reader.array()? {
            [found, _] if !formats.contains(found) => Err(Corruption::UnknownFormat(*found)),
            [_, found] if *found != ALGORITHM => Err(Corruption::UnknownAlgorithm(*found)),
            [found, _] => Ok((*found, reader)),
        }
    }

    pub(super) fn from_start(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Takes the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Corruption> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Corruption::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// Takes the next `len` bytes.
    pub(super) fn slice(&mut self, len: usize) -> Result<&'a [u8], Corruption> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Corruption::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// Splits all remaining bytes into a ciphertext and its tag.
    pub(super) fn ciphertext_and_tag<const TAG: usize>(
        self,
    ) -> Result<(&'a [u8], &'a [u8; TAG]), Corruption> {
        self.0.split_last_chunk().ok_or(Corruption::Truncated)
    }

    /// Fails when bytes remain.
    pub(super) fn end(self) -> Result<(), Corruption> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Corruption::TrailingBytes)
        }
    }
}
