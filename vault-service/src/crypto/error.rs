//! Errors of the primitives.

/// Error of the operating system's random generator.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness(#[source] pub(super) getrandom::Error);

#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Corruption {
    #[error("unknown format {0}")]
    UnknownFormat(u8),
    #[error("unknown algorithm {0}")]
    UnknownAlgorithm(u8),
    #[error("truncated")]
    Truncated,
    #[error("trailing bytes")]
    TrailingBytes,
    /// A value that is empty or longer than 64 KiB.
    #[error("a value of impossible length")]
    ValueLength,
    /// Another key under the same id made the wrap, or the salt or the commitment changed.
    #[error("the commitment does not match")]
    Commitment,
    /// The bytes changed, or were encrypted for another place.
    #[error("does not authenticate")]
    DoesNotAuthenticate,
    #[error("the key inside has another id")]
    KeyIdMismatch,
    /// An origin that is authentic but not canonical: a release with other rules for origins wrote the record.
    #[error("an upstream origin that does not parse")]
    Origin,
}
