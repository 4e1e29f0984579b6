//! Wrapping a key with a key.
//!
//! A KEK never encrypts. For each wrap a fresh salt gives a one-time key and a commitment to it:
//!
//! ```text
//! K || commitment = HKDF-SHA256[salt, purpose](KEK, 64)
//! ```
//!
//! so there is no count of uses to keep, and a wrap that opens under two KEKs would be a collision of
//! SHA-256.

use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    Corruption, NoRandomness,
    aad::Aad,
    bytes::Bytes,
    key::{KEY_LEN, Key},
    nonce::{self, FreshNonce, NONCE_LEN, TAG_LEN},
};

/// What bytes derived from a key are for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    RootKeyId,
    StoreKeyId,
    WorkspaceKekId,
    WrapStoreKey,
    WrapWorkspaceKek,
    WrapDek,
    RequestFingerprint,
    WrapRootKey,
    WrapBackupKey,
}

impl Purpose {
    pub(super) fn label(self) -> &'static [u8] {
        match self {
            Purpose::RootKeyId => b"aerostack-vault/1/root-key-id",
            Purpose::StoreKeyId => b"aerostack-vault/1/store-key-id",
            Purpose::WorkspaceKekId => b"aerostack-vault/1/workspace-kek-id",
            Purpose::WrapStoreKey => b"aerostack-vault/1/wrap-store-key/aes-256-gcm",
            Purpose::WrapWorkspaceKek => b"aerostack-vault/1/wrap-workspace-kek/aes-256-gcm",
            Purpose::WrapDek => b"aerostack-vault/1/wrap-dek/aes-256-gcm",
            Purpose::RequestFingerprint => b"aerostack-vault/1/request-fingerprint/hmac-sha256",
            Purpose::WrapRootKey => b"aerostack-vault/1/wrap-root-key/aes-256-gcm",
            Purpose::WrapBackupKey => b"aerostack-vault/1/wrap-backup-key/aes-256-gcm",
        }
    }
}

/// `HKDF-SHA256[salt, label](key, len(out))`, RFC 5869. No salt means 32 zero bytes.
pub(super) fn derive(key: &Key, salt: Option<&[u8]>, purpose: Purpose, out: &mut [u8]) {
    Hkdf::<Sha256>::new(salt, key.expose())
        .expand(purpose.label(), out)
        .expect("at most 64 bytes are asked for, and HKDF-SHA256 gives 255 * 32");
}

/// A wrapped key as stored, without the words around it.
#[derive(Debug)]
pub(super) struct Wrapped {
    salt: [u8; 32],
    commitment: [u8; 32],
    nonce: [u8; NONCE_LEN],
    ciphertext: [u8; KEY_LEN],
    tag: [u8; TAG_LEN],
}

impl Wrapped {
    pub(super) const LEN: usize = 32 + 32 + NONCE_LEN + KEY_LEN + TAG_LEN;

    pub(super) fn read(bytes: &mut Bytes<'_>) -> Result<Wrapped, Corruption> {
        Ok(Wrapped {
            salt: *bytes.array()?,
            commitment: *bytes.array()?,
            nonce: *bytes.array()?,
            ciphertext: *bytes.array()?,
            tag: *bytes.array()?,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Wrapped {
            salt,
            commitment,
            nonce,
            ciphertext,
            tag,
        } = self;
        out.extend_from_slice(salt);
        out.extend_from_slice(commitment);
        out.extend_from_slice(nonce);
        out.extend_from_slice(ciphertext);
        out.extend_from_slice(tag);
    }
}

/// `salt = random(32); K || commitment = HKDF[salt, purpose](KEK, 64);`
/// `(C, T) = AES-256-GCM-Enc(K, random(12), A, key)`
pub(super) fn wrap(kek: &Key, purpose: Purpose, aad: &Aad, key: &Key) -> Result<Wrapped, NoRandomness> {
    let salt = nonce::random()?;
    let fresh = FreshNonce::random()?;
    let nonce = *fresh.as_bytes();
    let (one_time, commitment) = one_time(kek, purpose, &salt);
    let mut ciphertext = *key.expose();
    let tag = nonce::seal(&one_time, fresh, aad, &mut ciphertext);
    Ok(Wrapped {
        salt,
        commitment,
        nonce,
        ciphertext,
        tag,
    })
}

/// `K || commitment' = HKDF[salt, purpose](KEK, 64); commitment' = commitment or refused;`
/// `key = AES-256-GCM-Dec(K, N, A, C, T)`
pub(super) fn unwrap(kek: &Key, purpose: Purpose, aad: &Aad, wrapped: &Wrapped) -> Result<Key, Corruption> {
    let (one_time, commitment) = one_time(kek, purpose, &wrapped.salt);
    if !bool::from(commitment.ct_eq(&wrapped.commitment)) {
        return Err(Corruption::Commitment);
    }
    Key::try_init(|buffer| {
        *buffer = wrapped.ciphertext;
        nonce::open(&one_time, &wrapped.nonce, aad, buffer, &wrapped.tag)
    })
}

/// `K || commitment = HKDF-SHA256[salt, purpose](KEK, 64)`
fn one_time(kek: &Key, purpose: Purpose, salt: &[u8; 32]) -> (Key, [u8; 32]) {
    let mut okm = Zeroizing::new([[0; 32]; 2]);
    derive(kek, Some(salt), purpose, okm.as_flattened_mut());
    let [key, commitment] = &*okm;
    (Key::init(|bytes| *bytes = *key), *commitment)
}
