use thiserror::Error;

/// Why a body is refused, and where. Never quotes the body.
///
/// The same body gives the same error however it was cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{cause} at byte {offset}")]
pub struct JsonError {
    /// How many good bytes of the body came before.
    pub offset: u64,
    /// What is wrong there.
    pub cause: JsonCause,
}

/// What makes a body unfit for a `secrets` member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JsonCause {
    /// The body is an array, a scalar, has a byte order mark, or is no JSON at all.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// The grammar allows no such byte here.
    #[error("the JSON grammar allows no such byte")]
    Unexpected,
    /// A leading zero or sign, or a fraction or exponent without digits.
    #[error("malformed number")]
    BadNumber,
    /// A backslash followed by something other than RFC 8259 lists.
    #[error("malformed escape in a string")]
    BadEscape,
    /// U+0000 to U+001F must be escaped in a string.
    #[error("unescaped control character in a string")]
    ControlCharacter,
    /// Not UTF-8 as RFC 3629 has it; overlong forms and encoded surrogates are not.
    #[error("invalid UTF-8 in a string")]
    InvalidUtf8,
    /// A second document, or anything else but whitespace, after the object.
    #[error("something follows the JSON object")]
    TrailingData,
    /// The body ended before its object did.
    #[error("the JSON object is cut off")]
    Truncated,
    /// Our limit, which RFC 8259 section 9 lets us set.
    #[error("nested too deeply")]
    TooDeep,
    /// Our limit: whitespace after the object is held back in memory.
    #[error("too much whitespace follows the JSON object")]
    TooMuchWhitespace,
}

/// A [`JsonError`] whose position is still relative to the slice at hand.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) cause: JsonCause,
}

impl Fault {
    pub(super) fn new(at: usize, cause: JsonCause) -> Self {
        Self { at, cause }
    }

    /// The same fault, seen from `before` bytes earlier.
    pub(super) fn after(self, before: usize) -> Self {
        Self::new(before + self.at, self.cause)
    }
}
