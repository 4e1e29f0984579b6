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
//! TLS already protects the connection. Sealing keeps plaintext out of the buffers of TLS, HTTP/2 and protobuf, which are
//! reused and not wiped, so that plaintext exists only where it is decrypted and where it is used.
//!
//! The injector makes a key pair for each epoch. The vault sets up one HPKE context for that key and seals its answers in
//! sequence, so they open only in the same sequence. The authenticated data binds an answer to its stream (nonce), epoch,
//! request (id) and server, to both principals, and to all other fields of the answer.

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

/// First part of the info of every context, which separates these keys from keys for other purposes.
const PURPOSE: &[u8] = b"aerostack decrypt v1";
/// Size of an AES-GCM tag in bytes.
const TAG_SIZE: usize = 16;

/// Size of a public key and of an encapsulated key in bytes.
pub const KEY_SIZE: usize = 32;
/// Size of the nonce of a stream in bytes.
pub const NONCE_SIZE: usize = 32;

/// Random bytes that identify a decrypt stream.
pub type StreamNonce = [u8; NONCE_SIZE];

/// The error of sealing or opening an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The bytes are not an X25519 public key.
    #[error("not an X25519 public key of 32 bytes")]
    BadKey,
    /// The answer was changed, was sealed for another context or call, or was opened out of sequence.
    #[error("a sealed answer does not open")]
    DoesNotOpen,
    /// The plaintext is not the expected number of values.
    #[error("a sealed answer holds something else than its values")]
    ValuesMalformed,
    /// The context has reached its maximum number of messages.
    #[error("nothing more can be sealed in this epoch")]
    ContextExhausted,
    /// The system has no random bytes.
    #[error("no random bytes for a key")]
    NoRandomness,
}

/// The parties and the time of an HPKE context, which both ends put into its info.
#[derive(Debug, Clone, Copy)]
pub struct SealContext<'a> {
    /// The vault's principal, as its certificate names it.
    pub vault: &'a Principal,
    /// The injector's principal.
    pub injector: &'a Principal,
    /// The nonce of the stream; empty for a unary call.
    pub nonce: &'a [u8],
    /// The epoch; 0 for a unary call.
    pub epoch: u64,
}

/// The call that a sealed answer belongs to.
#[derive(Debug, Clone, Copy)]
pub struct SealedCall<'a> {
    /// The epoch in which the answer is sealed; 0 for a unary call.
    pub epoch: u64,
    /// The id of the request on its stream; 0 for a unary call.
    pub id: u64,
    /// The server that the values are for.
    pub server: &'a str,
}

impl SealContext<'_> {
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

impl SealedCall<'_> {
    /// Returns the authenticated data: all fields of `response` except the values.
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

/// Appends a length as u32. A gRPC message is shorter than 2^32 bytes, so that no length is cut.
fn count(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

/// Appends `LP(bytes)` in the notation of this module.
fn lp(out: &mut Vec<u8>, bytes: &[u8]) {
    count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// The vault's end of a context.
pub struct Sealer {
    context: AeadCtxS<AesGcm256, HkdfSha256, Kem>,
    encapsulated_key: Vec<u8>,
}

impl Sealer {
    /// Sets up a context for the public key `recipient`.
    pub fn new(recipient: &[u8], context: SealContext<'_>) -> Result<Self, SealError> {
        let recipient = PublicKey::from_bytes(recipient).map_err(|_| SealError::BadKey)?;
        let (encapsulated, context) =
            setup_sender(&OpModeS::Base, &recipient, &context.info()).map_err(|_| SealError::BadKey)?;
        Ok(Self {
            context,
            encapsulated_key: encapsulated.to_bytes().to_vec(),
        })
    }

    /// Returns the encapsulated key, from which the recipient sets up its end.
    pub fn encapsulated_key(&self) -> &[u8] {
        &self.encapsulated_key
    }

    /// Seals the values of an answer and authenticates the fields of `response`, which itself holds no value.
    pub fn seal<'v>(
        &mut self,
        call: SealedCall<'_>,
        response: &DecryptResponse,
        values: impl Iterator<Item = &'v [u8]> + Clone,
    ) -> Result<Vec<u8>, SealError> {
        let length: usize = values.clone().map(|value| 4 + value.len()).sum();
        // The full capacity from the start, because a buffer that grows leaves copies behind. Encryption is in place.
        let mut buffer = Zeroizing::new(Vec::with_capacity(length + TAG_SIZE));
        for value in values {
            lp(&mut buffer, value);
        }
        let aad = call.aad(response);
        let tag = wiped(|| {
            let buffer = InOutBuf::from(buffer.as_mut_slice());
            self.context.seal_inout_detached(buffer, &aad)
        })
        .map_err(|_| SealError::ContextExhausted)?;
        buffer.extend_from_slice(&tag.to_bytes());
        Ok(std::mem::take(&mut *buffer))
    }
}

/// The key pair of an injector for one epoch.
pub struct RecipientKey {
    private: PrivateKey,
    public: PublicKey,
}

impl RecipientKey {
    /// Makes a random key pair.
    pub fn generate() -> Result<Self, SealError> {
        let mut seed = Zeroizing::new([0; KEY_SIZE]);
        getrandom::fill(seed.as_mut()).map_err(|_| SealError::NoRandomness)?;
        let (private, public) = Kem::derive_keypair(seed.as_ref());
        Ok(Self { private, public })
    }

    /// Returns the public key.
    pub fn public(&self) -> Vec<u8> {
        self.public.to_bytes().to_vec()
    }

    /// Sets up the injector's end of the context that the vault made for this key.
    pub fn open(&self, encapsulated_key: &[u8], context: SealContext<'_>) -> Result<Opener, SealError> {
        let encapsulated = EncappedKey::from_bytes(encapsulated_key).map_err(|_| SealError::BadKey)?;
        let context = setup_receiver(&OpModeR::Base, &self.private, &encapsulated, &context.info())
            .map_err(|_| SealError::BadKey)?;
        Ok(Opener { context })
    }
}

/// The injector's end of a context.
pub struct Opener {
    context: AeadCtxR<AesGcm256, HkdfSha256, Kem>,
}

impl Opener {
    /// Opens the next answer. The returned value is the only copy of the plaintext.
    pub fn open(
        &mut self,
        call: SealedCall<'_>,
        response: &DecryptResponse,
    ) -> Result<OpenedValues, SealError> {
        let split = response.sealed.len().checked_sub(TAG_SIZE);
        let (sealed, tag) = split
            .and_then(|split| response.sealed.split_at_checked(split))
            .ok_or(SealError::DoesNotOpen)?;
        let tag = AeadTag::<AesGcm256>::from_bytes(tag).map_err(|_| SealError::DoesNotOpen)?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let aad = call.aad(response);
        let opened = wiped(|| {
            let buffer = InOutBuf::from(buffer.as_mut_slice());
            self.context.open_inout_detached(buffer, &aad, &tag)
        });
        opened.map_err(|error| match error {
            HpkeError::MessageLimitReached => SealError::ContextExhausted,
            _ => SealError::DoesNotOpen,
        })?;
        Ok(OpenedValues(buffer))
    }
}

/// The concatenated values of an answer.
pub struct OpenedValues(Zeroizing<Vec<u8>>);

impl OpenedValues {
    /// Returns the values when there are exactly `count`.
    pub fn split(&self, count: usize) -> Result<Vec<Zeroizing<Vec<u8>>>, SealError> {
        let mut rest = self.0.as_slice();
        let mut values = Vec::with_capacity(count.min(64));
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let length =
                usize::try_from(u32::from_be_bytes(*length)).map_err(|_| SealError::ValuesMalformed)?;
            let (value, behind) = behind
                .split_at_checked(length)
                .ok_or(SealError::ValuesMalformed)?;
            values.push(Zeroizing::new(value.to_vec()));
            rest = behind;
        }
        if rest.is_empty() && values.len() == count {
            Ok(values)
        } else {
            Err(SealError::ValuesMalformed)
        }
    }
}

/// Makes the nonce of a new stream.
pub fn stream_nonce() -> Result<StreamNonce, SealError> {
    let mut nonce = [0; NONCE_SIZE];
    getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests;
