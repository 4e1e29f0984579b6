//! Limits of the vault's operations.

/// Maximum number of names in one decrypt.
pub const MAX_NAMES: usize = 64;
/// Maximum size of the values in one answer, in bytes.
pub const MAX_ANSWER: usize = 1024 * 1024;
/// Maximum number of attempts of a write that conflicts with other writes.
pub(super) const ATTEMPTS: usize = 16;
