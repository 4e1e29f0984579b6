//! Decodes the parts of a short text that may be the encoded form of a value.
//!
//! In a text that is there as a whole, decoding costs less than fingerprints of every form of a value: almost no field of
//! a head is long enough, or has an escaped character.

use std::ops::Range;

use super::encoding::{digit, sextet};

/// Bytes that a part of a text stands for.
pub(super) struct DecodedText<'o> {
    pub(super) bytes: Vec<u8>,
    places: Places<'o>,
}

/// The places of decoded bytes in the text.
enum Places<'o> {
    /// Groups of as many characters as there are in a byte, from a place on.
    Groups { start: usize, width: usize },
    /// Base64 from a place on: a place in the decoded bytes of `outer`, if the base64 is itself escaped.
    Base64 {
        start: usize,
        outer: Option<&'o DecodedText<'o>>,
    },
    /// The place of each byte, and the end of the text.
    Listed(Vec<usize>),
}

impl DecodedText<'_> {
    /// Returns the characters of the text that stand for a range of the bytes, and for nothing else.
    pub(super) fn place(&self, bytes: Range<usize>) -> Range<usize> {
        let Range { start: from, end: to } = bytes;
        match &self.places {
            Places::Groups { start, width } => start + from * width..start + to * width,
            Places::Base64 { start, outer } => {
                let place = start + (from * 8).div_ceil(6)..start + to * 8 / 6;
                outer.map_or(place.clone(), |outer| outer.place(place))
            }
            Places::Listed(places) => {
                let place = |at: usize| places.get(at).copied().unwrap_or_default();
                place(from)..place(to)
            }
        }
    }
}

/// Calls `each` with the decoded parts of `text` that may contain a value of at least `shortest` bytes.
pub(super) fn for_each(text: &[u8], shortest: usize, mut each: impl FnMut(&DecodedText<'_>)) {
    each_base64(text, None, shortest, &mut each);
    for run in runs(text, shortest * 2, |byte| digit(byte).is_some()) {
        let digits = text.get(run.clone()).unwrap_or_default();
        for skipped in 0..2 {
            each(&hex(digits, run.start, skipped));
        }
    }
    if text.contains(&b'%') || text.contains(&b'+') {
        let with_plus = percent(text, b'+');
        each(&with_plus);
        each(&percent(text, b' '));
        if text.contains(&b'%') {
            each_base64(&with_plus.bytes, Some(&with_plus), shortest, &mut each);
        }
    }
    if text.contains(&b'\\') {
        let once = json(text);
        each(&once);
        each_base64(&once.bytes, Some(&once), shortest, &mut each);
        // A JSON text in a string of a JSON text.
        let mut twice = json(&once.bytes);
        if let Places::Listed(places) = &mut twice.places {
            for place in places {
                *place = once.place(*place..*place).start;
            }
        }
        each(&twice);
    }
}

/// Calls `each` with the decoded runs of base64 in `text`, which are the bytes of `outer` if there is one.
fn each_base64<'o>(
    text: &[u8],
    outer: Option<&'o DecodedText<'o>>,
    shortest: usize,
    each: &mut impl FnMut(&DecodedText<'_>),
) {
    for run in runs(text, shortest * 8 / 6, |byte| sextet(byte).is_some()) {
        let characters = text.get(run.clone()).unwrap_or_default();
        // The first character may be any one of a group of four.
        for skipped in 0..4 {
            each(&DecodedText {
                bytes: base64(characters, skipped),
                places: Places::Base64 {
                    start: run.start + skipped,
                    outer,
                },
            });
        }
    }
}

/// Returns the longest runs of `member` characters, as far as they have at least `shortest` characters. Looks only at every
/// `shortest`-th character where there is no run.
fn runs(text: &[u8], shortest: usize, member: impl Fn(u8) -> bool) -> impl Iterator<Item = Range<usize>> {
    let is_member = move |at: usize| text.get(at).is_some_and(|byte| member(*byte));
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let probe = from + shortest - 1;
            if probe >= text.len() {
                return None;
            }
            if !is_member(probe) {
                from = probe + 1;
                continue;
            }
            let start = (from..probe).rev().find(|at| !is_member(*at));
            let start = start.map_or(from, |before| before + 1);
            let end = (probe..text.len()).find(|at| !is_member(*at));
            let end = end.unwrap_or(text.len());
            from = end + 1;
            if end - start >= shortest {
                return Some(start..end);
            }
        }
    })
}

fn base64(characters: &[u8], skipped: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(characters.len() * 6 / 8);
    let (mut bits, mut count) = (0_u32, 0);
    for character in characters.iter().skip(skipped) {
        bits = bits << 6 | u32::from(sextet(*character).unwrap_or_default());
        count += 6;
        if count >= 8 {
            count -= 8;
            let [.., byte] = (bits >> count).to_be_bytes();
            bytes.push(byte);
        }
    }
    bytes
}

fn hex(digits: &[u8], start: usize, skipped: usize) -> DecodedText<'static> {
    let (pairs, _) = digits.get(skipped..).unwrap_or_default().as_chunks();
    DecodedText {
        bytes: pairs.iter().filter_map(byte_of).collect(),
        places: Places::Groups {
            start: start + skipped,
            width: 2,
        },
    }
}

/// Decodes `%` and two digits, wherever they are. `plus` is the character that `+` stands for.
fn percent(text: &[u8], plus: u8) -> DecodedText<'static> {
    escaped(text, |rest| match rest {
        [b'%', high, low, ..] => byte_of(&[*high, *low]).map(|byte| (vec![byte], 3)),
        [b'+', ..] => Some((vec![plus], 1)),
        _ => None,
    })
}

/// Decodes the escaped characters of JSON strings (RFC 8259, section 7).
fn json(text: &[u8]) -> DecodedText<'static> {
    escaped(text, |rest| {
        let [b'\\', kind, hex @ ..] = rest else {
            return None;
        };
        let character = match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'"' | b'\\' | b'/' => char::from(*kind),
            b'u' => return utf16(hex).map(|(character, len)| (utf8(character), len + 2)),
            _ => return None,
        };
        Some((utf8(character), 2))
    })
}

/// Decodes the digits after `\u`, and the second half of a surrogate pair.
fn utf16(rest: &[u8]) -> Option<(char, usize)> {
    let unit = |rest: &[u8]| {
        let (pairs, _) = rest.get(..4)?.as_chunks::<2>();
        let [high, low] = pairs else { return None };
        Some(u16::from_be_bytes([byte_of(high)?, byte_of(low)?]))
    };
    let first = unit(rest)?;
    let second = rest.get(4..).and_then(|rest| unit(rest.strip_prefix(b"\\u")?));
    let units = std::iter::once(first).chain(second);
    let character = char::decode_utf16(units).next()?.ok()?;
    Some((character, if character.len_utf16() == 1 { 4 } else { 10 }))
}

fn utf8(character: char) -> Vec<u8> {
    character.to_string().into_bytes()
}

/// Decodes a text in which `decode` finds escaped characters at the beginning of the rest, and returns their bytes and
/// their length.
fn escaped(text: &[u8], decode: impl Fn(&[u8]) -> Option<(Vec<u8>, usize)>) -> DecodedText<'static> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut places = Vec::with_capacity(text.len() + 1);
    let mut at = 0;
    while let Some((byte, _)) = text.get(at..).and_then(<[u8]>::split_first) {
        let rest = text.get(at..).unwrap_or_default();
        let (decoded, len) = decode(rest).unwrap_or_else(|| (vec![*byte], 1));
        places.extend(decoded.iter().map(|_| at));
        bytes.extend(decoded);
        at += len;
    }
    places.push(text.len());
    DecodedText {
        bytes,
        places: Places::Listed(places),
    }
}

fn byte_of([high, low]: &[u8; 2]) -> Option<u8> {
    Some(digit(*high)? << 4 | digit(*low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_wherever_they_begin_and_end() {
        let letters = |byte: u8| byte.is_ascii_lowercase();
        for before in 0..12 {
            for len in 0..12 {
                let text = format!("{}{}-ab-", "-".repeat(before), "x".repeat(len));
                let found: Vec<_> = runs(text.as_bytes(), 5, letters).collect();
                let expected = Vec::from_iter((len >= 5).then_some(before..before + len));
                assert_eq!(found, expected, "{text}");
            }
        }
        let found: Vec<_> = runs(b"abcde-abcdef-abcdefg", 6, letters).collect();
        assert_eq!(found, [6..12, 13..20]);
    }

    #[test]
    fn the_place_of_a_byte_is_its_characters() {
        let text = br"a\u00e9\ud83d\udd11\/b%2Bc";
        let once = json(text);
        assert_eq!(once.bytes, "aé\u{1f511}/b%2Bc".as_bytes());
        assert_eq!(once.place(1..3), 1..7);
        assert_eq!(once.place(3..7), 7..19);
        assert_eq!(once.place(7..8), 19..21);
        let text = b"a%2bb+%4";
        assert_eq!(percent(text, b' ').bytes, b"a+b %4");
        assert_eq!(percent(text, b'+').bytes, b"a+b+%4");
        assert_eq!(percent(text, b' ').place(1..2), 1..4);
        let mut places = Vec::new();
        let mut of_abc = |text: &DecodedText<'_>| {
            if text.bytes == b"abc" {
                places.push((text.place(0..3), text.place(1..2)));
            }
        };
        each_base64(b"..........xYWJj", None, 3, &mut of_abc);
        let outer = json(br"\u0021\u0078YW\u004aj");
        each_base64(&outer.bytes, Some(&outer), 3, &mut of_abc);
        assert_eq!(places, [(11..15, 13..13), (12..21, 14..14)]);
    }
}
