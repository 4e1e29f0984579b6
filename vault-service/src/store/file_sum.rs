//! Lengths and checksums of files.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// Size of the parts in which a file is read, in bytes.
const PART: usize = 1024 * 1024;

/// Length and CRC-32 of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSum {
    pub(super) length: u64,
    pub(super) crc: u32,
}

impl FileSum {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::of_and_search(path, &[])?.0)
    }

    /// Returns the sum of the file, and true when the file contains `wanted`.
    pub(super) fn of_and_search(path: &Path, wanted: &[u8]) -> io::Result<(Self, bool)> {
        let (mut crc, mut length, mut contains) = (crc32fast::Hasher::new(), 0, false);
        let overlap = wanted.len().saturating_sub(1);
        for_each_part(path, overlap, |repeated, part| {
            crc.update(part.get(repeated..).unwrap_or_default());
            length += (part.len() - repeated) as u64;
            contains = contains || memchr::memmem::find(part, wanted).is_some();
        })?;
        let sum = Self {
            length,
            crc: crc.finalize(),
        };
        Ok((sum, contains))
    }
}

/// Returns the number of nonzero bytes of the file.
pub(super) fn nonzero_bytes(path: &Path) -> io::Result<u64> {
    let mut nonzero = 0;
    for_each_part(path, 0, |_, part| {
        nonzero += part.iter().filter(|byte| **byte != 0).count() as u64;
    })?;
    Ok(nonzero)
}

/// Reads the file part by part, and calls `see` with each. The last `overlap` bytes of a part are repeated at the start of
/// the next one; the first argument of `see` is the number of repeated bytes.
fn for_each_part(path: &Path, overlap: usize, mut see: impl FnMut(usize, &[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; PART + overlap];
    let mut repeated = 0;
    loop {
        let read = match file.read(buffer.get_mut(repeated..).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = repeated + read;
        see(repeated, buffer.get(..end).unwrap_or_default());
        repeated = overlap.min(end);
        buffer.copy_within(end - repeated..end, 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn bytes_are_found_anywhere_in_a_file_also_across_the_end_of_a_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let wanted = b"across the end of a part";
        for at in [0, PART - wanted.len(), PART - 3, PART, PART + 1, 2 * PART - 1] {
            let mut bytes = vec![0; 2 * PART + 100];
            bytes[at..at + wanted.len()].copy_from_slice(wanted);
            fs::write(&path, &bytes).unwrap();
            let (sum, found) = FileSum::of_and_search(&path, wanted).unwrap();
            assert!(found, "{at}");
            assert_eq!(sum.length, bytes.len() as u64);
            assert_eq!(sum.crc, crc32fast::hash(&bytes));
            assert_eq!(FileSum::of(&path).unwrap(), sum);
            assert_eq!(nonzero_bytes(&path).unwrap(), wanted.len() as u64);
            assert!(!FileSum::of_and_search(&path, b"elsewhere").unwrap().1);
        }
    }
}
