use std::ops::Range;

use zeroize::Zeroizing;

use super::encoding::base64_character;

/// Bytes that are computed at once.
const PART: usize = 64;

/// The bits of a value from one of its first bits on, as far as they make whole characters of base64.
pub(super) struct ShiftedBits<'v> {
    value: &'v [u8],
    /// The bits that are left out at the beginning: 0, 2 or 4.
    skipped: u32,
}

impl<'v> ShiftedBits<'v> {
    pub(super) fn new(value: &'v [u8], skipped: u32) -> Self {
        Self { value, skipped }
    }

    /// Returns the number of characters, each of which has 6 bits.
    pub(super) fn characters(&self) -> usize {
        (self.value.len() * 8 - self.skipped()) / 6
    }

    /// Returns the number of bytes. The last byte ends with zeros when the characters have fewer bits.
    pub(super) fn len(&self) -> usize {
        (self.characters() * 6).div_ceil(8)
    }

    /// Calls `each` with the bytes of `range`, in parts that are wiped afterwards.
    pub(super) fn for_each(&self, range: Range<usize>, mut each: impl FnMut(&[u8])) {
        let mut part = Zeroizing::new([0; PART]);
        let after_last_bit = self.characters() * 6;
        let mut from = range.start;
        while from < range.end {
            let until = range.end.min(from + PART);
            self.shift(from, &mut part);
            let unused = (until * 8).saturating_sub(after_last_bit);
            let part = part.get_mut(..until - from).unwrap_or_default();
            if let Some(last) = part.last_mut() {
                *last &= u8::MAX << unused;
            }
            each(part);
            from = until;
        }
    }

    /// Adds the characters to `text`, which is empty.
    pub(super) fn write_base64(&self, text: &mut Vec<u8>) {
        let (mut bits, mut count) = (0_u64, 0);
        self.for_each(0..self.len(), |part| {
            for byte in part {
                bits = (bits & 0xff) << 8 | u64::from(*byte);
                count += 8;
                while count >= 6 && text.len() < self.characters() {
                    count -= 6;
                    text.push(base64_character(bits >> count & 0x3f));
                }
            }
        });
    }

    /// Writes the bytes from `from` on.
    fn shift(&self, from: usize, part: &mut [u8; PART]) {
        let value = self.value.get(from..).unwrap_or_default();
        // A loop over slices, so that the compiler can use vector instructions. The last byte has no byte after it.
        let following = value.get(1..).unwrap_or_default();
        let shift = |byte: u8, next: u8| {
            let [shifted, _] = (u16::from_be_bytes([byte, next]) << self.skipped).to_be_bytes();
            shifted
        };
        for ((to, byte), next) in part.iter_mut().zip(value).zip(following) {
            *to = shift(*byte, *next);
        }
        if let (Some(to), Some(last)) = (part.get_mut(following.len()), value.last()) {
            *to = shift(*last, 0);
        }
    }

    fn skipped(&self) -> usize {
        usize::try_from(self.skipped).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

    use super::{super::encoding::ValueEncoding, *};

    /// The bytes of `characters`, as a scanner decodes them.
    fn decoded(characters: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let text = [characters.as_bytes(), b""];
        let decoding = ValueEncoding::Base64.decode(text, |part| bytes.extend_from_slice(part));
        assert!(decoding.is_some());
        bytes
    }

    #[test]
    fn the_bits_are_those_of_the_characters() {
        let value: Vec<u8> = (0..200_u8).map(|byte| byte.wrapping_mul(151) ^ 0xa5).collect();
        for len in 8..value.len() {
            let value = &value[..len];
            for (before, skipped, first) in [(0, 0, 0), (1, 4, 2), (2, 2, 3)] {
                let bits = ShiftedBits::new(value, skipped);
                let whole = STANDARD_NO_PAD.encode([&[0xff; 2][..before], value].concat());
                let characters = &whole[first..first + bits.characters()];
                assert!(whole.len() - first - characters.len() <= 1, "{len}");
                for split in [0, 3, 126.min(bits.len())] {
                    let mut bytes = Vec::new();
                    bits.for_each(0..split, |part| bytes.extend_from_slice(part));
                    bits.for_each(split..bits.len(), |part| bytes.extend_from_slice(part));
                    assert_eq!(bytes, decoded(characters), "{len} {before} {split}");
                }
            }
        }
    }
}
