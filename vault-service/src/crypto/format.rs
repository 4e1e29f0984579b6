//! First bytes of the stored formats. A number is never given to a second format, so that no wrapped KEK, for example,
//! can pass for a record. Numbers 1 and 2 were used for records of earlier formats.

pub(super) const RECORD: u8 = 3;
pub(super) const WRAPPED_ROOT_KEY: u8 = 4;
/// A KEK that a store key wrapped.
pub(super) const WRAPPED_KEK: u8 = 5;
pub(super) const WRAPPED_STORE_KEY: u8 = 6;
pub(super) const BACKUP: u8 = 16;
/// A backup that also holds root keys, wrapped with a passphrase or by a KMS.
pub(super) const BACKUP_WITH_ROOT_KEYS: u8 = 18;

/// The only algorithm so far: AES-256-GCM, with wrapping keys from HKDF-SHA256 and a commitment.
pub(super) const ALGORITHM: u8 = 1;
