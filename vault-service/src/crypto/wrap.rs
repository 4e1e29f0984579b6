//! Wrapping of a key with another key, a key-encryption key (KEK).
//!
//! A KEK never encrypts directly. Each wrap derives a one-time key, and a commitment to the KEK, from a fresh salt:
//!
//! ```text
//! K || commitment = HKDF-SHA256[salt, purpose](KEK, 64)
//! ```
//!
//! So no count of a KEK's uses has to be kept, and two KEKs that open the same wrap would be a collision of SHA-256.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    Corruption, NoRandomness,
    aad::Aad,
    derive::{Purpose, derive},
    field_reader::FieldReader,
    gcm::{self, FreshNonce, NONCE_LEN, TAG_LEN},
    key::{KEY_LEN, Key},
};

/// The 124 bytes of a wrap, without the format and the ids in front of it.
#[derive(Debug)]
pub(super) struct KeyWrap {
    salt: [u8; 32],
    commitment: [u8; 32],
    nonce: [u8; NONCE_LEN],
    ciphertext: [u8; KEY_LEN],
    tag: [u8; TAG_LEN],
}

impl KeyWrap {
    pub(super) const LEN: usize = 32 + 32 + NONCE_LEN + KEY_LEN + TAG_LEN;

    pub(super) fn read(reader: &mut FieldReader<'_>) -> Result<Self, Corruption> {
        Ok(Self {
            salt: *reader.array()?,
            commitment: *reader.array()?,
            nonce: *reader.array()?,
            ciphertext: *reader.array()?,
            tag: *reader.array()?,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Self {
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
pub(super) fn wrap(kek: &Key, purpose: Purpose, aad: &Aad, key: &Key) -> Result<KeyWrap, NoRandomness> {
    let salt = gcm::random()?;
    let fresh = FreshNonce::random()?;
    let nonce = *fresh.as_bytes();
    let (one_time, commitment) = one_time_key(kek, purpose, &salt);
    let mut ciphertext = *key.expose();
    let tag = gcm::encrypt(&one_time, fresh, aad, &mut ciphertext);
    Ok(KeyWrap {
        salt,
        commitment,
        nonce,
        ciphertext,
        tag,
    })
}

/// `K || commitment' = HKDF[salt, purpose](KEK, 64); error unless commitment' = commitment;`
/// `key = AES-256-GCM-Dec(K, N, A, C, T)`
pub(super) fn unwrap(kek: &Key, purpose: Purpose, aad: &Aad, wrap: &KeyWrap) -> Result<Key, Corruption> {
    let (one_time, commitment) = one_time_key(kek, purpose, &wrap.salt);
    if !bool::from(commitment.ct_eq(&wrap.commitment)) {
        return Err(Corruption::Commitment);
    }
    Key::try_init(|buffer| {
        *buffer = wrap.ciphertext;
        gcm::decrypt(&one_time, &wrap.nonce, aad, buffer, &wrap.tag)
    })
}

/// `K || commitment = HKDF-SHA256[salt, purpose](KEK, 64)`
fn one_time_key(kek: &Key, purpose: Purpose, salt: &[u8; 32]) -> (Key, [u8; 32]) {
    let mut okm = Zeroizing::new([[0; 32]; 2]);
    derive(kek.expose(), Some(salt), purpose, okm.as_flattened_mut());
    let [key, commitment] = &*okm;
    (Key::init(|bytes| *bytes = *key), *commitment)
}
