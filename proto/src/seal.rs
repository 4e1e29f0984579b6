//! Sealing of decrypted values on their way from the vault to an injector (HPKE, RFC 9180, mode base).
//!
//! ```text
//! suite   DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM
//! info    LP("aerostack decrypt v1") LP(vault) LP(injector) LP(stream nonce) u64(epoch)
//! aad     u64(epoch) u64(id) LP(server) LP(workspace uid) u32(n) secret[n], and LP(facts)[n] if a secret has facts
//! secret  LP(name) u32(status) u64(version) u32(m) LP(origin)[m]
//! facts   u32(size) u8(bits), or nothing
//! pt      LP(value)[…], of each secret that has one
//! LP(x)   u32(length of x) x; integers are big-endian
//! ```
//!
//! TLS already keeps both ends and the wire apart from everyone else. This keeps plaintext out of the buffers of TLS,
//! HTTP/2 and protobuf, which are reused and not wiped: it exists where it was decrypted and where it is used.
//!
//! The recipient makes a key pair for each epoch; the vault sets up one context for it and seals its answers in their
//! order, so they open in that order and in no other. An answer cannot be moved to another stream (its nonce), epoch,
//! request (its id), server, or between injectors and vaults (their principals), nor can what it says be changed.

use hpke::{
    Deserializable as _, HpkeError, Kem as _, OpModeR, OpModeS, Serializable as _,
    aead::{AeadCtxR, AeadCtxS, AeadTag, AesGcm256},
    inout::InOutBuf,
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    setup_receiver, setup_sender,
};
use zeroize::Zeroizing;

use crate::{
    Principal,
    stack::wiped,
    vault::v1::{DecryptResponse, DecryptedSecret},
};

type Kem = X25519HkdfSha256;
type PublicKey = <Kem as hpke::Kem>::PublicKey;
type PrivateKey = <Kem as hpke::Kem>::PrivateKey;
type EncappedKey = <Kem as hpke::Kem>::EncappedKey;

/// The first part of every context's info: what these keys are for.
const PURPOSE: &[u8] = b"aerostack decrypt v1";
/// Bytes of an AES-GCM tag.
const TAG: usize = 16;

/// The bytes of a public key, and of an encapsulated one.
pub const KEY: usize = 32;
/// The bytes of a stream's nonce.
pub const NONCE: usize = 32;

/// The 32 random bytes that tell a stream from every other.
pub type StreamNonce = [u8; NONCE];

/// Something was not sealed for us, not now, or not like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No X25519 public key.
    #[error("not an X25519 public key of 32 bytes")]
    BadKey,
    /// What was sealed says something else, to someone else, or at another time.
    #[error("a sealed answer does not open")]
    DoesNotOpen,
    /// What was sealed is not the values of its answer.
    #[error("a sealed answer holds something else than its values")]
    NotItsValues,
    /// The context has sealed as much as it may.
    #[error("nothing more can be sealed in this epoch")]
    UsedUp,
    /// The system gave no random bytes.
    #[error("no random bytes for a key")]
    NoRandomness,
}

/// Between whom a context is, and when.
#[derive(Debug, Clone, Copy)]
pub struct Between<'a> {
    /// The vault's principal, as its certificate names it.
    pub vault: &'a Principal,
    /// The injector's.
    pub injector: &'a Principal,
    /// The stream's nonce; empty for a single answer.
    pub nonce: &'a [u8],
    /// The epoch; 0 for a single answer.
    pub epoch: u64,
}

/// What an answer answers.
#[derive(Debug, Clone, Copy)]
pub struct Answering<'a> {
    /// The epoch that it is sealed in; 0 for a single answer.
    pub epoch: u64,
    /// The id of the call; 0 for a single answer.
    pub id: u64,
    /// The server that the values are for.
    pub server: &'a str,
}

impl Between<'_> {
    fn info(&self) -> Vec<u8> {
        let Self {
            vault,
            injector,
            nonce,
            epoch,
        } = self;
        let mut info = Vec::with_capacity(256);
        lp(&mut info, PURPOSE);
        lp(&mut info, vault.to_string().as_bytes());
        lp(&mut info, injector.to_string().as_bytes());
        lp(&mut info, nonce);
        info.extend_from_slice(&epoch.to_be_bytes());
        info
    }
}

impl Answering<'_> {
    /// All that `response` says besides the values.
    fn aad(&self, response: &DecryptResponse) -> Vec<u8> {
        let Self { epoch, id, server } = self;
        let DecryptResponse {
            workspace_uid,
            secrets,
            sealed: _,
            encapsulated_key: _,
        } = response;
        let mut aad = Vec::with_capacity(128 + 64 * secrets.len());
        aad.extend_from_slice(&epoch.to_be_bytes());
        aad.extend_from_slice(&id.to_be_bytes());
        lp(&mut aad, server.as_bytes());
        lp(&mut aad, workspace_uid.as_bytes());
        count(&mut aad, secrets.len());
        for secret in secrets {
            let DecryptedSecret {
                name,
                status,
                version,
                value: _,
                upstream_origins,
                facts: _,
            } = secret;
            lp(&mut aad, name.as_bytes());
            aad.extend_from_slice(&status.to_be_bytes());
            aad.extend_from_slice(&version.to_be_bytes());
            count(&mut aad, upstream_origins.len());
            for origin in upstream_origins {
                lp(&mut aad, origin.as_bytes());
            }
        }
        // Only answers without values have facts.
        if secrets.iter().any(|secret| secret.facts.is_some()) {
            for DecryptedSecret { facts, .. } in secrets {
                match facts {
                    Some(facts) => lp(&mut aad, &facts.to_bytes()),
                    None => lp(&mut aad, b""),
                }
            }
        }
        aad
    }
}

/// A length: never as many as 2^32, since no message is that long.
fn count(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

fn lp(out: &mut Vec<u8>, bytes: &[u8]) {
    count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// The vault's end of an epoch.
pub struct Sealer {
    context: AeadCtxS<AesGcm256, HkdfSha256, Kem>,
    encapsulated_key: Vec<u8>,
}

impl Sealer {
    /// Sets up a context to a recipient.
    pub fn new(recipient: &[u8], between: Between<'_>) -> Result<Self, SealError> {
        let recipient = PublicKey::from_bytes(recipient).map_err(|_| SealError::BadKey)?;
        let (encapsulated, context) =
            setup_sender(&OpModeS::Base, &recipient, &between.info()).map_err(|_| SealError::BadKey)?;
        Ok(Self {
            context,
            encapsulated_key: encapsulated.to_bytes().to_vec(),
        })
    }

    /// What the recipient needs to set its end up.
    pub fn encapsulated_key(&self) -> &[u8] {
        &self.encapsulated_key
    }

    /// Seals the values of an answer, and all that it says with them. `response` itself holds no value.
    pub fn seal<'v>(
        &mut self,
        answering: Answering<'_>,
        response: &DecryptResponse,
        values: impl Iterator<Item = &'v [u8]> + Clone,
    ) -> Result<Vec<u8>, SealError> {
        let length: usize = values.clone().map(|value| 4 + value.len()).sum();
        // Of this size from the start: a buffer that grows leaves copies behind. Sealed where it lies.
        let mut buffer = Zeroizing::new(Vec::with_capacity(length + TAG));
        for value in values {
            lp(&mut buffer, value);
        }
        let tag = self
            .context
            .seal_inout_detached(InOutBuf::from(buffer.as_mut_slice()), &answering.aad(response))
            .map_err(|_| SealError::UsedUp)?;
        buffer.extend_from_slice(&tag.to_bytes());
        Ok(std::mem::take(&mut *buffer))
    }
}

/// A key pair of an injector, for one epoch.
pub struct RecipientKey {
    private: PrivateKey,
    public: PublicKey,
}

impl RecipientKey {
    /// Makes one.
    pub fn generate() -> Result<Self, SealError> {
        let mut seed = Zeroizing::new([0; KEY]);
        getrandom::fill(seed.as_mut()).map_err(|_| SealError::NoRandomness)?;
        let (private, public) = Kem::derive_keypair(seed.as_ref());
        Ok(Self { private, public })
    }

    /// What the vault is told.
    pub fn public(&self) -> Vec<u8> {
        self.public.to_bytes().to_vec()
    }

    /// Sets up the injector's end of the context that was made for this key.
    pub fn open(&self, encapsulated_key: &[u8], between: Between<'_>) -> Result<Opener, SealError> {
        let encapsulated = EncappedKey::from_bytes(encapsulated_key).map_err(|_| SealError::BadKey)?;
        let context = setup_receiver(&OpModeR::Base, &self.private, &encapsulated, &between.info())
            .map_err(|_| SealError::BadKey)?;
        Ok(Opener { context })
    }
}

/// The injector's end of an epoch.
pub struct Opener {
    context: AeadCtxR<AesGcm256, HkdfSha256, Kem>,
}

impl Opener {
    /// Opens the next answer. Its plaintext exists in what is returned, and nowhere else.
    pub fn open(
        &mut self,
        answering: Answering<'_>,
        response: &DecryptResponse,
    ) -> Result<Values, SealError> {
        let split = response.sealed.len().checked_sub(TAG);
        let (sealed, tag) = split
            .and_then(|split| response.sealed.split_at_checked(split))
            .ok_or(SealError::DoesNotOpen)?;
        let tag = AeadTag::<AesGcm256>::from_bytes(tag).map_err(|_| SealError::DoesNotOpen)?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let aad = answering.aad(response);
        let opened = wiped(|| {
            let buffer = InOutBuf::from(buffer.as_mut_slice());
            self.context.open_inout_detached(buffer, &aad, &tag)
        });
        opened.map_err(|error| match error {
            HpkeError::MessageLimitReached => SealError::UsedUp,
            _ => SealError::DoesNotOpen,
        })?;
        Ok(Values(buffer))
    }
}

/// The values of an answer, one behind the other.
pub struct Values(Zeroizing<Vec<u8>>);

impl Values {
    /// The values, if there are just `count`.
    pub fn split(&self, count: usize) -> Result<Vec<Zeroizing<Vec<u8>>>, SealError> {
        let mut rest = self.0.as_slice();
        let mut values = Vec::with_capacity(count.min(64));
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| SealError::NotItsValues)?;
            let (value, behind) = behind.split_at_checked(length).ok_or(SealError::NotItsValues)?;
            values.push(Zeroizing::new(value.to_vec()));
            rest = behind;
        }
        if rest.is_empty() && values.len() == count {
            Ok(values)
        } else {
            Err(SealError::NotItsValues)
        }
    }
}

/// Random bytes that tell a stream from every other.
pub fn stream_nonce() -> Result<StreamNonce, SealError> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
    Ok(nonce)
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
