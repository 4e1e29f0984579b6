//! A root key wrapped with a passphrase.
//!
//! ```text
//! offset  bytes  field
//!      0      1  format, 4
//!      1      1  algorithm, 1
//!      2     16  id of the root key
//!     18     28  how the passphrase is stretched: memory in KiB, passes, lanes (4 each, big endian), salt 16
//!     46    124  wrapped root key: salt 32, commitment 32, nonce 12, ciphertext 32, tag 16
//! ```
//!
//! `K = Argon2id(passphrase, salt, passes, memory, lanes, 32)`, version 0x13 ([RFC 9106]), with that document's second
//! recommended option: 64 MiB, 3 passes, 4 lanes. `K` wraps as every key here does, by a one-time key and with a
//! commitment, so that a wrong passphrase is told from damage to anything but the salts.
//!
//! [RFC 9106]: https://www.rfc-editor.org/rfc/rfc9106

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use super::{
    ALGORITHM, Corruption, KeyId, NoRandomness, RootKey, aad,
    bytes::Bytes,
    format,
    key::{KEY_LEN, Key},
    nonce,
    wrap::{self, Purpose, Wrapped},
};

/// The fewest bytes of a passphrase.
pub const MIN_LEN: usize = 16;
/// The most bytes of a passphrase.
pub const MAX_LEN: usize = 1024;

/// What is stretched into a key.
pub struct Passphrase(Zeroizing<Vec<u8>>);

/// Not a passphrase that we take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a passphrase has {MIN_LEN} to {MAX_LEN} bytes; take six random words or more")]
pub struct PassphraseLength;

impl Passphrase {
    /// Takes a passphrase as it is.
    pub fn parse(bytes: Zeroizing<Vec<u8>>) -> Result<Passphrase, PassphraseLength> {
        if (MIN_LEN..=MAX_LEN).contains(&bytes.len()) {
            Ok(Passphrase(bytes))
        } else {
            Err(PassphraseLength)
        }
    }
}

/// How a passphrase becomes a key.
struct Stretch {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; 16],
}

impl Stretch {
    const LEN: usize = 28;
    /// What a damaged store may cost: no more than 1 GiB, and some seconds.
    const MOST: (u32, u32, u32) = (1 << 20, 16, 16);

    fn fresh() -> Result<Stretch, NoRandomness> {
        Ok(Stretch {
            memory_kib: 64 * 1024,
            passes: 3,
            lanes: 4,
            salt: nonce::random()?,
        })
    }

    fn read(bytes: &mut Bytes<'_>) -> Result<Stretch, Corruption> {
        let [memory_kib, passes, lanes] = [
            u32::from_be_bytes(*bytes.array()?),
            u32::from_be_bytes(*bytes.array()?),
            u32::from_be_bytes(*bytes.array()?),
        ];
        let (most_memory, most_passes, most_lanes) = Stretch::MOST;
        if memory_kib > most_memory || passes > most_passes || lanes > most_lanes {
            return Err(Corruption::DoesNotAuthenticate);
        }
        Ok(Stretch {
            memory_kib,
            passes,
            lanes,
            salt: *bytes.array()?,
        })
    }

    fn to_bytes(&self) -> [u8; Stretch::LEN] {
        let Stretch {
            memory_kib,
            passes,
            lanes,
            salt,
        } = self;
        let mut out = [0; Stretch::LEN];
        let fields = [
            &memory_kib.to_be_bytes()[..],
            &passes.to_be_bytes(),
            &lanes.to_be_bytes(),
            salt,
        ];
        out.iter_mut()
            .zip(fields.into_iter().flatten())
            .for_each(|(to, from)| *to = *from);
        out
    }

    /// `K = Argon2id(passphrase, salt, passes, memory, lanes, 32)`
    fn key(&self, passphrase: &Passphrase) -> Result<Key, Corruption> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_LEN));
        let params = params.map_err(|_| Corruption::DoesNotAuthenticate)?;
        Key::try_init(|key| {
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(&passphrase.0, &self.salt, key)
                .map_err(|_| Corruption::DoesNotAuthenticate)
        })
    }
}

/// Wraps `root`. Takes 64 MiB and a moment: call it where blocking is allowed.
pub fn wrap(root: &RootKey, passphrase: &Passphrase) -> Result<Vec<u8>, NoRandomness> {
    let stretch = Stretch::fresh()?;
    let key = stretch
        .key(passphrase)
        .expect("the parameters of RFC 9106 and a passphrase of at most 1 KiB are legal");
    let stretch = stretch.to_bytes();
    let aad = aad::wrapped_root_key(root.id(), &stretch);
    let wrapped = wrap::wrap(&key, Purpose::WrapRootKey, &aad, root.key())?;
    let mut out = Vec::with_capacity(2 + 16 + Stretch::LEN + Wrapped::LEN);
    out.extend_from_slice(&[format::WRAPPED_ROOT_KEY, ALGORITHM]);
    out.extend_from_slice(root.id().as_bytes());
    out.extend_from_slice(&stretch);
    wrapped.write(&mut out);
    Ok(out)
}

/// Unwraps what `wrap` made with this passphrase; [`Corruption::Commitment`] with another one. As slow as `wrap`.
pub fn unwrap(bytes: &[u8], passphrase: &Passphrase) -> Result<RootKey, Corruption> {
    let mut bytes = Bytes::open(bytes, format::WRAPPED_ROOT_KEY)?;
    let id = KeyId::read(&mut bytes)?;
    let stretch = Stretch::read(&mut bytes)?;
    let wrapped = Wrapped::read(&mut bytes)?;
    bytes.end()?;
    let aad = aad::wrapped_root_key(id, &stretch.to_bytes());
    let key = wrap::unwrap(&stretch.key(passphrase)?, Purpose::WrapRootKey, &aad, &wrapped)?;
    RootKey::unwrapped(key, id)
}

#[cfg(test)]
#[path = "passphrase_tests.rs"]
mod tests;
