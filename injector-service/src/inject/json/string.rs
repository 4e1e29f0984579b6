use super::error::{JsonCause, SliceError};

/// The position within a string, after its opening quote.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StringPart {
    Plain,
    Escape,
    /// The number of missing hexadecimal digits of `\uXXXX`. The grammar allows a lone surrogate.
    Hex(u8),
    /// The number of missing continuation bytes, and the bounds of the next one (RFC 3629, section 4).
    Utf8 {
        left: u8,
        low: u8,
        high: u8,
    },
}

/// The number of bytes of a slice that belong to a token. `ended` is true when the token is complete.
pub(super) struct Scan {
    pub(super) consumed: usize,
    pub(super) ended: bool,
}

impl StringPart {
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<Scan, SliceError> {
        let mut consumed = 0;
        loop {
            if *self == Self::Plain {
                consumed += plain_run(bytes.get(consumed..).unwrap_or_default());
            }
            let Some(&byte) = bytes.get(consumed) else {
                return Ok(Scan {
                    consumed,
                    ended: false,
                });
            };
            match self.after(byte) {
                Ok(Some(part)) => *self = part,
                Ok(None) => {
                    return Ok(Scan {
                        consumed: consumed + 1,
                        ended: true,
                    });
                }
                Err(cause) => return Err(SliceError::new(consumed, cause)),
            }
            consumed += 1;
        }
    }

    /// Returns the position after `byte`, or `None` after the closing quote.
    fn after(self, byte: u8) -> Result<Option<Self>, JsonCause> {
        match self {
            Self::Plain => plain(byte),
            Self::Escape => escape(byte).map(Some),
            Self::Hex(left) if byte.is_ascii_hexdigit() => Ok(Some(hex_left(left - 1))),
            Self::Hex(_) => Err(JsonCause::BadEscape),
            Self::Utf8 { left, low, high } if (low..=high).contains(&byte) => Ok(Some(utf8_left(left - 1))),
            Self::Utf8 { .. } => Err(JsonCause::InvalidUtf8),
        }
    }
}

fn plain(byte: u8) -> Result<Option<StringPart>, JsonCause> {
    match byte {
        b'"' => Ok(None),
        b'\\' => Ok(Some(StringPart::Escape)),
        0x00..=0x1F => Err(JsonCause::ControlCharacter),
        0x20..=0x7F => Ok(Some(StringPart::Plain)),
        0x80..=0xFF => utf8_lead(byte).map(Some),
    }
}

fn escape(byte: u8) -> Result<StringPart, JsonCause> {
    match byte {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(StringPart::Plain),
        b'u' => Ok(StringPart::Hex(4)),
        _ => Err(JsonCause::BadEscape),
    }
}

fn hex_left(left: u8) -> StringPart {
    match left {
        0 => StringPart::Plain,
        left => StringPart::Hex(left),
    }
}

fn utf8_left(left: u8) -> StringPart {
    match left {
        0 => StringPart::Plain,
        left => StringPart::Utf8 {
            left,
            low: 0x80,
            high: 0xBF,
        },
    }
}

/// Returns the position after the first byte of a character. The narrower bounds exclude overlong forms (E0, F0),
/// surrogates (ED) and code points beyond U+10FFFF (F4).
fn utf8_lead(byte: u8) -> Result<StringPart, JsonCause> {
    let (left, low, high) = match byte {
        0xC2..=0xDF => (1, 0x80, 0xBF),
        0xE0 => (2, 0xA0, 0xBF),
        0xED => (2, 0x80, 0x9F),
        0xE1..=0xEF => (2, 0x80, 0xBF),
        0xF0 => (3, 0x90, 0xBF),
        0xF1..=0xF3 => (3, 0x80, 0xBF),
        0xF4 => (3, 0x80, 0x8F),
        _ => return Err(JsonCause::InvalidUtf8),
    };
    Ok(StringPart::Utf8 { left, low, high })
}

/// Returns the number of bytes at the beginning that are complete unescaped characters. The caller scans the byte after
/// them on its own.
fn plain_run(bytes: &[u8]) -> usize {
    let ascii = run_of(bytes, |byte| is_unquoted(byte) & byte.is_ascii());
    match bytes.get(ascii..) {
        Some(rest @ [0x80..=0xFF, ..]) => ascii + utf8_run(rest),
        _ => ascii,
    }
}

fn utf8_run(bytes: &[u8]) -> usize {
    let unquoted = bytes.get(..run_of(bytes, is_unquoted)).unwrap_or_default();
    match std::str::from_utf8(unquoted) {
        Ok(text) => text.len(),
        Err(error) => error.valid_up_to(),
    }
}

/// Returns the number of bytes at the beginning that are in `class`. A block has no early exit, so the compiler can
/// vectorize it.
fn run_of(bytes: &[u8], class: impl Fn(u8) -> bool) -> usize {
    let (blocks, _) = bytes.as_chunks::<16>();
    let whole = 16
        * blocks
            .iter()
            .take_while(|block| block.iter().fold(true, |all, &byte| all & class(byte)))
            .count();
    let rest = bytes.get(whole..).unwrap_or_default();
    whole + rest.iter().take_while(|&&byte| class(byte)).count()
}

fn is_unquoted(byte: u8) -> bool {
    (byte >= 0x20) & (byte != b'"') & (byte != b'\\')
}
