//! AES-256-GCM under a key that encrypts one message, and the nonce of that message.
//!
//! Nonces are 96 random bits, as in SP 800-38D, 8.2.2. Since every key here encrypts once, a repeated
//! nonce would do no harm; nonces are random all the same, so that no mistake elsewhere is fatal alone.
//!
//! The exception is a backup, whose key encrypts its frames, one after another. Their nonces are counted (8.2.1).

use aes_gcm::{Aes256Gcm, KeyInit as _, aead::AeadInOut as _};
use proto::stack::wiped;

use super::{Corruption, NoRandomness, aad::Aad, key::Key};

pub(super) const NONCE_LEN: usize = 12;
pub(super) const TAG_LEN: usize = 16;

/// A nonce that has not been used: `seal` consumes it, and it cannot be copied.
pub(super) struct FreshNonce([u8; NONCE_LEN]);

impl FreshNonce {
    pub(super) fn random() -> Result<FreshNonce, NoRandomness> {
        random().map(FreshNonce)
    }

    /// Of one message of a sequence: `u88be(place) || last`. Whoever makes these under one key makes none twice.
    pub(super) fn of_place(place: u64, last: bool) -> FreshNonce {
        let mut nonce = [0; NONCE_LEN];
        let [_, _, _, counter @ .., flag] = &mut nonce;
        *counter = place.to_be_bytes();
        *flag = last.into();
        FreshNonce(nonce)
    }

    /// For storing beside the ciphertext; nonces are not secret.
    pub(super) fn as_bytes(&self) -> &[u8; NONCE_LEN] {
        &self.0
    }
}

/// `N` bytes from the operating system, for things that are not secret.
pub(super) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

/// `(C, T) = AES-256-GCM-Enc(K, N, A, P)`; `buffer` holds P, then C.
///
/// SP 800-38D, 7.1, with a 128-bit tag.
pub(super) fn seal(key: &Key, nonce: FreshNonce, aad: &Aad, buffer: &mut [u8]) -> [u8; TAG_LEN] {
    Aes256Gcm::new(key.expose().into())
        .encrypt_inout_detached(&nonce.0.into(), aad.as_ref(), buffer.into())
        .expect("a key or a value of at most 64 KiB is below GCM's limit of 2^36 - 32 bytes")
        .into()
}

/// `P = AES-256-GCM-Dec(K, N, A, C, T)`; `buffer` holds C, then P. On an error it still holds C.
///
/// SP 800-38D, 7.2. The tag is compared, in constant time, before anything is decrypted.
pub(super) fn open(
    key: &Key,
    nonce: &[u8; NONCE_LEN],
    aad: &Aad,
    buffer: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), Corruption> {
    wiped(|| {
        Aes256Gcm::new(key.expose().into())
            .decrypt_inout_detached(nonce.into(), aad.as_ref(), buffer.into(), tag.into())
            .map_err(|_| Corruption::DoesNotAuthenticate)
    })
}
