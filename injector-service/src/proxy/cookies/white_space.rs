//! White space around the names of cookies, which servers strip by rules of their own.
//!
//! Python's `str.strip`, for example, removes the control characters 0x1C to 0x1F, 0x85 and 0xA0 from a name in Latin-1, and
//! all white space of Unicode from a name in UTF-8. So every character counts as white space that some server strips, in
//! either encoding.

use std::ops::Range;

/// Returns `text` without the white space at its ends.
pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    let mut visible = characters(text).filter(|(_, is_white)| !is_white);
    let first = visible.next().map(|(range, _)| range);
    let last = visible.last().map(|(range, _)| range).or_else(|| first.clone());
    let range = first.zip(last).map(|(first, last)| first.start..last.end);
    range.and_then(|range| text.get(range)).unwrap_or_default()
}

/// Returns `text` without the white space at its beginning.
pub(super) fn without_white_start(text: &[u8]) -> &[u8] {
    let mut visible = characters(text).filter(|(_, is_white)| !is_white);
    let start = visible.next().map(|(range, _)| range.start);
    start.and_then(|start| text.get(start..)).unwrap_or_default()
}

/// Returns the parts of `text` between white space, commas and quotation marks.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    let end = (text.len()..text.len() + 1, true);
    let separators = characters(text)
        .chain([end])
        .filter(move |(range, is_white)| *is_white || matches!(text.get(range.start), Some(b',' | b'"')));
    let words = separators.map(move |(separator, _)| {
        let word = text.get(start..separator.start).unwrap_or_default();
        start = separator.end;
        word
    });
    words.filter(|word| !word.is_empty())
}

/// Returns the position of each character, and true when the character is white space. A byte that is not UTF-8 counts
/// as a character of Latin-1.
fn characters(text: &[u8]) -> impl Iterator<Item = (Range<usize>, bool)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = first_character(text.get(at..)?)?;
        let start = at;
        at += first.utf8_length;
        Some((start..at, is_white(first.char)))
    })
}

struct Character {
    char: char,
    utf8_length: usize,
}

fn first_character(text: &[u8]) -> Option<Character> {
    let first = *text.first()?;
    let alone = Character {
        char: char::from(first),
        utf8_length: 1,
    };
    if first.is_ascii() {
        return Some(alone);
    }
    // A character has four bytes at most. Without this limit, the whole text would be decoded for each character.
    let start = text.get(..4).unwrap_or(text);
    let decoded = start.utf8_chunks().next()?.valid().chars().next();
    Some(decoded.map_or(alone, |char| Character {
        char,
        utf8_length: char.len_utf8(),
    }))
}

/// U+180E and U+200B were white space in earlier versions of Unicode, and JavaScript strips U+FEFF.
fn is_white(char: char) -> bool {
    char.is_whitespace() || char.is_control() || matches!(char, '\u{180e}' | '\u{200b}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_of_either_encoding_is_removed_from_the_ends_only() {
        for (text, expected) in [
            (&b""[..], &b""[..]),
            (b" \t\x0b\x1f\x85\xa0", b""),
            (b"a", b"a"),
            (b"\xa0a\xa0", b"a"),
            (b"\xa0\xa0a b\x85", b"a b"),
            (
                "\u{feff}\u{2003}a\u{a0}b\u{3000}".as_bytes(),
                "a\u{a0}b".as_bytes(),
            ),
            // The last byte of `à` in UTF-8 is 0xA0.
            ("\u{e0}a\u{e0}".as_bytes(), "\u{e0}a\u{e0}".as_bytes()),
            (b"\xe9a\xe9", b"\xe9a\xe9"),
        ] {
            assert_eq!(trimmed(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn words_are_separated_by_white_space_commas_and_quotation_marks() {
        let text = "a=1, b\u{a0}=\"c\"\u{2003}\u{e0}d\t\t,";
        let found: Vec<_> = words(text.as_bytes())
            .map(|word| str::from_utf8(word).unwrap())
            .collect();
        assert_eq!(found, ["a=1", "b", "=", "c", "\u{e0}d"]);
        assert_eq!(words(b"a\xa0b\x85").collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(words(b"").count(), 0);
    }
}
