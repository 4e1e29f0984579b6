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
mod error;
mod field_reader;
pub(crate) mod fingerprint;
mod format;
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

pub use error::{Corruption, NoRandomness};
use format::ALGORITHM;
pub use key::KeyId;
pub use key_hierarchy::{RootKey, StoreKey, WeakKey, WorkspaceKek, root_key_id, store_key_id};
pub(crate) use key_hierarchy::{wrapped_kek_id, wrapped_store_key_id};

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
