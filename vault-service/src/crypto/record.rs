//! The stored bytes of one secret version.
//!
//! ```text
//! offset  bytes  field
//!      0      1  format, 3
//!      1      1  algorithm, 1
//!      2     16  id of the workspace's KEK
//!     18    124  wrapped DEK: salt 32, commitment 32, nonce 12, ciphertext 32, tag 16
//!    142      8  version, big endian
//!    150      8  expiry in seconds since the Unix epoch, big endian; 0 for never
//!    158      1  count of upstream origins, n
//!    159      .  n times: length (2, big endian), origin in its canonical form
//!      .     12  nonce
//!      .  1..=65536  ciphertext, as long as the value
//!      .     16  tag
//! ```

use std::{
    num::NonZeroU64,
    time::{SystemTime, UNIX_EPOCH},
};

use zeroize::Zeroizing;

use super::{
    ALGORITHM, Corruption, DecryptionError, KeyId, NoRandomness, WorkspaceKek, aad,
    bytes::Bytes,
    format,
    key::Dek,
    nonce::{FreshNonce, NONCE_LEN, TAG_LEN},
    wrap::Wrapped,
};
use proto::{OriginPattern, SecretName, SecretValue, Uid};

/// Where a record belongs. It opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct RecordId<'a> {
    /// The workspace's uid, not its name: a workspace made anew is another one.
    pub workspace_uid: &'a Uid,
    /// The secret.
    pub name: &'a SecretName,
    /// Its version.
    pub version: u64,
}

/// The second from which on a value counts as gone, since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(NonZeroU64);

impl Expiry {
    /// From its seconds; 0 is never.
    pub fn from_seconds(seconds: u64) -> Option<Self> {
        NonZeroU64::new(seconds).map(Self)
    }

    /// Its seconds.
    pub fn seconds(self) -> u64 {
        self.0.get()
    }

    /// Whether it is this second or was before.
    pub fn has_passed(self, now: SystemTime) -> bool {
        now.duration_since(UNIX_EPOCH)
            .is_ok_and(|since| since.as_secs() >= self.seconds())
    }

    pub(super) fn to_bytes(expiry: Option<Self>) -> [u8; 8] {
        expiry.map_or(0, Self::seconds).to_be_bytes()
    }
}

/// What is authenticated with a value: it is not given without.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Where it may be sent; empty means anywhere.
    pub origins: &'a [OriginPattern],
    /// When it is gone; none means never. Whoever decrypts has to look at the clock: this module has none.
    pub expiry: Option<Expiry>,
}

/// The owned form of [`Terms`].
#[derive(Clone, Debug)]
pub struct OwnedTerms {
    /// Origins that the value may be sent to; an empty list allows all origins.
    pub origins: Vec<OriginPattern>,
    /// Time at which the value expires; `None` for a value that never expires.
    pub expiry: Option<Expiry>,
}

impl OwnedTerms {
    /// Borrows the terms.
    pub fn as_terms(&self) -> Terms<'_> {
        Terms {
            origins: &self.origins,
            expiry: self.expiry,
        }
    }
}

/// What a record held.
#[derive(Debug)]
pub struct Decrypted {
    /// The version it was encrypted as. Authentic, but it may be an old one: see the module's caveats.
    pub version: u64,
    /// When it is gone; none means never.
    pub expiry: Option<Expiry>,
    /// Where the value may be sent; empty means it was not restricted.
    pub origins: Vec<OriginPattern>,
    /// The value.
    pub value: SecretValue,
}

/// Why a value was not encrypted.
#[derive(Debug, thiserror::Error)]
pub enum EncryptError {
    /// More than 255 origins, or one of more than 65,535 bytes.
    #[error("more upstream origins than a record can hold")]
    Origins,
    /// No random bytes.
    #[error("no key could be made")]
    NoRandomness(#[from] NoRandomness),
}

/// `DEK = random(32); (C, T) = AES-256-GCM-Enc(DEK, random(12), A, value)`, and the DEK wrapped.
pub fn encrypt(
    kek: &WorkspaceKek,
    place: &RecordId<'_>,
    terms: &Terms<'_>,
    value: &SecretValue,
) -> Result<Vec<u8>, EncryptError> {
    encrypt_with(Dek::generate()?, kek, place, terms, value)
}

fn encrypt_with(
    dek: Dek,
    kek: &WorkspaceKek,
    place: &RecordId<'_>,
    terms: &Terms<'_>,
    value: &SecretValue,
) -> Result<Vec<u8>, EncryptError> {
    let Terms { origins, expiry } = *terms;
    let origins: Vec<&[u8]> = origins.iter().map(|o| o.as_str().as_bytes()).collect();
    let wrapped = kek.wrap_dek(&dek, place)?;
    let nonce = FreshNonce::random()?;

    // To the exact size: the value is encrypted in place, and growing would leave it behind in clear.
    let mut out = Vec::with_capacity(len(&origins, value));
    out.extend_from_slice(&[format::RECORD, ALGORITHM]);
    out.extend_from_slice(kek.id().as_bytes());
    wrapped.write(&mut out);
    out.extend_from_slice(&place.version.to_be_bytes());
    out.extend_from_slice(&Expiry::to_bytes(expiry));
    write_origins(&mut out, &origins)?;
    out.extend_from_slice(nonce.as_bytes());
    let head = out.len();
    out.extend_from_slice(value.expose());
    let (_, body) = out.split_at_mut(head);
    let tag = dek.seal(nonce, &aad::record(place, expiry, &origins), body);
    out.extend_from_slice(&tag);
    Ok(out)
}

fn len(origins: &[&[u8]], value: &SecretValue) -> usize {
    let origins: usize = origins.iter().map(|origin| 2 + origin.len()).sum();
    WRAPPED_DEK.end + 8 + 8 + 1 + origins + NONCE_LEN + value.expose().len() + TAG_LEN
}

fn write_origins(out: &mut Vec<u8>, origins: &[&[u8]]) -> Result<(), EncryptError> {
    out.push(u8::try_from(origins.len()).map_err(|_| EncryptError::Origins)?);
    for origin in origins {
        let len = u16::try_from(origin.len()).map_err(|_| EncryptError::Origins)?;
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(origin);
    }
    Ok(())
}

/// `DEK = unwrap(KEK, wrapped DEK); value = AES-256-GCM-Dec(DEK, N, A, C, T)`
pub fn decrypt(
    kek: &WorkspaceKek,
    workspace_uid: &Uid,
    name: &SecretName,
    bytes: &[u8],
) -> Result<Decrypted, DecryptionError> {
    let record = Record::parse(bytes)?;
    if record.kek_id != kek.id() {
        return Err(DecryptionError::UnknownKey(record.kek_id));
    }
    let place = RecordId {
        workspace_uid,
        name,
        version: record.version,
    };
    let dek = kek.unwrap_dek(&record.dek, &place)?;
    // The only copy: decrypted in place, and moved into the value as it is.
    let mut body = Zeroizing::new(record.ciphertext.to_vec());
    let aad = aad::record(&place, record.expiry, &record.origins);
    dek.open(record.nonce, &aad, &mut body, record.tag)?;
    Ok(Decrypted {
        version: record.version,
        expiry: record.expiry,
        origins: record.origins.into_iter().map(origin).collect::<Result<_, _>>()?,
        value: SecretValue::parse(body).map_err(|_| Corruption::ValueLength)?,
    })
}

/// The id of the KEK that wrapped this record's DEK: which one to decrypt it with.
pub fn kek_id(bytes: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(Record::parse(bytes)?.kek_id)
}

/// The same record under another KEK of its workspace. The value stays encrypted as it is.
pub fn rewrap(
    bytes: &[u8],
    workspace_uid: &Uid,
    name: &SecretName,
    from: &WorkspaceKek,
    to: &WorkspaceKek,
) -> Result<Vec<u8>, RewrapError> {
    let record = Record::parse(bytes).map_err(DecryptionError::from)?;
    if record.kek_id != from.id() {
        return Err(DecryptionError::UnknownKey(record.kek_id).into());
    }
    let place = RecordId {
        workspace_uid,
        name,
        version: record.version,
    };
    let dek = from
        .unwrap_dek(&record.dek, &place)
        .map_err(DecryptionError::from)?;
    let wrapped = to.rewrap_dek(&dek, &place)?;
    let mut out = Vec::with_capacity(bytes.len());
    out.extend_from_slice(&[format::RECORD, ALGORITHM]);
    out.extend_from_slice(to.id().as_bytes());
    wrapped.write(&mut out);
    out.extend(bytes.iter().skip(WRAPPED_DEK.end));
    Ok(out)
}

/// Why a record was not rewrapped.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// It did not open under the KEK it is to leave.
    #[error("the record was not opened")]
    Open(#[from] DecryptionError),
    /// No random bytes.
    #[error("no key could be made")]
    NoRandomness(#[from] NoRandomness),
}

/// A record made anew as another version of its secret.
#[derive(Debug)]
pub struct ReencryptedRecord {
    /// Its bytes.
    pub record: Vec<u8>,
    /// Terms that the record authenticates together with its value.
    pub terms: OwnedTerms,
}

/// Re-encrypts the value of a record as the version of `place`, under a new DEK. `terms` computes the new terms from
/// the old ones. The function never returns the value in clear.
pub fn reencrypt<E: From<ReencryptError>>(
    bytes: &[u8],
    from: &WorkspaceKek,
    to: &WorkspaceKek,
    place: &RecordId<'_>,
    terms: impl FnOnce(OwnedTerms) -> Result<OwnedTerms, E>,
) -> Result<ReencryptedRecord, E> {
    let Decrypted {
        version: _,
        expiry,
        origins,
        value,
    } = decrypt(from, place.workspace_uid, place.name, bytes).map_err(ReencryptError::from)?;
    let terms = terms(OwnedTerms { origins, expiry })?;
    let record = encrypt(to, place, &terms.as_terms(), &value).map_err(ReencryptError::from)?;
    Ok(ReencryptedRecord { record, terms })
}

/// Why a record was not restored.
#[derive(Debug, thiserror::Error)]
pub enum ReencryptError {
    /// It did not open.
    #[error("the record was not opened")]
    Open(#[from] DecryptionError),
    /// It was not encrypted anew.
    #[error("the record was not made anew")]
    Encrypt(#[from] EncryptError),
}

fn origin(bytes: &[u8]) -> Result<OriginPattern, Corruption> {
    let text = str::from_utf8(bytes).map_err(|_| Corruption::Origin)?;
    match OriginPattern::parse(text) {
        Ok(origin) if origin.as_str() == text => Ok(origin),
        Ok(_) | Err(_) => Err(Corruption::Origin),
    }
}

/// Where the wrapped DEK stands.
const WRAPPED_DEK: std::ops::Range<usize> = 18..18 + Wrapped::LEN;

struct Record<'a> {
    kek_id: KeyId,
    dek: Wrapped,
    version: u64,
    expiry: Option<Expiry>,
    origins: Vec<&'a [u8]>,
    nonce: &'a [u8; NONCE_LEN],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> Record<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Record<'a>, Corruption> {
        let mut bytes = Bytes::open(bytes, format::RECORD)?;
        let kek_id = KeyId::read(&mut bytes)?;
        let dek = Wrapped::read(&mut bytes)?;
        let version = u64::from_be_bytes(*bytes.array()?);
        let expiry = Expiry::from_seconds(u64::from_be_bytes(*bytes.array()?));
        let [count] = *bytes.array()?;
        let origins = (0..count)
            .map(|_| {
                let len = u16::from_be_bytes(*bytes.array()?);
                bytes.slice(len.into())
            })
            .collect::<Result<_, _>>()?;
        let nonce = bytes.array()?;
        let (ciphertext, tag) = bytes.sealed()?;
        if !VALUE_LEN.contains(&ciphertext.len()) {
            return Err(Corruption::ValueLength);
        }
        Ok(Record {
            kek_id,
            dek,
            version,
            expiry,
            origins,
            nonce,
            ciphertext,
            tag,
        })
    }
}

/// A value's length, here so that a huge row is refused before it is copied.
const VALUE_LEN: std::ops::RangeInclusive<usize> = 1..=64 * 1024;

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
