pub(super) const NAME: &str = "secrets";

/// Length of the longest spelling of [`NAME`] without quotes, with `\u0073` or the like for every letter.
pub(super) const LONGEST_SPELLING: usize = 6 * NAME.len();

/// Returns true when a valid name (the bytes between its quotes) decodes to [`NAME`] under Unicode case folding.
///
/// Only one character outside ASCII folds to a letter of [`NAME`]: `ſ` (U+017F) folds to `s`. Ligatures fold to `st`,
/// which [`NAME`] does not contain. A test proves this for all of Unicode.
pub(super) fn is_secrets(raw: &[u8]) -> bool {
    let mut rest = raw;
    for letter in NAME.bytes() {
        match split_first_folded(rest) {
            Some((folded, after)) if folded == letter => rest = after,
            _ => return false,
        }
    }
    rest.is_empty()
}

fn split_first_folded(raw: &[u8]) -> Option<(u8, &[u8])> {
    match raw {
        [b'\\', b'u', a, b, c, d, rest @ ..] => Some((fold([*a, *b, *c, *d])?, rest)),
        [0xC5, 0xBF, rest @ ..] => Some((b's', rest)),
        [byte, rest @ ..] => Some((byte.to_ascii_lowercase(), rest)),
        [] => None,
    }
}

fn fold(hex: [u8; 4]) -> Option<u8> {
    let hex = std::str::from_utf8(&hex).ok()?;
    match u16::from_str_radix(hex, 16).ok()? {
        0x017F => Some(b's'),
        unit => u8::try_from(unit).ok().map(|byte| byte.to_ascii_lowercase()),
    }
}
