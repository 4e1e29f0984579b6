//! The texts that URLs and JSON have for a value, when some characters of the value are escaped and others are not.
//! `docs/scrubbing.md` names the encoders.

use zeroize::Zeroizing;

use super::{encoding::HexCase, shifted::ShiftedBits};

/// Characters that percent-encoders leave as they are, in addition to letters, digits, `-`, `.` and `_`.
const PERCENT_STYLES: [PercentStyle; 13] = [
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
    // the path of a `url.URL` of Go
    PercentStyle::new(b"~/$&+,:;=@", b' '),
    // `url.PathEscape` of Go
    PercentStyle::new(b"~$&+=:@", b' '),
    // `encodeURI` of JavaScript
    PercentStyle::new(b"~/!$&'()*+,;=:@#?", b' '),
    // `escape` of JavaScript
    PercentStyle::new(b"@*+/", b' '),
    // `url.QueryEscape` of Go, `quote_plus` of Python
    PercentStyle::new(b"~", b'+'),
    // `urlencode` of PHP
    PercentStyle::new(b"", b'+'),
    // `UrlEncode` of .NET
    PercentStyle::new(b"!*()", b'+'),
];

const JSON_STYLES: [JsonStyle; 10] = [
    // The first style escapes only what has to be escaped.
    JsonStyle::new(b"", false, HexCase::Lower),
    JsonStyle::new(b"/", false, HexCase::Lower),
    JsonStyle::new(b"", true, HexCase::Lower),
    JsonStyle::new(b"/", true, HexCase::Lower),
    JsonStyle::new(b"", true, HexCase::Upper),
    JsonStyle::new(b"/", true, HexCase::Upper),
    // Go
    JsonStyle::new(b"<>&", false, HexCase::Lower),
    // Gson, `JsonFormat` of Protocol Buffers for Java
    JsonStyle::new(b"<>&='", false, HexCase::Lower),
    // a JSON text in PHP with every `JSON_HEX_…` flag
    JsonStyle::new(b"/<>&'\"", true, HexCase::Upper),
    // .NET
    JsonStyle::new(b"<>&'\"+`", true, HexCase::Upper),
];

/// The texts of `+` and `/` where they are characters of base64: in a URL, in a JSON text of PHP, and in one of .NET.
const BASE64_STYLES: [[&[u8]; 2]; 4] = [
    [b"%2B", b"%2F"],
    [b"%2b", b"%2f"],
    [b"+", b"\\/"],
    [b"\\u002B", b"/"],
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

/// A buffer for one text at a time, which never grows, because a growing buffer leaves copies behind.
pub(super) struct EscapedTexts(Zeroizing<Vec<u8>>);

impl EscapedTexts {
    /// Returns a buffer for the texts of `values`. The longest text is a JSON text in a JSON text: `\\\u0022` for `"`.
    pub(super) fn new<'v>(values: impl Iterator<Item = &'v [u8]>) -> Self {
        let longest = values.map(|value| if is_plain(value) { 0 } else { 8 * value.len() });
        Self(Zeroizing::new(Vec::with_capacity(
            longest.max().unwrap_or_default(),
        )))
    }

    /// Calls `each` with every text of `value`. A text may come more than once, and may be the value itself.
    pub(super) fn for_each(&mut self, value: &[u8], mut each: impl FnMut(&[u8])) {
        if !is_plain(value) {
            self.percent_styles(value, &mut each);
            self.json_styles(value, &mut each);
            self.base64_styles(value, &mut each);
        }
    }

    fn percent_styles(&mut self, value: &[u8], each: &mut impl FnMut(&[u8])) {
        for style in &PERCENT_STYLES {
            for digits in HexCase::BOTH {
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
        let [minimal, ..] = &JSON_STYLES;
        let mut inner = Zeroizing::new(Vec::with_capacity(6 * text.len()));
        for style in &JSON_STYLES {
            self.write_json(text, style);
            each(&self.0);
            // A JSON text as a string in a JSON text, as in the results of MCP tools: by the same encoder, and by an encoder
            // that escapes no more than it has to, around and inside. For values in ASCII, most other pairs of encoders
            // write one of these texts.
            inner.clear();
            inner.extend_from_slice(&self.0);
            for outer in [style, minimal] {
                self.write_nested(&inner, outer, each);
            }
            self.write_json(text, minimal);
            inner.clear();
            inner.extend_from_slice(&self.0);
            self.write_nested(&inner, style, each);
        }
    }

    fn write_nested(&mut self, inner: &[u8], outer: &JsonStyle, each: &mut impl FnMut(&[u8])) {
        if let Ok(inner) = std::str::from_utf8(inner) {
            self.write_json(inner, outer);
            each(&self.0);
        }
    }

    fn write_json(&mut self, text: &str, style: &JsonStyle) {
        self.0.clear();
        text.chars()
            .for_each(|character| style.write(&mut self.0, character));
    }

    /// The characters of base64 that stand for the value alone, where `+` or `/` is escaped.
    fn base64_styles(&mut self, value: &[u8], each: &mut impl FnMut(&[u8])) {
        let mut characters = Zeroizing::new(Vec::with_capacity(value.len() * 8 / 6));
        for skipped in [0, 2, 4] {
            characters.clear();
            ShiftedBits::new(value, skipped).write_base64(&mut characters);
            for [plus, slash] in BASE64_STYLES {
                self.0.clear();
                for character in characters.iter() {
                    self.0.extend_from_slice(match character {
                        b'+' => plus,
                        b'/' => slash,
                        same => std::slice::from_ref(same),
                    });
                }
                if self.0 != characters {
                    each(&self.0);
                }
            }
        }
    }

    fn write(&mut self, value: &[u8], byte: impl Fn(&mut Vec<u8>, u8)) {
        self.0.clear();
        value.iter().for_each(|each| byte(&mut self.0, *each));
    }
}

/// Returns true for a value of characters that neither URLs nor JSON escape.
pub(super) fn is_plain(value: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    // `all` would stop at the first other character, and could not use vector instructions.
    value.iter().fold(true, |all, byte| all & is_plain(byte))
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
