//! The envelope of a backup: a header, and frames that only the root key decrypts.
//!
//! ```text
//! offset  bytes  field
//!      0     16  "aerostack backup"
//!     16      1  format: 16, or 18 for a backup with wrapped root keys
//!     17      1  algorithm, 1
//!     18     16  the vault's uid
//!     34      8  creation time: seconds since 1970 in UTC, big endian
//!     42     16  id of the root key that wraps this backup's key
//!     58      1  count of further root keys that the content needs, n
//!     59   16 n  their ids
//!      .  4 + m  only in format 18: a length, big endian, and the store's root keys, wrapped with a passphrase or by a KMS
//!      .    124  wrapped key: salt 32, commitment 32, nonce 12, ciphertext 32, tag 16
//!      .      .  frames: each the ciphertext of 65,536 bytes and a tag of 16; the last may be shorter
//! ```
//!
//! The frames follow the STREAM construction of [Hoang, Reyhanitabar, Rogaway and Vizár], as in age: the nonce of a frame
//! contains its index and whether it is the last one. So a reader notices frames that were left out, repeated, moved or
//! cut off at the end. Each backup has a random key of its own, and the wrap of that key authenticates the whole header.
//!
//! [Hoang, Reyhanitabar, Rogaway and Vizár]: https://eprint.iacr.org/2015/189

use std::io::{self, Read};

use proto::Uid;

use super::{
    ALGORITHM, Corruption, KeyId, NoRandomness, RootKey, aad,
    field_reader::FieldReader,
    format,
    gcm::{self, FreshNonce, TAG_LEN},
    key::Key,
    wrap::KeyWrap,
};

/// Plaintext bytes in every frame but the last.
pub(crate) const FRAME: usize = 64 * 1024;
const ENCRYPTED_FRAME: usize = FRAME + TAG_LEN;

const MAGIC: &[u8; 16] = b"aerostack backup";
/// Bytes of the header up to the ids of further keys.
const FIXED: usize = 59;
/// Maximum number of bytes of wrapped root keys: the maximum size of the store's entry that holds them.
const MAX_ROOT_KEYS: usize = 96 * 1024;

/// Facts about a backup that stand in its header, in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackupInfo {
    pub(crate) vault_uid: Uid,
    /// Creation time in seconds since 1970 in UTC.
    pub(crate) created: u64,
    /// Root keys that the content needs in addition to the one that decrypts the backup. The header has room for 255.
    pub(crate) further_keys: Vec<KeyId>,
    /// Root keys of which only the store has a copy, wrapped with a passphrase or by a KMS; empty when there are none. Such
    /// a root key would be lost with the store, and the backup would be useless.
    pub(crate) root_keys: Vec<u8>,
}

impl BackupInfo {
    fn format(&self) -> u8 {
        match self.root_keys.is_empty() {
            true => format::BACKUP,
            false => format::BACKUP_WITH_ROOT_KEYS,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the file is not a backup of a vault")]
    NotABackup,
    #[error("the backup has format {0}, which this release does not know")]
    Unsupported(u8),
    /// The backup names a root key that is not the given one.
    #[error("the backup needs the root key {0}")]
    OtherRootKey(KeyId),
    /// The message is the same for every cause.
    #[error("the backup is damaged, or not whole")]
    Damaged(#[source] Option<Corruption>),
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

/// Encrypts the frames of one backup, in their order.
pub(crate) struct BackupEncryptor {
    format: u8,
    key: Key,
    index: u64,
}

impl BackupEncryptor {
    /// Returns the header, and the encryptor of the frames that follow.
    ///
    /// `K = random(32); header = ... || wrap(root key, K)`
    pub(crate) fn begin(root: &RootKey, info: &BackupInfo) -> Result<(Vec<u8>, Self), NoRandomness> {
        let key = Key::random()?;
        let format = info.format();
        let mut header = header_before_wrap(format, root.id(), info);
        root.wrap_backup_key(&key, format, &header)?.write(&mut header);
        let encryptor = Self {
            format,
            key,
            index: 0,
        };
        Ok((header, encryptor))
    }

    /// Encrypts exactly [`FRAME`] bytes, which are not the last ones, and appends the frame to `out`.
    pub(crate) fn encrypt(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        debug_assert_eq!(plaintext.len(), FRAME, "only the last frame may be shorter");
        self.append(plaintext, false, out);
    }

    /// Encrypts the last 1 to [`FRAME`] bytes, and appends the frame to `out`.
    pub(crate) fn encrypt_last(mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        debug_assert!((1..=FRAME).contains(&plaintext.len()), "of another length");
        self.append(plaintext, true, out);
    }

    /// `(C, T) = AES-256-GCM-Enc(K, u88be(index) || is_last, A, plaintext)`
    fn append(&mut self, plaintext: &[u8], is_last: bool, out: &mut Vec<u8>) {
        let head = out.len();
        out.extend_from_slice(plaintext);
        let (_, body) = out.split_at_mut(head);
        let nonce = FreshNonce::of_frame(self.index, is_last);
        let tag = gcm::encrypt(&self.key, nonce, &aad::backup_frame(self.format), body);
        out.extend_from_slice(&tag);
        self.index = self.index.checked_add(1).expect("2^64 frames are 2^80 bytes");
    }
}

fn header_before_wrap(format: u8, root: KeyId, info: &BackupInfo) -> Vec<u8> {
    let BackupInfo {
        vault_uid,
        created,
        further_keys,
        root_keys,
    } = info;
    let named = further_keys.iter().take(usize::from(u8::MAX));
    let count = u8::try_from(named.len()).expect("at most 255 were taken");
    let mut header = Vec::with_capacity(FIXED + 16 * named.len() + root_keys.len() + KeyWrap::LEN);
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
        let len = u32::try_from(root_keys.len()).expect("root keys come from an entry of at most 96 KiB");
        header.extend_from_slice(&len.to_be_bytes());
        header.extend_from_slice(root_keys);
    }
    header
}

/// The header of a backup. Its fields are authentic only after [`BackupDecryptor::new`] has accepted the header.
pub(crate) struct BackupHeader {
    pub(crate) info: BackupInfo,
    /// Id of the root key that decrypts the backup.
    pub(crate) root_key: KeyId,
    format: u8,
    /// All bytes of the header before the wrap.
    before_wrap: Vec<u8>,
    wrap: KeyWrap,
}

impl BackupHeader {
    pub(crate) fn read(from: &mut impl Read) -> Result<Self, BackupError> {
        let mut header = Vec::with_capacity(FIXED);
        from.by_ref().take(MAGIC.len() as u64).read_to_end(&mut header)?;
        if !MAGIC.starts_with(&header) {
            return Err(BackupError::NotABackup);
        }
        read_exactly(from, FIXED - header.len(), &mut header)?;
        let (_, fields) = header.split_at(MAGIC.len());
        let formats = [format::BACKUP, format::BACKUP_WITH_ROOT_KEYS];
        let (format, mut reader) = FieldReader::of_formats(fields, &formats)?;
        let vault_uid = Uid::from_bytes(*reader.array()?);
        let created = u64::from_be_bytes(*reader.array()?);
        let root_key = KeyId::read(&mut reader)?;
        let [count] = *reader.array()?;
        reader.end()?;

        let further_keys = further_keys(from, count, &mut header)?;
        let root_keys = match format {
            format::BACKUP_WITH_ROOT_KEYS => root_keys(from, &mut header)?,
            _ => Vec::new(),
        };
        let mut wrap = Vec::with_capacity(KeyWrap::LEN);
        read_exactly(from, KeyWrap::LEN, &mut wrap)?;
        Ok(Self {
            info: BackupInfo {
                vault_uid,
                created,
                further_keys,
                root_keys,
            },
            root_key,
            format,
            before_wrap: header,
            wrap: KeyWrap::read(&mut FieldReader::from_start(&wrap))?,
        })
    }
}

fn further_keys(from: &mut impl Read, count: u8, header: &mut Vec<u8>) -> Result<Vec<KeyId>, BackupError> {
    read_exactly(from, 16 * usize::from(count), header)?;
    let (_, ids) = header.split_at(FIXED);
    let mut ids = FieldReader::from_start(ids);
    let further_keys = (0..count).map(|_| KeyId::read(&mut ids));
    Ok(further_keys.collect::<Result<_, _>>()?)
}

/// Reads the wrapped root keys of [`format::BACKUP_WITH_ROOT_KEYS`]. They are never empty, because a backup without root
/// keys has the other format.
fn root_keys(from: &mut impl Read, header: &mut Vec<u8>) -> Result<Vec<u8>, BackupError> {
    let at = header.len();
    read_exactly(from, 4, header)?;
    let (_, len) = header.split_at(at);
    let len = u32::from_be_bytes(*FieldReader::from_start(len).array()?);
    let len = usize::try_from(len).map_err(|_| Corruption::Truncated)?;
    if !(1..=MAX_ROOT_KEYS).contains(&len) {
        return Err(Corruption::Truncated.into());
    }
    read_exactly(from, len, header)?;
    let (_, root_keys) = header.split_at(at + 4);
    Ok(root_keys.to_vec())
}

/// Decrypts the frames of one backup, in their order.
pub(crate) struct BackupDecryptor<R> {
    from: R,
    format: u8,
    key: Key,
    index: u64,
    /// The first byte of the next frame, which was read to learn whether the frame before is the last; empty after the
    /// last frame.
    ahead: Vec<u8>,
}

impl<R: Read> BackupDecryptor<R> {
    /// `K = unwrap(root key, header)`. The frames follow in `from`.
    pub(crate) fn new(header: &BackupHeader, root: &RootKey, mut from: R) -> Result<Self, BackupError> {
        if header.root_key != root.id() {
            return Err(BackupError::OtherRootKey(header.root_key));
        }
        let key = root.unwrap_backup_key(&header.wrap, header.format, &header.before_wrap)?;
        let mut ahead = Vec::new();
        read_exactly(&mut from, 1, &mut ahead)?;
        Ok(Self {
            from,
            format: header.format,
            key,
            index: 0,
            ahead,
        })
    }

    /// Returns the plaintext of the next frame; `None` after the last one. Do not call it again after an error.
    ///
    /// `plaintext = AES-256-GCM-Dec(K, u88be(index) || is_last, A, C, T)`
    pub(crate) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        if self.ahead.is_empty() {
            return Ok(None);
        }
        // One byte more than a frame shows whether another frame follows.
        let mut frame = Vec::with_capacity(ENCRYPTED_FRAME + 1);
        frame.append(&mut self.ahead);
        let wanted = (ENCRYPTED_FRAME + 1 - frame.len()) as u64;
        self.from.by_ref().take(wanted).read_to_end(&mut frame)?;
        if frame.len() > ENCRYPTED_FRAME {
            self.ahead = frame.split_off(ENCRYPTED_FRAME);
        }
        let is_last = self.ahead.is_empty();
        let tag = frame.split_off(frame.len().saturating_sub(TAG_LEN));
        let tag = tag.first_chunk().ok_or(Corruption::Truncated)?;
        let nonce = FreshNonce::of_frame(self.index, is_last);
        let aad = aad::backup_frame(self.format);
        gcm::decrypt(&self.key, nonce.as_bytes(), &aad, &mut frame, tag)?;
        self.index = self.index.checked_add(1).ok_or(Corruption::Truncated)?;
        Ok(Some(frame))
    }
}

/// Appends exactly `count` bytes to `to`.
fn read_exactly(from: &mut impl Read, count: usize, to: &mut Vec<u8>) -> Result<(), BackupError> {
    let read = from.take(count as u64).read_to_end(to)?;
    if read == count {
        Ok(())
    } else {
        Err(Corruption::Truncated.into())
    }
}

#[cfg(test)]
mod tests;
