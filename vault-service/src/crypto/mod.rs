//! Encryption of secret values at rest: keys, records, backups.
//!
//! ```text
//! root key --wraps--> store key --wraps--> one KEK per workspace --wraps--> one DEK per secret version --encrypts--> value
//! ```
//!
//! Every step is AES-256-GCM ([NIST SP 800-38D]); one-time wrapping keys come from HKDF-SHA256 ([RFC 5869]).
//! `docs/record-format.md` specifies the stored bytes, and `docs/backup-format.md` those of backups.
//!
//! # Promises
//! A reader of the store without a root key learns the length of a value, its workspace, name and version, its expiry and its
//! origins, and nothing else about the value. A writer of the store cannot change a value, its version, its expiry or its
//! origins, nor move the value to another workspace or name: decryption answers [`DecryptionError::Corrupt`].
//!
//! # Limits
//! - **Rollback.** An earlier record of the same name is authentic. A caller that knows the expected version has to compare
//!   [`record::DecryptedRecord::version`]. Deletion of a record is not noticed here either.
//! - **Length.** A record is a fixed number of bytes longer than its value.
//! - **GCM.** Two messages with one nonce under one key reveal the XOR of the messages and let an attacker forge tags; and
//!   a ciphertext can be made that decrypts under two keys. New callers must rule out both. Here each key encrypts once
//!   (`Dek`, the one-time keys) or counts its nonces (a backup's key), and every wrap commits to its wrapping key and so to
//!   the key inside.
//! - **Memory.** Keys and plaintexts are wiped on drop. Copies that the compiler makes (moves, spilled registers), or that
//!   `hkdf` and `hmac` make on the stack, are not wiped; later calls overwrite them.
//!
//! [NIST SP 800-38D]: https://doi.org/10.6028/NIST.SP.800-38D
//! [RFC 5869]: https://www.rfc-editor.org/rfc/rfc5869

mod aad;
pub(crate) mod backup;
mod derive;
mod field_reader;
pub(crate) mod fingerprint;
mod gcm;
mod key;
mod key_hierarchy;
pub(crate) mod passphrase;
pub mod record;
mod record_id;
pub mod root_key_file;
#[cfg(test)]
mod vectors;
mod wrap;

pub use key::KeyId;
pub use key_hierarchy::{RootKey, StoreKey, WeakKey, WorkspaceKek, root_key_id, store_key_id};
pub(crate) use key_hierarchy::{wrapped_kek_id, wrapped_store_key_id};

/// First bytes of the stored formats. A number is never given to a second format, so that no wrapped KEK, for example,
/// can pass for a record. Numbers 1 and 2 were used for records of earlier formats.
mod format {
    pub(super) const RECORD: u8 = 3;
    pub(super) const WRAPPED_ROOT_KEY: u8 = 4;
    /// A KEK that a store key wrapped.
    pub(super) const WRAPPED_KEK: u8 = 5;
    pub(super) const WRAPPED_STORE_KEY: u8 = 6;
    pub(super) const BACKUP: u8 = 16;
    /// A backup that also holds root keys, wrapped with a passphrase or by a KMS.
    pub(super) const BACKUP_WITH_ROOT_KEYS: u8 = 18;
}

/// The only algorithm so far: AES-256-GCM, with wrapping keys from HKDF-SHA256 and a commitment.
const ALGORITHM: u8 = 1;

/// Error of the operating system's random generator.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness(#[source] getrandom::Error);

/// Error of the decryption of stored bytes. Callers see two cases; the cause of a corruption is for the log.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecryptionError {
    /// The bytes name a key that is not the given one. No other key was tried.
    #[error("stored bytes name the key {0}, which is not the one held")]
    UnknownKey(KeyId),
    #[error("stored bytes are corrupt")]
    Corrupt(#[source] Corruption),
}

impl From<Corruption> for DecryptionError {
    fn from(cause: Corruption) -> Self {
        Self::Corrupt(cause)
    }
}

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
