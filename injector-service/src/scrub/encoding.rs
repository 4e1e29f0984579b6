//! The encodings that write a fixed number of characters for each byte, or for each group of bytes.

use zeroize::Zeroizing;

/// The most characters of a beginning that are computed.
const BEGINNING: usize = 16;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The way in which a text stands for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// The text is the bytes themselves.
    Plain,
    /// Two hexadecimal digits for each byte, in either case.
    Hex,
    /// `%` and two hexadecimal digits for each byte, in either case.
    Percent,
    /// Base64 without padding, in either alphabet.
    Base64,
}

/// The letters of hexadecimal digits.
#[derive(Clone, Copy)]
pub(super) enum HexCase {
    Lower,
    Upper,
}

/// The first bytes of a value, and zeros after the end of a shorter value.
pub(super) struct FirstBytes(Zeroizing<[u8; BEGINNING]>);

/// The first characters of an encoded value.
pub(super) type FirstCharacters = Zeroizing<[u8; BEGINNING]>;

impl Encoding {
    /// Returns the number of characters and the number of bytes in one group.
    const fn group(self) -> (usize, usize) {
        match self {
            Self::Plain => (1, 1),
            Self::Hex => (2, 1),
            Self::Percent => (3, 1),
            Self::Base64 => (4, 3),
        }
    }

    /// Returns the number of characters in the groups of `bytes` bytes. The last group counts as a whole.
    pub(super) fn text_len(self, bytes: usize) -> usize {
        let (characters, of_bytes) = self.group();
        bytes.div_ceil(of_bytes) * characters
    }

    /// Calls `each` with the bytes of a text that comes in two parts. Only the last group of the text may be incomplete.
    /// Returns `None` when the text is not in this encoding.
    pub(super) fn decode(self, text: [&[u8]; 2], mut each: impl FnMut(&[u8])) -> Option<()> {
        if self == Self::Plain {
            text.into_iter().for_each(each);
            return Some(());
        }
        let (width, _) = self.group();
        let mut characters = text.into_iter().flatten().copied();
        loop {
            let mut group = [0; 4];
            let mut len = 0;
            for (slot, next) in group.iter_mut().take(width).zip(characters.by_ref()) {
                *slot = next;
                len += 1;
            }
            if len == 0 {
                return Some(());
            }
            self.decode_group(group.get(..len)?, &mut each)?;
        }
    }

    fn decode_group(self, group: &[u8], each: &mut impl FnMut(&[u8])) -> Option<()> {
        match (self, group) {
            (Self::Hex, [high, low]) | (Self::Percent, [b'%', high, low]) => {
                each(&[digit(*high)? << 4 | digit(*low)?]);
            }
            (Self::Base64, characters) => {
                let bits = characters.iter().try_fold(0_u32, |bits, character| {
                    Some(bits << 6 | u32::from(sextet(*character)?))
                })?;
                let bits = bits << (32 - 6 * characters.len());
                each(bits.to_be_bytes().get(..(characters.len() * 6).div_ceil(8))?);
            }
            (Self::Plain | Self::Hex | Self::Percent, _) => return None,
        }
        Some(())
    }
}

fn digit(character: u8) -> Option<u8> {
    let digit = char::from(character).to_digit(16)?;
    u8::try_from(digit).ok()
}

fn sextet(character: u8) -> Option<u8> {
    Some(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

impl FirstBytes {
    pub(super) fn of(value: &[u8]) -> Self {
        let mut first = Zeroizing::new([0; BEGINNING]);
        first.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        Self(first)
    }

    pub(super) fn hex(&self, case: HexCase) -> FirstCharacters {
        self.chunks(|byte| case.of(byte))
    }

    pub(super) fn percent(&self, case: HexCase) -> FirstCharacters {
        self.chunks(|byte| case.percent(byte))
    }

    fn chunks<const N: usize>(&self, chunk: impl Fn(u8) -> [u8; N]) -> FirstCharacters {
        let mut text = Zeroizing::new([0; BEGINNING]);
        let (chunks, _) = text.as_chunks_mut();
        for (each, byte) in chunks.iter_mut().zip(self.0.iter()) {
            *each = chunk(*byte);
        }
        text
    }

    /// Returns the characters of base64 for the bits from `skipped` on, which is at most 4.
    pub(super) fn base64(&self, skipped: u32) -> FirstCharacters {
        let mut text = Zeroizing::new([0; BEGINNING]);
        let (first, second) = text.split_at_mut(10);
        // The first word has the 60 bits of 10 characters. The second word begins with bit 56.
        write_base64(self.word(0) << skipped, first);
        write_base64(self.word(7) << (skipped + 4), second);
        text
    }

    fn word(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

fn write_base64(mut bits: u64, text: &mut [u8]) {
    for character in text {
        let index = usize::try_from(bits >> 58).unwrap_or_default();
        *character = ALPHABET.get(index).copied().unwrap_or_default();
        bits <<= 6;
    }
}

/// Returns the text with the letters of the other alphabet of base64, or `None` when both alphabets write the first
/// `len` characters alike.
pub(super) fn in_url_alphabet(text: &FirstCharacters, len: usize) -> Option<FirstCharacters> {
    let mut other = text.clone();
    for character in other.iter_mut() {
        *character = match *character {
            b'+' => b'-',
            b'/' => b'_',
            same => same,
        };
    }
    (other.get(..len) != text.get(..len)).then_some(other)
}

impl HexCase {
    pub(super) const BOTH: [Self; 2] = [Self::Lower, Self::Upper];

    #[inline]
    pub(super) fn of(self, byte: u8) -> [u8; 2] {
        [self.digit(byte >> 4), self.digit(byte & 15)]
    }

    #[inline]
    pub(super) fn percent(self, byte: u8) -> [u8; 3] {
        [b'%', self.digit(byte >> 4), self.digit(byte & 15)]
    }

    /// Without a branch on the digit, so that the compiler can use vector instructions.
    #[inline]
    fn digit(self, digit: u8) -> u8 {
        let after_nine = match self {
            Self::Lower => b'a' - b'9' - 1,
            Self::Upper => b'A' - b'9' - 1,
        };
        b'0' + digit + u8::from(digit > 9) * after_nine
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

    use super::*;

    fn decoded(encoding: Encoding, text: &str, split: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let (first, second) = text.as_bytes().split_at(split);
        encoding
            .decode([first, second], |part| bytes.extend_from_slice(part))
            .map(|()| bytes)
    }

    #[test]
    fn a_text_is_decoded_wherever_it_is_split() {
        for (encoding, text, bytes) in [
            (Encoding::Plain, "a-b", "a-b"),
            (Encoding::Hex, "7a2D", "z-"),
            (Encoding::Percent, "%7a%2D", "z-"),
            (Encoding::Base64, "fn4-fn4_", "~~>~~?"),
            (Encoding::Base64, "fn4+fn4/", "~~>~~?"),
            (Encoding::Base64, "YWI", "ab\0"),
            (Encoding::Base64, "YQ", "a\0"),
            (Encoding::Base64, "YWJjY", "abc`"),
        ] {
            for split in 0..=text.len() {
                assert_eq!(
                    decoded(encoding, text, split).unwrap(),
                    bytes.as_bytes(),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn another_text_is_not_decoded() {
        for (encoding, text) in [
            (Encoding::Hex, "7g"),
            (Encoding::Hex, "7a7"),
            (Encoding::Percent, "%7a7a"),
            (Encoding::Percent, "%7a%7"),
            (Encoding::Base64, "YWJ="),
            (Encoding::Base64, "YW\nI"),
        ] {
            assert_eq!(decoded(encoding, text, 0), None, "{text}");
        }
    }

    #[test]
    fn the_first_characters_are_those_of_the_encodings() {
        let value = b"\xff\xa0z-value of many bytes";
        let first = FirstBytes::of(value);
        assert_eq!(&first.hex(HexCase::Lower)[..], b"ffa07a2d76616c75");
        assert_eq!(&first.percent(HexCase::Upper)[..15], b"%FF%A0%7A%2D%76");
        for (before, skipped, characters) in [(0, 0, 0), (1, 4, 2), (2, 2, 3)] {
            let whole = STANDARD_NO_PAD.encode([&[0; 2][..before], value].concat());
            let expected = &whole.as_bytes()[characters..][..15];
            assert_eq!(&first.base64(skipped)[..15], expected, "{before}");
        }
    }

    #[test]
    fn both_alphabets_write_most_texts_alike() {
        let text = Zeroizing::new(*b"abcdefghijklmno/");
        assert!(in_url_alphabet(&text, 15).is_none());
        assert_eq!(
            in_url_alphabet(&text, 16).unwrap().as_slice(),
            b"abcdefghijklmno_"
        );
    }
}
