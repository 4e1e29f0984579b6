//! Keys and records: how a secret value is kept at rest.
//!
//! ```text
//! root key --wraps--> store key --wraps--> one KEK per workspace --wraps--> one DEK per secret version --encrypts--> value
//! ```
//!
//! AES-256-GCM at each step ([NIST SP 800-38D]), one-time wrapping keys from HKDF-SHA256
//! ([RFC 5869]). The bytes are specified in `docs/record-format.md`, those of backups in
//! `docs/backup-format.md`.
//!
//! # What this promises
//! Whoever can read the store but holds no root key learns of a value its length, its place, its expiry and
//! its origins, nothing else. Whoever can write the store cannot change a value, its version, expiry or origins,
//! nor move it to another workspace or name: that is [`DecryptionError::Corrupt`].
//!
//! # What it does not
//! - **Rollback.** Yesterday's record of the same name is authentic. A caller that knows the version it
//!   expects has to compare [`record::Decrypted::version`]. Deleting a record is not noticed here either.
//! - **Length.** A record is a fixed number of bytes longer than its value.
//! - **GCM alone.** A nonce used twice under one key reveals the XOR of two values and lets tags be
//!   forged; a ciphertext can be made that opens under two keys. Neither may be assumed away by a new
//!   caller: here each key encrypts once (`Dek`, the one-time keys), or counts (a backup's), and every wrapping
//!   key is committed to. The body's key comes out of such a wrap, so it is committed to with it.
//! - **Memory.** Keys and plaintexts that we own are wiped on drop. Copies made by the compiler (moves,
//!   spilled registers) and by `hkdf` and `hmac` on their stack are not; they are overwritten by later calls.
//!
//! [NIST SP 800-38D]: https://doi.org/10.6028/NIST.SP.800-38D
//! [RFC 5869]: https://www.rfc-editor.org/rfc/rfc5869

mod aad;
pub mod backup;
mod bytes;
pub mod fingerprint;
mod key;
mod nonce;
pub mod passphrase;
pub mod record;
pub mod root_file;
#[cfg(test)]
mod vectors;
mod wrap;

pub use key::{
    KeyId, RootKey, StoreKey, WeakKey, WorkspaceKek, root_key_id, store_key_id, wrapped_kek_id,
    wrapped_store_key_id,
};

/// The stored formats. A number is never given twice, not even to another kind of thing, so that a
/// wrapped KEK is not taken for a record.
mod format {
    pub(super) const WRAPPED_KEK: u8 = 5;
    pub(super) const RECORD: u8 = 3;
    pub(super) const WRAPPED_ROOT_KEY: u8 = 4;
    pub(super) const WRAPPED_STORE_KEY: u8 = 6;
    pub(super) const BACKUP: u8 = 16;
    /// One that holds root keys, wrapped, which nothing else may hold.
    pub(super) const BACKUP_WITH_ROOT_KEYS: u8 = 18;
}

/// The one algorithm so far: AES-256-GCM, wrapping keys from HKDF-SHA256 with a commitment.
const ALGORITHM: u8 = 1;

/// The operating system gave no random bytes: nothing was encrypted.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness(#[source] getrandom::Error);

/// Why stored bytes were not opened. Two answers for the outside; the cause is for the log.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecryptionError {
    /// Well formed, but made with this key, which is not the one given. No other key was tried.
    #[error("stored bytes name the key {0}, which is not the one held")]
    UnknownKey(KeyId),
    /// Anything else, always in the same words.
    #[error("stored bytes are corrupt")]
    Corrupt(#[source] Corruption),
}

impl From<Corruption> for DecryptionError {
    fn from(cause: Corruption) -> DecryptionError {
        DecryptionError::Corrupt(cause)
    }
}

/// How stored bytes are corrupt.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Corruption {
    /// The first byte is not the format that was expected here.
    #[error("unknown format {0}")]
    UnknownFormat(u8),
    /// The second byte is not an algorithm we know.
    #[error("unknown algorithm {0}")]
    UnknownAlgorithm(u8),
    /// Shorter than the fields it announces.
    #[error("truncated")]
    Truncated,
    /// Longer than its fields.
    #[error("trailing bytes")]
    TrailingBytes,
    /// A value that is empty or above 64 KiB.
    #[error("a value of impossible length")]
    ValueLength,
    /// The wrap was made with another key under the same id, or its salt or commitment changed.
    #[error("the commitment does not match")]
    Commitment,
    /// The bytes changed, or this is not the place they were made for.
    #[error("does not authenticate")]
    DoesNotAuthenticate,
    /// The wrapped key is not the one that its id names.
    #[error("the key inside has another id")]
    KeyIdMismatch,
    /// Authentic, but not an origin as we write them: made by a version that allowed more.
    #[error("an upstream origin that does not parse")]
    Origin,
}
