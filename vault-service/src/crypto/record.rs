//! Records: the stored bytes of one secret version.
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

pub use super::record_id::RecordId;
use super::{
    ALGORITHM, Corruption, DecryptionError, KeyId, NoRandomness, WorkspaceKek, aad,
    field_reader::FieldReader,
    format,
    gcm::{FreshNonce, NONCE_LEN, TAG_LEN},
    key_hierarchy::Dek,
    wrap::KeyWrap,
};
use proto::{OriginPattern, SecretName, SecretValue, Uid};

/// The second, since the Unix epoch, at which a value expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(NonZeroU64);

impl Expiry {
    /// Returns `None` for 0, which stands for a value that never expires.
    pub fn from_seconds(seconds: u64) -> Option<Self> {
        NonZeroU64::new(seconds).map(Self)
    }

    pub fn seconds(self) -> u64 {
        self.0.get()
    }

    pub fn has_passed(self, now: SystemTime) -> bool {
        now.duration_since(UNIX_EPOCH)
            .is_ok_and(|since| since.as_secs() >= self.seconds())
    }

    fn to_bytes(expiry: Option<Self>) -> [u8; 8] {
        expiry.map_or(0, Self::seconds).to_be_bytes()
    }
}

/// Conditions for the use of a value. A record authenticates them together with the value.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Origins to which the value may be sent; an empty list allows all origins.
    pub origins: &'a [OriginPattern],
    /// Time at which the value expires; `None` for never. [`decrypt`] ignores the expiry, because it has no clock: its
    /// caller must compare.
    pub expiry: Option<Expiry>,
}

/// The owned form of [`Terms`].
#[derive(Clone, Debug)]
pub struct OwnedTerms {
    pub origins: Vec<OriginPattern>,
    pub expiry: Option<Expiry>,
}

impl OwnedTerms {
    pub fn as_terms(&self) -> Terms<'_> {
        Terms {
            origins: &self.origins,
            expiry: self.expiry,
        }
    }
}

/// The content of a record. All fields are authentic.
#[derive(Debug)]
pub struct DecryptedRecord {
    /// Version that the value was encrypted as. An old record that was put back has an old version.
    pub version: u64,
    pub expiry: Option<Expiry>,
    pub origins: Vec<OriginPattern>,
    pub value: SecretValue,
}

#[derive(Debug, thiserror::Error)]
pub enum EncryptError {
    /// More than 255 origins, or an origin of more than 65,535 bytes.
    #[error("more upstream origins than a record can hold")]
    Origins,
    #[error("no key could be made")]
    NoRandomness(#[from] NoRandomness),
}

/// `DEK = random(32); (C, T) = AES-256-GCM-Enc(DEK, random(12), A, value)`; the record holds the DEK, wrapped with `kek`.
pub fn encrypt(
    kek: &WorkspaceKek,
    id: &RecordId<'_>,
    terms: &Terms<'_>,
    value: &SecretValue,
) -> Result<Vec<u8>, EncryptError> {
    encrypt_with(Dek::generate()?, kek, id, terms, value)
}

fn encrypt_with(
    dek: Dek,
    kek: &WorkspaceKek,
    id: &RecordId<'_>,
    terms: &Terms<'_>,
    value: &SecretValue,
) -> Result<Vec<u8>, EncryptError> {
    let Terms { origins, expiry } = *terms;
    let expiry = Expiry::to_bytes(expiry);
    let origins: Vec<&[u8]> = origins.iter().map(|o| o.as_str().as_bytes()).collect();
    let wrap = kek.wrap_dek(&dek, id)?;
    let nonce = FreshNonce::random()?;

    // The value is encrypted in place. A vector that had to grow would leave a copy of the value in freed memory, so
    // the exact length is reserved.
    let mut out = Vec::with_capacity(len(&origins, value));
    write_key(&mut out, kek.id(), &wrap);
    out.extend_from_slice(&id.version.to_be_bytes());
    out.extend_from_slice(&expiry);
    write_origins(&mut out, &origins)?;
    out.extend_from_slice(nonce.as_bytes());
    let head = out.len();
    out.extend_from_slice(value.expose());
    let (_, body) = out.split_at_mut(head);
    let tag = dek.encrypt(nonce, &aad::record(id, expiry, &origins), body);
    out.extend_from_slice(&tag);
    Ok(out)
}

fn len(origins: &[&[u8]], value: &SecretValue) -> usize {
    let origins: usize = origins.iter().map(|origin| 2 + origin.len()).sum();
    WRAPPED_DEK.end + 8 + 8 + 1 + origins + NONCE_LEN + value.expose().len() + TAG_LEN
}

/// Writes the fields up to the wrapped DEK, which are all that a rewrap replaces.
fn write_key(out: &mut Vec<u8>, kek: KeyId, wrap: &KeyWrap) {
    out.extend_from_slice(&[format::RECORD, ALGORITHM]);
    out.extend_from_slice(kek.as_bytes());
    wrap.write(out);
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
) -> Result<DecryptedRecord, DecryptionError> {
    let record = Record::parse_for(kek, bytes)?;
    let id = record.id(workspace_uid, name);
    let dek = kek.unwrap_dek(&record.dek, &id)?;
    // The only copy of the value: the bytes are decrypted in place, and become the value without another copy.
    let mut body = Zeroizing::new(record.ciphertext.to_vec());
    let aad = aad::record(&id, Expiry::to_bytes(record.expiry), &record.origins);
    dek.decrypt(record.nonce, &aad, &mut body, record.tag)?;
    Ok(DecryptedRecord {
        version: record.version,
        expiry: record.expiry,
        origins: record.origins.into_iter().map(origin).collect::<Result<_, _>>()?,
        value: SecretValue::parse(body).map_err(|_| Corruption::ValueLength)?,
    })
}

/// Returns the id of the KEK that wrapped the record's DEK.
pub fn kek_id(bytes: &[u8]) -> Result<KeyId, DecryptionError> {
    Ok(Record::parse(bytes)?.kek_id)
}

/// Returns the record with its DEK wrapped by `to`, another KEK of the same workspace. The encrypted value does not change.
pub fn rewrap(
    bytes: &[u8],
    workspace_uid: &Uid,
    name: &SecretName,
    from: &WorkspaceKek,
    to: &WorkspaceKek,
) -> Result<Vec<u8>, RewrapError> {
    let record = Record::parse_for(from, bytes)?;
    let id = record.id(workspace_uid, name);
    let dek = from.unwrap_dek(&record.dek, &id).map_err(DecryptionError::from)?;
    let mut out = Vec::with_capacity(bytes.len());
    write_key(&mut out, to.id(), &to.rewrap_dek(&dek, &id)?);
    out.extend(bytes.iter().skip(WRAPPED_DEK.end));
    Ok(out)
}

#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    #[error("the record was not decrypted")]
    Decrypt(#[from] DecryptionError),
    #[error("no key could be made")]
    NoRandomness(#[from] NoRandomness),
}

/// A record that was encrypted again as another version of its secret.
#[derive(Debug)]
pub struct ReencryptedRecord {
    pub record: Vec<u8>,
    /// Terms that the new record authenticates.
    pub terms: OwnedTerms,
}

/// Decrypts a record and encrypts its value as the version of `id`, with a new DEK. `terms` computes the new terms from
/// the old ones. The function never returns the value in clear.
pub fn reencrypt<E: From<ReencryptError>>(
    bytes: &[u8],
    from: &WorkspaceKek,
    to: &WorkspaceKek,
    id: &RecordId<'_>,
    terms: impl FnOnce(OwnedTerms) -> Result<OwnedTerms, E>,
) -> Result<ReencryptedRecord, E> {
    let DecryptedRecord {
        version: _,
        expiry,
        origins,
        value,
    } = decrypt(from, id.workspace_uid, id.name, bytes).map_err(ReencryptError::from)?;
    let terms = terms(OwnedTerms { origins, expiry })?;
    let record = encrypt(to, id, &terms.as_terms(), &value).map_err(ReencryptError::from)?;
    Ok(ReencryptedRecord { record, terms })
}

#[derive(Debug, thiserror::Error)]
pub enum ReencryptError {
    #[error("the record was not decrypted")]
    Decrypt(#[from] DecryptionError),
    #[error("the value was not encrypted again")]
    Encrypt(#[from] EncryptError),
}

fn origin(bytes: &[u8]) -> Result<OriginPattern, Corruption> {
    let text = str::from_utf8(bytes).map_err(|_| Corruption::Origin)?;
    match OriginPattern::parse(text) {
        Ok(origin) if origin.as_str() == text => Ok(origin),
        Ok(_) | Err(_) => Err(Corruption::Origin),
    }
}

/// Offsets of the wrapped DEK in a record.
const WRAPPED_DEK: std::ops::Range<usize> = 18..18 + KeyWrap::LEN;

/// Lengths that a value may have. [`Record::parse`] checks the length, so that a huge record is refused before its value
/// is copied.
const VALUE_LEN: std::ops::RangeInclusive<usize> = 1..=64 * 1024;

/// The fields of a record. Nothing in them is authentic before the record is decrypted.
struct Record<'a> {
    kek_id: KeyId,
    dek: KeyWrap,
    version: u64,
    expiry: Option<Expiry>,
    origins: Vec<&'a [u8]>,
    nonce: &'a [u8; NONCE_LEN],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> Record<'a> {
    /// Parses a record whose DEK `kek` wrapped.
    fn parse_for(kek: &WorkspaceKek, bytes: &'a [u8]) -> Result<Self, DecryptionError> {
        let record = Self::parse(bytes)?;
        match record.kek_id == kek.id() {
            true => Ok(record),
            false => Err(DecryptionError::UnknownKey(record.kek_id)),
        }
    }

    fn parse(bytes: &'a [u8]) -> Result<Self, Corruption> {
        let mut reader = FieldReader::of_format(bytes, format::RECORD)?;
        let kek_id = KeyId::read(&mut reader)?;
        let dek = KeyWrap::read(&mut reader)?;
        let version = u64::from_be_bytes(*reader.array()?);
        let expiry = Expiry::from_seconds(u64::from_be_bytes(*reader.array()?));
        let [count] = *reader.array()?;
        let origins = (0..count)
            .map(|_| {
                let len = u16::from_be_bytes(*reader.array()?);
                reader.slice(len.into())
            })
            .collect::<Result<_, _>>()?;
        let nonce = reader.array()?;
        let (ciphertext, tag) = reader.ciphertext_and_tag()?;
        if !VALUE_LEN.contains(&ciphertext.len()) {
            return Err(Corruption::ValueLength);
        }
        Ok(Self {
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

    fn id<'i>(&self, workspace_uid: &'i Uid, name: &'i SecretName) -> RecordId<'i> {
        RecordId {
            workspace_uid,
            name,
            version: self.version,
        }
    }
}

#[cfg(test)]
mod tests;
