//! The envelope of a backup: a header, and frames that only the root key opens.
//!
//! ```text
//! offset  bytes  field
//!      0     16  "aerostack backup"
//!     16      1  format: 16, or 18 where root keys follow
//!     17      1  algorithm, 1
//!     18     16  the vault's uid
//!     34      8  when it was made: seconds since 1970 in UTC, big endian
//!     42     16  id of the root key that wraps this backup's key
//!     58      1  count of further root keys that its contents need, n
//!     59   16 n  their ids
//!      .  4 + m  only in format 18: a length, big endian, and root keys that nothing but the store holds, wrapped
//!      .    124  wrapped key: salt 32, commitment 32, nonce 12, ciphertext 32, tag 16
//!      .      .  frames: each the ciphertext of 65,536 bytes and a tag of 16; the last may be shorter
//! ```
//!
//! The frames are the STREAM construction of [Hoang, Reyhanitabar, Rogaway and Vizár], as age uses it: a frame's nonce is
//! its place and whether it is the last, so that frames cannot be left out, repeated, moved or cut off at the end without
//! notice. The key is random, and this backup's alone; all of the header is bound to its wrap.
//!
//! [Hoang, Reyhanitabar, Rogaway and Vizár]: https://eprint.iacr.org/2015/189

use std::io::{self, Read};

use proto::Uid;

use super::{
    ALGORITHM, Corruption, KeyId, NoRandomness, RootKey, aad,
    bytes::Bytes,
    format,
    key::Key,
    nonce::{self, FreshNonce, TAG_LEN},
    wrap::Wrapped,
};

/// Bytes in every frame but the last.
pub const FRAME: usize = 64 * 1024;
const SEALED_FRAME: usize = FRAME + TAG_LEN;

const MAGIC: &[u8; 16] = b"aerostack backup";
/// The header up to the ids of further keys.
const FIXED: usize = 59;
/// Bytes of wrapped root keys: as many as an entry of the store may have, which is what they come from.
const MOST_ROOT_KEYS: usize = 96 * 1024;

/// What a backup says of itself, for everyone to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupInfo {
    /// The vault that was backed up.
    pub vault_uid: Uid,
    /// When, in seconds since 1970 in UTC.
    pub created: u64,
    /// Root keys that its contents need beside the one that opens it; 255 are named at most.
    pub further_keys: Vec<KeyId>,
    /// Root keys, wrapped by what is no root key, as whoever made the backup writes them; empty when there are none. Without
    /// them a backup whose root key only the store held would be lost with that.
    pub root_keys: Vec<u8>,
}

/// Why a backup was not read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another kind of file.
    #[error("this is no backup of a vault")]
    NotABackup,
    /// A format of a later release.
    #[error("the backup has format {0}, which this release does not know")]
    Unsupported(u8),
    /// It was made with this root key, which is not the one held.
    #[error("the backup needs the root key {0}")]
    OtherRootKey(KeyId),
    /// Not as it was made. One text, whatever the cause.
    #[error("the backup is damaged, or not whole")]
    Damaged(#[source] Option<Corruption>),
    /// It could not be read.
    #[error("the backup could not be read")]
    Read(#[from] io::Error),
}

impl From<Corruption> for BackupError {
    fn from(cause: Corruption) -> Self {
        match cause {
            Corruption::UnknownFormat(found) => Self::Unsupported(found),
            cause => Self::Damaged(Some(cause)),
        }
    }
}

/// Seals the frames of one backup, in their order.
pub struct BackupEncryptor {
    format: u8,
    key: Key,
    place: u64,
}

impl BackupEncryptor {
    /// A header, and what seals the frames behind it.
    ///
    /// `K = random(32); header = ... || wrap(root key, K)`
    pub fn begin(root: &RootKey, about: &BackupInfo) -> Result<(Vec<u8>, BackupEncryptor), NoRandomness> {
        let key = Key::random()?;
        let format = format_of(about);
        let mut header = described(format, root.id(), about);
        root.wrap_backup_key(&key, format, &header)?.write(&mut header);
        let encryptor = BackupEncryptor {
            format,
            key,
            place: 0,
        };
        Ok((header, encryptor))
    }

    /// Appends a frame of exactly [`FRAME`] bytes that is not the last one, sealed, to `out`.
    pub fn encrypt(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        debug_assert_eq!(frame.len(), FRAME, "only the last frame may be shorter");
        self.append(frame, false, out);
    }

    /// Appends the last frame: 1 to [`FRAME`] bytes.
    pub fn encrypt_last(mut self, frame: &[u8], out: &mut Vec<u8>) {
        debug_assert!((1..=FRAME).contains(&frame.len()), "of another length");
        self.append(frame, true, out);
    }

    /// `(C, T) = AES-256-GCM-Enc(K, u88be(place) || last, A, frame)`
    fn append(&mut self, frame: &[u8], last: bool, out: &mut Vec<u8>) {
        let head = out.len();
        out.extend_from_slice(frame);
        let (_, body) = out.split_at_mut(head);
        let nonce = FreshNonce::of_place(self.place, last);
        let tag = nonce::seal(&self.key, nonce, &aad::backup_frame(self.format), body);
        out.extend_from_slice(&tag);
        self.place = self.place.checked_add(1).expect("2^64 frames are 2^80 bytes");
    }
}

fn format_of(about: &BackupInfo) -> u8 {
    match about.root_keys.as_slice() {
        [] => format::BACKUP,
        [..] => format::BACKUP_WITH_ROOT_KEYS,
    }
}

/// All of a header that stands before the wrap.
fn described(format: u8, root: KeyId, about: &BackupInfo) -> Vec<u8> {
    let BackupInfo {
        vault_uid,
        created,
        further_keys,
        root_keys,
    } = about;
    let named = further_keys.iter().take(usize::from(u8::MAX));
    let count = u8::try_from(named.len()).expect("no more were taken");
    let mut header = Vec::with_capacity(FIXED + 16 * named.len() + root_keys.len() + Wrapped::LEN);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&[format, ALGORITHM]);
    header.extend_from_slice(vault_uid.as_bytes());
    header.extend_from_slice(&created.to_be_bytes());
    header.extend_from_slice(root.as_bytes());
    header.push(count);
    for id in named {
        header.extend_from_slice(id.as_bytes());
    }
    if format == format::BACKUP_WITH_ROOT_KEYS {
        let len = u32::try_from(root_keys.len()).expect("an entry of the store has them, of at most 96 KiB");
        header.extend_from_slice(&len.to_be_bytes());
        header.extend_from_slice(root_keys);
    }
    header
}

/// A backup's header, as it was found.
pub struct BackupHeader {
    /// What it says.
    pub about: BackupInfo,
    /// The root key that opens it.
    pub root_key: KeyId,
    format: u8,
    described: Vec<u8>,
    wrapped: Wrapped,
}

impl BackupHeader {
    /// Reads a header. What it says is authentic only once [`BackupDecryptor::new`] has taken it.
    pub fn read(from: &mut impl Read) -> Result<BackupHeader, BackupError> {
        let mut described = Vec::with_capacity(FIXED);
        from.by_ref()
            .take(MAGIC.len() as u64)
            .read_to_end(&mut described)?;
        if !MAGIC.starts_with(&described) {
            return Err(BackupError::NotABackup);
        }
        append(from, FIXED - described.len(), &mut described)?;
        let (_, body) = described.split_at(MAGIC.len());
        let (format, mut fields) = Bytes::open_any(body, &[format::BACKUP, format::BACKUP_WITH_ROOT_KEYS])?;
        let vault_uid = Uid::from_bytes(*fields.array()?);
        let created = u64::from_be_bytes(*fields.array()?);
        let root_key = KeyId::read(&mut fields)?;
        let [count] = *fields.array()?;
        fields.end()?;

        append(from, 16 * usize::from(count), &mut described)?;
        let (_, ids) = described.split_at(FIXED);
        let mut ids = Bytes::all(ids);
        let further_keys = (0..count)
            .map(|_| KeyId::read(&mut ids))
            .collect::<Result<_, _>>()?;
        let root_keys = match format {
            format::BACKUP_WITH_ROOT_KEYS => root_keys(from, &mut described)?,
            _ => Vec::new(),
        };
        let mut wrapped = Vec::with_capacity(Wrapped::LEN);
        append(from, Wrapped::LEN, &mut wrapped)?;
        Ok(BackupHeader {
            about: BackupInfo {
                vault_uid,
                created,
                further_keys,
                root_keys,
            },
            root_key,
            format,
            described,
            wrapped: Wrapped::read(&mut Bytes::all(&wrapped))?,
        })
    }
}

/// What stands there in [`format::BACKUP_WITH_ROOT_KEYS`]: some, or the format would be the other.
fn root_keys(from: &mut impl Read, described: &mut Vec<u8>) -> Result<Vec<u8>, BackupError> {
    let at = described.len();
    append(from, 4, described)?;
    let (_, len) = described.split_at(at);
    let len = u32::from_be_bytes(*Bytes::all(len).array()?);
    let len = usize::try_from(len).map_err(|_| Corruption::Truncated)?;
    if !(1..=MOST_ROOT_KEYS).contains(&len) {
        return Err(Corruption::Truncated.into());
    }
    append(from, len, described)?;
    let (_, root_keys) = described.split_at(at + 4);
    Ok(root_keys.to_vec())
}

/// Opens the frames of one backup, in their order.
pub struct BackupDecryptor<R> {
    from: R,
    format: u8,
    key: Key,
    place: u64,
    /// What was read of the frame after the one that was opened last: one byte, or none if that was the last.
    ahead: Vec<u8>,
}

impl<R: Read> BackupDecryptor<R> {
    /// `K = unwrap(root key, header)`; the frames follow in `from`.
    pub fn new(
        header: &BackupHeader,
        root: &RootKey,
        mut from: R,
    ) -> Result<BackupDecryptor<R>, BackupError> {
        if header.root_key != root.id() {
            return Err(BackupError::OtherRootKey(header.root_key));
        }
        let key = root.unwrap_backup_key(&header.wrapped, header.format, &header.described)?;
        let mut ahead = Vec::new();
        append(&mut from, 1, &mut ahead)?;
        Ok(BackupDecryptor {
            from,
            format: header.format,
            key,
            place: 0,
            ahead,
        })
    }

    /// The next frame; none behind the last. An error is final.
    ///
    /// `frame = AES-256-GCM-Dec(K, u88be(place) || last, A, C, T)`
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        if self.ahead.is_empty() {
            return Ok(None);
        }
        // One byte more than a frame tells whether it is the last.
        let mut frame = Vec::with_capacity(SEALED_FRAME + 1);
        frame.append(&mut self.ahead);
        let most = (SEALED_FRAME + 1 - frame.len()) as u64;
        self.from.by_ref().take(most).read_to_end(&mut frame)?;
        if frame.len() > SEALED_FRAME {
            self.ahead = frame.split_off(SEALED_FRAME);
        }
        let last = self.ahead.is_empty();
        let tag = frame.split_off(frame.len().saturating_sub(TAG_LEN));
        let tag = tag.first_chunk().ok_or(Corruption::Truncated)?;
        let nonce = FreshNonce::of_place(self.place, last);
        let aad = aad::backup_frame(self.format);
        nonce::open(&self.key, nonce.as_bytes(), &aad, &mut frame, tag)?;
        self.place = self.place.checked_add(1).ok_or(Corruption::Truncated)?;
        Ok(Some(frame))
    }
}

/// Exactly so many bytes more.
fn append(from: &mut impl Read, count: usize, to: &mut Vec<u8>) -> Result<(), BackupError> {
    let read = from.take(count as u64).read_to_end(to)?;
    if read == count {
        Ok(())
    } else {
        Err(Corruption::Truncated.into())
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
