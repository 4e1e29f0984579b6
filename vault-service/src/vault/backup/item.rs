//! The content of a backup's frames: the changes of the store in sequence, and at the end a count and a digest.
//!
//! ```text
//! 01  length of the key (4)  key  length of the value (4)  value     an entry
//! 02  length of the key (4)  key                                     removal of an earlier entry
//! 03  count of the items before (8)  SHA-256 of all bytes before (32)   the end
//! ```
//!
//! Lengths and the count are big endian. A later item replaces an earlier one with the same key.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use crate::{
    crypto::backup::{BackupDecryptor, BackupError},
    store::{Change, Entry, MAX_ENTRY},
};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const END: u8 = 3;

#[derive(Default)]
pub(super) struct ItemWriter {
    count: u64,
    digest: Sha256,
}

impl ItemWriter {
    pub(super) fn item(&mut self, change: &Change, out: &mut Vec<u8>) {
        let from = out.len();
        match change {
            Change::Put(Entry { key, value }) => {
                out.push(PUT);
                field(key, out);
                field(value, out);
            }
            Change::Delete(key) => {
                out.push(DELETE);
                field(key, out);
            }
        }
        self.count += 1;
        let (_, item) = out.split_at(from);
        self.digest.update(item);
    }

    pub(super) fn end(self, out: &mut Vec<u8>) {
        let Self { count, digest } = self;
        out.push(END);
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&digest.finalize());
    }
}

fn field(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).expect("an entry has at most 96 KiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Reads items. Everything that [`ItemWriter`] would not write is an error, and so are bytes after the end.
pub(super) struct ItemReader<R> {
    frames: BackupDecryptor<R>,
    frame: Vec<u8>,
    at: usize,
    count: u64,
    digest: Sha256,
}

impl<R: Read> ItemReader<R> {
    pub(super) fn new(frames: BackupDecryptor<R>) -> Self {
        Self {
            frames,
            frame: Vec::new(),
            at: 0,
            count: 0,
            digest: Sha256::new(),
        }
    }

    /// Returns the next item; `None` after a valid end. An error is final.
    pub(super) fn next(&mut self) -> Result<Option<Change>, BackupError> {
        let change = match self.array()? {
            [PUT] => {
                self.digest.update([PUT]);
                let key = self.field()?;
                let value = self.field()?;
                if key.len() + value.len() > MAX_ENTRY {
                    return Err(malformed());
                }
                Change::Put(Entry { key, value })
            }
            [DELETE] => {
                self.digest.update([DELETE]);
                Change::Delete(self.field()?)
            }
            [END] => return self.end().map(|()| None),
            [_] => return Err(malformed()),
        };
        self.count += 1;
        Ok(Some(change))
    }

    fn end(&mut self) -> Result<(), BackupError> {
        let (count, digest) = (self.array()?, self.array::<32>()?);
        let found = self.digest.finalize_reset();
        let nothing_left = self.at == self.frame.len() && self.frames.next_frame()?.is_none();
        if u64::from_be_bytes(count) == self.count && digest == *found && nothing_left {
            Ok(())
        } else {
            Err(malformed())
        }
    }

    fn field(&mut self) -> Result<Vec<u8>, BackupError> {
        let len: [u8; 4] = self.array()?;
        let len_read = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if len_read > MAX_ENTRY {
            return Err(malformed());
        }
        let mut field = vec![0; len_read];
        self.fill(&mut field)?;
        self.digest.update(len);
        self.digest.update(&field);
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills `to` from the current frame and the following ones.
    fn fill(&mut self, mut to: &mut [u8]) -> Result<(), BackupError> {
        while !to.is_empty() {
            let (_, rest) = self.frame.split_at(self.at);
            if rest.is_empty() {
                self.frame = self.frames.next_frame()?.ok_or_else(malformed)?;
                self.at = 0;
                continue;
            }
            let count = rest.len().min(to.len());
            let (now, later) = to.split_at_mut(count);
            let (given, _) = rest.split_at(count);
            now.copy_from_slice(given);
            self.at += count;
            to = later;
        }
        Ok(())
    }
}

/// Returns the error for content that is authentic and that no release writes.
fn malformed() -> BackupError {
    BackupError::Damaged(None)
}
