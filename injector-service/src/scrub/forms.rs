//! The texts as which a value is recognized.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::Zeroizing;

/// The letters of hexadecimal digits.
#[derive(Clone, Copy)]
enum HexCase {
    Lower,
    Upper,
}

/// Characters that percent-encoders leave as they are, in addition to letters, digits, `-`, `.` and `_`.
const PERCENT_STYLES: [PercentStyle; 6] = [
    // RFC 3986, section 2.3
    PercentStyle::new(b"~", b' '),
    // `encodeURIComponent`
    PercentStyle::new(b"~!*'()", b' '),
    // `application/x-www-form-urlencoded` of the WHATWG URL standard
    PercentStyle::new(b"*", b'+'),
    // Python's `quote`
    PercentStyle::new(b"~/", b' '),
    // the field `grpc-message`
    PercentStyle::new(b" ~/!$&'()*+,;=:@\"#<>?[\\]^`{|}", b' '),
    // the characters of a path (RFC 3986, section 3.3)
    PercentStyle::new(b"~/!$&'()*+,;=:@", b' '),
];

const JSON_STYLES: [JsonStyle; 9] = [
    JsonStyle::new(b"", false, HexCase::Lower),
    JsonStyle::new(b"/", false, HexCase::Lower),
    JsonStyle::new(b"", true, HexCase::Lower),
    JsonStyle::new(b"/", true, HexCase::Lower),
    JsonStyle::new(b"", true, HexCase::Upper),
    JsonStyle::new(b"/", true, HexCase::Upper),
    // Go
    JsonStyle::new(b"<>&", false, HexCase::Lower),
    // a JSON text in PHP with every `JSON_HEX_…` flag
    JsonStyle::new(b"/<>&'\"", true, HexCase::Upper),
    // .NET
    JsonStyle::new(b"<>&'\"+`", true, HexCase::Upper),
];

struct PercentStyle {
    unescaped: &'static [u8],
    /// The text of a space, or a space when spaces are escaped.
    space: u8,
}

struct JsonStyle {
    /// Characters that are escaped in addition to those that have to be. All but `/` become `\u00xx`.
    escaped: &'static [u8],
    /// True when only ASCII is written.
    ascii: bool,
    digits: HexCase,
}

/// A buffer for one form at a time, which never grows, because a growing buffer leaves copies behind.
pub(super) struct FormBuffer(Zeroizing<Vec<u8>>);

impl FormBuffer {
    /// Returns a buffer for the forms of `values`. The longest form of a plain value has every byte percent-encoded,
    /// and the longest form of another value is a JSON text in a JSON text: `\\u00xx`.
    pub(super) fn new<'v>(values: impl Iterator<Item = &'v [u8]>) -> Self {
        let longest = values.map(|value| value.len() * if is_plain(value) { 3 } else { 7 });
        Self(Zeroizing::new(Vec::with_capacity(
            longest.max().unwrap_or_default(),
        )))
    }

    /// Calls `each` with every form of `value`. A form may come more than once.
    pub(super) fn for_each(&mut self, value: &[u8], mut each: impl FnMut(&[u8])) {
        each(value);
        for before in 0..3 {
            self.base64(before, value, &mut each);
        }
        for digits in [HexCase::Lower, HexCase::Upper] {
            self.chunks(value, |byte| digits.of(byte));
            each(&self.0);
            self.chunks(value, |byte| digits.percent(byte));
            each(&self.0);
        }
        if !is_plain(value) {
            self.percent_styles(value, &mut each);
            self.json_styles(value, &mut each);
        }
    }

    /// The characters of base64 that depend on the value alone, when `before` bytes come before the value in a group of
    /// three bytes, in both alphabets.
    fn base64(&mut self, before: usize, value: &[u8], each: &mut impl FnMut(&[u8])) {
        // A group of its own for the bytes before the value and the first bytes of the value.
        let (first, rest) = value.split_at(3 - before);
        let mut group = Zeroizing::new([0; 3]);
        group
            .iter_mut()
            .skip(before)
            .zip(first)
            .for_each(|(to, from)| *to = *from);
        let characters = 4 + (rest.len() * 4).div_ceil(3);
        self.0.clear();
        self.0.resize(characters, 0);
        let (begin, end) = self.0.split_at_mut(4);
        let encoded = STANDARD_NO_PAD
            .encode_slice(*group, begin)
            .and_then(|_| STANDARD_NO_PAD.encode_slice(rest, end));
        // The first and the last character may have bits of other bytes.
        let inner = (before * 4).div_ceil(3)..4 + rest.len() * 4 / 3;
        let (Ok(_), Some(form)) = (encoded, self.0.get_mut(inner)) else {
            return;
        };
        each(form);
        if form.iter().any(|byte| matches!(byte, b'+' | b'/')) {
            for byte in form.iter_mut() {
                *byte = match *byte {
                    b'+' => b'-',
                    b'/' => b'_',
                    other => other,
                };
            }
            each(form);
        }
    }

    fn percent_styles(&mut self, value: &[u8], each: &mut impl FnMut(&[u8])) {
        for style in &PERCENT_STYLES {
            for digits in [HexCase::Lower, HexCase::Upper] {
                self.write(value, |form, byte| style.write(form, digits, byte));
                each(&self.0);
            }
        }
    }

    fn json_styles(&mut self, value: &[u8], each: &mut impl FnMut(&[u8])) {
        // A value that is not UTF-8 is read as ISO 8859-1, as many programs do.
        let latin: Zeroizing<String>;
        let text = match std::str::from_utf8(value) {
            Ok(text) => text,
            Err(_) => {
                let mut decoded = Zeroizing::new(String::with_capacity(2 * value.len()));
                decoded.extend(value.iter().copied().map(char::from));
                latin = decoded;
                &latin
            }
        };
        for style in &JSON_STYLES {
            self.0.clear();
            text.chars()
                .for_each(|character| style.write(&mut self.0, character));
            each(&self.0);
        }
        // A JSON text as a string in a JSON text, as in the results of MCP tools.
        let [style, ..] = &JSON_STYLES;
        let mut inner = Zeroizing::new(Vec::with_capacity(6 * text.len()));
        text.chars()
            .for_each(|character| style.write(&mut inner, character));
        self.0.clear();
        if let Ok(inner) = std::str::from_utf8(&inner) {
            inner
                .chars()
                .for_each(|character| style.write(&mut self.0, character));
            each(&self.0);
        }
    }

    /// Writes `N` bytes for each byte of the value. Without a check of the capacity for each byte, which would take
    /// longer than all the rest.
    fn chunks<const N: usize>(&mut self, value: &[u8], chunk: impl Fn(u8) -> [u8; N]) {
        self.0.clear();
        self.0.resize(N * value.len(), 0);
        let (chunks, _) = self.0.as_chunks_mut();
        for (each, byte) in chunks.iter_mut().zip(value) {
            *each = chunk(*byte);
        }
    }

    fn write(&mut self, value: &[u8], byte: impl Fn(&mut Vec<u8>, u8)) {
        self.0.clear();
        value.iter().for_each(|each| byte(&mut self.0, *each));
    }
}

/// Returns true for a value of characters that neither URLs nor JSON escape.
fn is_plain(value: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    value.iter().all(is_plain)
}

impl PercentStyle {
    const fn new(unescaped: &'static [u8], space: u8) -> Self {
        Self { unescaped, space }
    }

    fn write(&self, form: &mut Vec<u8>, digits: HexCase, byte: u8) {
        match byte {
            b' ' if self.space != b' ' => form.push(self.space),
            _ if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) => form.push(byte),
            _ if self.unescaped.contains(&byte) => form.push(byte),
            _ => form.extend_from_slice(&digits.percent(byte)),
        }
    }
}

impl JsonStyle {
    const fn new(escaped: &'static [u8], ascii: bool, digits: HexCase) -> Self {
        Self {
            escaped,
            ascii,
            digits,
        }
    }

    fn write(&self, form: &mut Vec<u8>, character: char) {
        let byte = u8::try_from(character).unwrap_or(u8::MAX);
        let is_listed = character.is_ascii() && self.escaped.contains(&byte);
        match character {
            '/' if is_listed => form.extend_from_slice(b"\\/"),
            '\\' => form.extend_from_slice(b"\\\\"),
            '"' if !is_listed => form.extend_from_slice(b"\\\""),
            '\n' => form.extend_from_slice(b"\\n"),
            '\r' => form.extend_from_slice(b"\\r"),
            '\t' => form.extend_from_slice(b"\\t"),
            '\u{8}' => form.extend_from_slice(b"\\b"),
            '\u{c}' => form.extend_from_slice(b"\\f"),
            _ if is_listed || byte < b' ' || (self.ascii && !character.is_ascii()) => {
                character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                    form.extend_from_slice(b"\\u");
                    unit.to_be_bytes()
                        .iter()
                        .for_each(|byte| form.extend_from_slice(&self.digits.of(*byte)));
                });
            }
            _ => form.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

impl HexCase {
    #[inline]
    fn of(self, byte: u8) -> [u8; 2] {
        [self.digit(byte >> 4), self.digit(byte & 15)]
    }

    #[inline]
    fn percent(self, byte: u8) -> [u8; 3] {
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
