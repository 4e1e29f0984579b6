//! The place of a value in the file.

use super::scan::Frame;

/// The place and the checksum of a value in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct ValueLocation {
    pub(super) at: u64,
    pub(super) length: u32,
    pub(super) crc: u32,
}

impl ValueLocation {
    /// Returns the location of `value`, which must be a slice of `body`, the body of `frame`.
    pub(super) fn of(frame: &Frame, body: &[u8], value: &[u8]) -> Self {
        let before = value.as_ptr().addr().saturating_sub(body.as_ptr().addr());
        Self {
            at: frame.at.saturating_add(before as u64),
            length: u32::try_from(value.len()).unwrap_or(u32::MAX),
            crc: crc32fast::hash(value),
        }
    }

    /// Returns true when both values have the same length and checksum, wherever they are in the file.
    pub(super) fn equals(&self, other: &Self) -> bool {
        (self.length, self.crc) == (other.length, other.crc)
    }
}
