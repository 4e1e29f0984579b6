use thiserror::Error;

/// The reason why a body is refused. Never quotes the body.
///
/// A body gives the same error in chunks of any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{cause} at byte {offset}")]
pub struct JsonError {
    /// Number of valid bytes before the error.
    pub offset: u64,
    pub cause: JsonCause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JsonCause {
    /// The body is another JSON value, begins with a byte order mark, or is no JSON at all.
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("the JSON grammar allows no such byte")]
    Unexpected,
    /// A number with a leading zero or plus sign, or with a fraction or exponent without digits.
    #[error("malformed number")]
    BadNumber,
    #[error("malformed escape in a string")]
    BadEscape,
    /// A character from U+0000 to U+001F, which a string may contain only as an escape.
    #[error("unescaped control character in a string")]
    ControlCharacter,
    /// Bytes that are not UTF-8 (RFC 3629), such as overlong forms and surrogates.
    #[error("invalid UTF-8 in a string")]
    InvalidUtf8,
    #[error("something follows the JSON object")]
    TrailingData,
    #[error("the JSON object is cut off")]
    Truncated,
    /// Nesting beyond `nesting::MAX_DEPTH`. RFC 8259, section 9, allows such a limit.
    #[error("nested too deeply")]
    TooDeep,
    /// More whitespace than the rewriter keeps in memory until the end of the body.
    #[error("too much whitespace follows the JSON object")]
    TooMuchWhitespace,
}

/// The most members that are removed from a body, and the most objects that pointers lead through. Only repeated names can
/// make more of them.
pub(super) const MAX_FOUND: usize = 1024;

/// The reason why members cannot be put into a body. Never quotes the body.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InsertError {
    #[error("the body must be one JSON object (RFC 8259): {0}")]
    Json(JsonError),
    #[error("the value at {pointer} in the body must be an object, because this server gets a secret in it")]
    NotAnObject { pointer: String },
    #[error("the body repeats members in which this server gets its secrets more than {MAX_FOUND} times")]
    TooManyFound,
}

/// A [`JsonError`] whose position `at` is relative to a slice of the body.
#[derive(Debug)]
pub(super) struct SliceError {
    pub(super) at: usize,
    pub(super) cause: JsonCause,
}

impl SliceError {
    pub(super) fn new(at: usize, cause: JsonCause) -> Self {
        Self { at, cause }
    }

    /// Returns the error relative to a slice that begins `before` bytes earlier.
    pub(super) fn after(self, before: usize) -> Self {
        Self::new(before + self.at, self.cause)
    }
}
