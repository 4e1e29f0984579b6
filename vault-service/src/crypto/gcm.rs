//! AES-256-GCM, and its nonces.
//!
//! Nonces are 96 random bits, as in SP 800-38D, 8.2.2. Every key except a backup's encrypts one message, so a repeated
//! nonce would do no harm; random nonces keep a mistake elsewhere from being fatal alone. A backup's key encrypts many
//! frames, whose nonces are counted instead (8.2.1).

use aes_gcm::{Aes256Gcm, KeyInit as _, aead::AeadInOut as _};
use proto::stack::wiped;

use super::{Corruption, NoRandomness, aad::Aad, key::Key};

pub(super) const NONCE_LEN: usize = 12;
pub(super) const TAG_LEN: usize = 16;

/// A nonce that was not used yet. The type cannot be copied, and [`encrypt`] consumes it.
pub(super) struct FreshNonce([u8; NONCE_LEN]);

impl FreshNonce {
    pub(super) fn random() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    /// `u88be(index) || is_last`, the nonce of one frame of a backup. A caller must use each `index` once per key.
    pub(super) fn of_frame(index: u64, is_last: bool) -> Self {
        let mut nonce = [0; NONCE_LEN];
        let [_, _, _, counter @ .., flag] = &mut nonce;
        *counter = index.to_be_bytes();
        *flag = is_last.into();
        Self(nonce)
    }

    /// Returns the bytes to store beside the ciphertext. A nonce is not secret.
    pub(super) fn as_bytes(&self) -> &[u8; NONCE_LEN] {
        &self.0
    }
}

/// Returns `N` random bytes from the operating system, for nonces and salts, which are not secret.
pub(super) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

/// `(C, T) = AES-256-GCM-Enc(K, N, A, P)`, SP 800-38D, 7.1, with a 128-bit tag. Replaces P in `buffer` by C.
pub(super) fn encrypt(key: &Key, nonce: FreshNonce, aad: &Aad, buffer: &mut [u8]) -> [u8; TAG_LEN] {
    wiped(|| {
        Aes256Gcm::new(key.expose().into())
            .encrypt_inout_detached(&nonce.0.into(), aad.as_ref(), buffer.into())
            .expect("a key or a value of at most 64 KiB is below GCM's limit of 2^36 - 32 bytes")
            .into()
    })
}

/// `P = AES-256-GCM-Dec(K, N, A, C, T)`, SP 800-38D, 7.2. Replaces C in `buffer` by P; on an error `buffer` still holds C.
///
/// The tag is compared, in constant time, before any byte is decrypted.
pub(super) fn decrypt(
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
