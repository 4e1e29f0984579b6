//! Entries, and read access to them before a store is opened.

use super::KeyFileError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// Read access to a store that may not be opened yet. All methods block.
pub trait ReadEntries {
    type Error;

    /// Returns the value at `key`.
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Returns up to `limit` entries whose keys start with `prefix`, in key order, after the full key `after` if given.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Self::Error>;

    /// Returns the content of the file `keys`; `None` when the file does not exist.
    fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError>;
}
