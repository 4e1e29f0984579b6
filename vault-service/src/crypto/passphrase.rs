//! Root keys that are wrapped with a passphrase.
//!
//! ```text
//! offset  bytes  field
//!      0      1  format, 4
//!      1      1  algorithm, 1
//!      2     16  id of the root key
//!     18     28  Argon2id parameters: memory in KiB, passes, lanes (4 each, big endian), salt 16
//!     46    124  wrapped root key: salt 32, commitment 32, nonce 12, ciphertext 32, tag 16
//! ```
//!
//! `K = Argon2id(passphrase, salt, passes, memory, lanes, 32)`, version 0x13, with the second recommended option of
//! [RFC 9106]: 64 MiB, 3 passes, 4 lanes. `K` wraps like every other KEK, with a one-time key and a commitment. So a wrong
//! passphrase has an error of its own, [`Corruption::Commitment`]. Damage in a salt, a parameter or the commitment has the same
//! error; damage elsewhere has another one.
//!
//! [RFC 9106]: https://www.rfc-editor.org/rfc/rfc9106

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use super::{
    ALGORITHM, Corruption, KeyId, NoRandomness, RootKey, aad,
    derive::Purpose,
    field_reader::FieldReader,
    format, gcm,
    key::{KEY_LEN, Key},
    wrap::{self, KeyWrap},
};

/// Minimum length of a passphrase, in bytes.
pub(crate) const MIN_LEN: usize = 16;
/// Maximum length of a passphrase, in bytes.
pub(crate) const MAX_LEN: usize = 1024;

pub(crate) struct Passphrase(Zeroizing<Vec<u8>>);

/// Error of a passphrase that is too short or too long.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a passphrase has {MIN_LEN} to {MAX_LEN} bytes; take six random words or more")]
pub struct PassphraseLength;

impl Passphrase {
    /// Takes all bytes, spaces included.
    pub(crate) fn parse(bytes: Zeroizing<Vec<u8>>) -> Result<Self, PassphraseLength> {
        match (MIN_LEN..=MAX_LEN).contains(&bytes.len()) {
            true => Ok(Self(bytes)),
            false => Err(PassphraseLength),
        }
    }
}

/// Parameters and salt of Argon2id.
struct Argon2Params {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; 16],
}

impl Argon2Params {
    const LEN: usize = 28;
    /// Maximum memory in KiB, passes and lanes. Stored parameters may be damaged, and are read before anything
    /// authenticates them; these bounds limit the cost to 1 GiB and some seconds.
    const MAX: (u32, u32, u32) = (1 << 20, 16, 16);

    fn generate() -> Result<Self, NoRandomness> {
        Ok(Self {
            memory_kib: 64 * 1024,
            passes: 3,
            lanes: 4,
            salt: gcm::random()?,
        })
    }

    fn read(reader: &mut FieldReader<'_>) -> Result<Self, Corruption> {
        let [memory_kib, passes, lanes] = [
            u32::from_be_bytes(*reader.array()?),
            u32::from_be_bytes(*reader.array()?),
            u32::from_be_bytes(*reader.array()?),
        ];
        let (max_memory, max_passes, max_lanes) = Self::MAX;
        if memory_kib > max_memory || passes > max_passes || lanes > max_lanes {
            return Err(Corruption::DoesNotAuthenticate);
        }
        Ok(Self {
            memory_kib,
            passes,
            lanes,
            salt: *reader.array()?,
        })
    }

    fn to_bytes(&self) -> [u8; Self::LEN] {
        let Self {
            memory_kib,
            passes,
            lanes,
            salt,
        } = self;
        let mut out = [0; Self::LEN];
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

/// Wraps `root`. Blocks for the time of Argon2id, and takes 64 MiB meanwhile.
pub(crate) fn wrap(root: &RootKey, passphrase: &Passphrase) -> Result<Vec<u8>, NoRandomness> {
    let argon2 = Argon2Params::generate()?;
    let key = argon2
        .key(passphrase)
        .expect("the parameters of RFC 9106 and a passphrase of at most 1 KiB are legal");
    let argon2 = argon2.to_bytes();
    let aad = aad::wrapped_root_key(root.id(), &argon2);
    let wrap = wrap::wrap(&key, Purpose::WrapRootKey, &aad, root.key())?;
    let mut out = Vec::with_capacity(2 + 16 + Argon2Params::LEN + KeyWrap::LEN);
    out.extend_from_slice(&[format::WRAPPED_ROOT_KEY, ALGORITHM]);
    out.extend_from_slice(root.id().as_bytes());
    out.extend_from_slice(&argon2);
    wrap.write(&mut out);
    Ok(out)
}

/// Unwraps a root key that [`wrap`] wrapped. Answers [`Corruption::Commitment`] for a wrong passphrase. Blocks as `wrap`
/// does.
pub(crate) fn unwrap(bytes: &[u8], passphrase: &Passphrase) -> Result<RootKey, Corruption> {
    let mut reader = FieldReader::of_format(bytes, format::WRAPPED_ROOT_KEY)?;
    let id = KeyId::read(&mut reader)?;
    let argon2 = Argon2Params::read(&mut reader)?;
    let wrap = KeyWrap::read(&mut reader)?;
    reader.end()?;
    let aad = aad::wrapped_root_key(id, &argon2.to_bytes());
    let key = wrap::unwrap(&argon2.key(passphrase)?, Purpose::WrapRootKey, &aad, &wrap)?;
    RootKey::from_unwrapped(key, id)
}

#[cfg(test)]
mod tests;
