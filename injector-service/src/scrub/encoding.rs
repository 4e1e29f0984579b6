//! The encodings that write a fixed number of characters for each byte, or for each group of bytes.

use zeroize::Zeroizing;

/// The most characters of a beginning that are computed.
const BEGINNING: usize = 16;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The way in which a text stands for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueEncoding {
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
pub(super) struct FirstBytes(Beginning);

/// The first characters of a form.
pub(super) type Beginning = Zeroizing<[u8; BEGINNING]>;

impl ValueEncoding {
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

pub(super) fn digit(character: u8) -> Option<u8> {
    let digit = char::from(character).to_digit(16)?;
    u8::try_from(digit).ok()
}

pub(super) fn sextet(character: u8) -> Option<u8> {
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
        match value.first_chunk() {
            Some(whole) => *first = *whole,
            None => first.iter_mut().zip(value).for_each(|(to, from)| *to = *from),
        }
        Self(first)
    }

    /// The characters of the value itself.
    pub(super) fn plain(&self) -> &Beginning {
        &self.0
    }

    /// Writes hexadecimal digits with small letters.
    pub(super) fn write_hex(&self, text: &mut Beginning) {
        self.write_chunks(text, |byte| HexCase::Lower.of(byte));
    }

    /// Writes every byte percent-encoded, with small letters.
    pub(super) fn write_percent(&self, text: &mut Beginning) {
        self.write_chunks(text, |byte| HexCase::Lower.percent(byte));
    }

    fn write_chunks<const N: usize>(&self, text: &mut Beginning, chunk: impl Fn(u8) -> [u8; N]) {
        let (chunks, _) = text.as_chunks_mut();
        for (each, byte) in chunks.iter_mut().zip(self.0.iter()) {
            *each = chunk(*byte);
        }
    }

    /// Writes the characters of base64 for the bits from `skipped` on, which is at most 4.
    pub(super) fn write_base64(&self, skipped: u32, text: &mut Beginning) {
        let (first, second) = text.split_at_mut(10);
        // The first word has the 60 bits of 10 characters. The second word begins with bit 56.
        write_base64(self.word(0) << skipped, first);
        write_base64(self.word(7) << (skipped + 4), second);
    }

    fn word(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

fn write_base64(mut bits: u64, text: &mut [u8]) {
    for character in text {
        *character = base64_character(bits >> 58);
        bits <<= 6;
    }
}

/// Returns the character of base64 for six bits.
pub(super) fn base64_character(bits: u64) -> u8 {
    let index = usize::try_from(bits).unwrap_or_default();
    ALPHABET.get(index).copied().unwrap_or_default()
}

/// Changes hexadecimal digits to capital letters. Returns false when the first `len` characters stay the same.
pub(super) fn to_upper_case(text: &mut Beginning, len: usize) -> bool {
    let differs = text.iter().take(len).any(u8::is_ascii_lowercase);
    text.make_ascii_uppercase();
    differs
}

/// Changes characters of base64 to the other alphabet. Returns false when the first `len` characters stay the same.
pub(super) fn to_url_alphabet(text: &mut Beginning, len: usize) -> bool {
    let has_other = |text: &[u8]| {
        // `any` would stop at the first such character, and could not use vector instructions.
        text.iter()
            .fold(false, |any, each| any | matches!(each, b'+' | b'/'))
    };
    if !has_other(text.as_slice()) {
        return false;
    }
    let differs = has_other(text.get(..len).unwrap_or_default());
    for character in text.iter_mut() {
        *character = match *character {
            b'+' => b'-',
            b'/' => b'_',
            same => same,
        };
    }
    differs
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

    fn decoded(encoding: ValueEncoding, text: &str, split: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let (first, second) = text.as_bytes().split_at(split);
        encoding
            .decode([first, second], |part| bytes.extend_from_slice(part))
            .map(|()| bytes)
    }

    #[test]
    fn a_text_is_decoded_wherever_it_is_split() {
        for (encoding, text, bytes) in [
            (ValueEncoding::Plain, "a-b", "a-b"),
            (ValueEncoding::Hex, "7a2D", "z-"),
            (ValueEncoding::Percent, "%7a%2D", "z-"),
            (ValueEncoding::Base64, "fn4-fn4_", "~~>~~?"),
            (ValueEncoding::Base64, "fn4+fn4/", "~~>~~?"),
            (ValueEncoding::Base64, "YWI", "ab\0"),
            (ValueEncoding::Base64, "YQ", "a\0"),
            (ValueEncoding::Base64, "YWJjY", "abc`"),
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
            (ValueEncoding::Hex, "7g"),
            (ValueEncoding::Hex, "7a7"),
            (ValueEncoding::Percent, "%7a7a"),
            (ValueEncoding::Percent, "%7a%7"),
            (ValueEncoding::Base64, "YWJ="),
            (ValueEncoding::Base64, "YW\nI"),
        ] {
            assert_eq!(decoded(encoding, text, 0), None, "{text}");
        }
    }

    #[test]
    fn the_first_characters_are_those_of_the_encodings() {
        let value = b"\xff\xa0z-value of many bytes";
        let first = FirstBytes::of(value);
        let mut text = Zeroizing::new([0; BEGINNING]);
        first.write_hex(&mut text);
        assert_eq!(&text[..], b"ffa07a2d76616c75");
        first.write_percent(&mut text);
        assert_eq!(&text[..15], b"%ff%a0%7a%2d%76");
        assert!(to_upper_case(&mut text, 15));
        assert_eq!(&text[..15], b"%FF%A0%7A%2D%76");
        assert!(!to_upper_case(&mut text, 15));
        for (before, skipped, characters) in [(0, 0, 0), (1, 4, 2), (2, 2, 3)] {
            let whole = STANDARD_NO_PAD.encode([&[0; 2][..before], value].concat());
            let expected = &whole.as_bytes()[characters..][..15];
            first.write_base64(skipped, &mut text);
            assert_eq!(&text[..15], expected, "{before}");
        }
        assert_eq!(FirstBytes::of(b"eight888").plain()[..9], *b"eight888\0");
    }

    #[test]
    fn both_alphabets_write_most_texts_alike() {
        for (text, len, differs, other) in [
            (b"abcdefghijklmnop", 16, false, b"abcdefghijklmnop"),
            (b"abcdefghijklmno/", 15, false, b"abcdefghijklmno_"),
            (b"abcdefghijklmno/", 16, true, b"abcdefghijklmno_"),
            (b"+bcdefghijklmno/", 15, true, b"-bcdefghijklmno_"),
        ] {
            let mut changed = Zeroizing::new(*text);
            assert_eq!(to_url_alphabet(&mut changed, len), differs);
            assert_eq!(*changed, *other);
        }
    }
}
