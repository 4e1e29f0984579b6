//! Files with a root key (32 raw bytes, or their base64 with an optional newline) or with a passphrase.
//!
//! The rules accept files from [`write_new`], `head -c 32 /dev/random` and `openssl rand -base64 32`, and Kubernetes
//! secrets, where the path is a symlink to a file of mode 0440 or 0400.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use super::{
    NoRandomness, RootKey, WeakKey,
    passphrase::{self, Passphrase, PassphraseLength},
};
use crate::new_file::NewFile;

/// Mode bits that a file may not have: all of others, and writing and executing for the group.
const TOO_OPEN: u32 = 0o037;

/// Number of bytes that are read of a key file. Every accepted length is below it, so a longer file is noticed.
const READ_LEN: usize = 80;

const BASE64_LEN: usize = 44;

#[derive(Debug, thiserror::Error)]
#[error("root key file {path:?}: {problem}")]
pub struct RootKeyFileError {
    pub path: PathBuf,
    pub problem: KeyFileProblem,
}

#[derive(Debug, thiserror::Error)]
#[error("passphrase file {path:?}: {problem}")]
pub struct PassphraseFileError {
    pub path: PathBuf,
    pub problem: KeyFileProblem,
}

/// Reason why a file with a root key or a passphrase was not read or written. The message also says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileProblem {
    #[error("{0}")]
    Io(io::Error),
    /// The path names a directory, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    #[error(
        "its mode {0:04o} lets others read or change it: chmod 600, and make a new key if it was exposed"
    )]
    TooOpen(u32),
    #[error("empty: it needs 32 random bytes, or their base64")]
    Empty,
    /// A raw key to which an editor or `echo` added a newline.
    #[error("32 bytes and a newline: write the 32 bytes alone, or their base64")]
    RawWithNewline,
    #[error("hex is not accepted, use base64 (openssl rand -base64 32)")]
    Hex,
    #[error("not base64 of 32 bytes (standard alphabet, with padding)")]
    NotBase64,
    #[error("{0}: it needs exactly 32 raw bytes, or their base64 in 44 characters")]
    Length(FileLength),
    /// The key consists of printable characters, such as a passphrase or 32 hexadecimal digits.
    #[error("the key is 32 characters of text, not 32 random bytes (openssl rand -base64 32)")]
    Text,
    #[error("all its bytes are the same, so it is not a key (openssl rand -base64 32)")]
    Weak,
    #[error(transparent)]
    Passphrase(#[from] PassphraseLength),
    #[error("no key could be made: the operating system gave no random bytes")]
    NoRandomness,
}

/// Length of a key file, as far as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileLength {
    #[error("{0} bytes")]
    Bytes(usize),
    #[error("more than {READ_LEN} bytes")]
    TooLong,
}

impl From<io::Error> for KeyFileProblem {
    fn from(error: io::Error) -> KeyFileProblem {
        KeyFileProblem::Io(error)
    }
}

impl From<NoRandomness> for KeyFileProblem {
    fn from(NoRandomness(_): NoRandomness) -> KeyFileProblem {
        KeyFileProblem::NoRandomness
    }
}

impl From<WeakKey> for KeyFileProblem {
    fn from(WeakKey: WeakKey) -> KeyFileProblem {
        KeyFileProblem::Weak
    }
}

/// Reads a root key. The function follows symlinks, and checks the mode of the file itself.
pub fn read(path: &Path) -> Result<RootKey, RootKeyFileError> {
    read_key(path).map_err(|problem| RootKeyFileError {
        path: path.to_owned(),
        problem,
    })
}

/// Reads a passphrase: the whole content of the file without one newline at the end. Accepts the same modes as [`read`].
pub(crate) fn read_passphrase(path: &Path) -> Result<Passphrase, PassphraseFileError> {
    let read = || {
        let mut buffer = Zeroizing::new([0; passphrase::MAX_LEN + 3]);
        let bytes = read_into(path, &mut *buffer)?.ok_or(PassphraseLength)?;
        Ok(Passphrase::parse(Zeroizing::new(
            without_newline(bytes).to_vec(),
        ))?)
    };
    read().map_err(|problem| PassphraseFileError {
        path: path.to_owned(),
        problem,
    })
}

/// Generates a root key and writes it to a new file of mode 0600, which is durable when the function returns. Fails when
/// the file exists.
pub fn write_new(path: &Path) -> Result<RootKey, RootKeyFileError> {
    write_key(path).map_err(|problem| RootKeyFileError {
        path: path.to_owned(),
        problem,
    })
}

fn read_key(path: &Path) -> Result<RootKey, KeyFileProblem> {
    let mut buffer = Zeroizing::new([0; READ_LEN + 1]);
    match read_into(path, &mut *buffer)? {
        Some(bytes) => parse(bytes),
        None => Err(KeyFileProblem::Length(FileLength::TooLong)),
    }
}

/// Reads a file, whose mode must keep others out, into `buffer`. Returns `None` when the file fills the buffer.
fn read_into<'b>(path: &Path, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>, KeyFileProblem> {
    // NONBLOCK, because opening a named pipe would otherwise wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
    // The metadata of the open file rather than of the path, so that another file cannot take its place after the check.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(KeyFileProblem::NotAFile);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & TOO_OPEN != 0 {
        return Err(KeyFileProblem::TooOpen(mode));
    }
    let (mut len, capacity) = (0, buffer.len());
    // `read_to_end` would grow a vector, and leave copies of the key in freed memory.
    while let Some(free @ [_, ..]) = buffer.get_mut(len..) {
        match file.read(free) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(buffer.get(..len).filter(|_| len < capacity))
}

/// Returns `bytes` without one LF or CRLF at the end.
fn without_newline(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    match line.strip_suffix(b"\r") {
        Some(shorter) if line.len() < bytes.len() => shorter,
        Some(_) | None => line,
    }
}

/// Accepts 32 bytes as a raw key, and 44 characters, with or without a newline, as base64.
fn parse(bytes: &[u8]) -> Result<RootKey, KeyFileProblem> {
    let line = without_newline(bytes);
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() == key.len() {
        key.copy_from_slice(bytes);
    } else if line.len() == BASE64_LEN {
        decode(line, &mut key)?;
    } else {
        return Err(wrong_length(bytes.len(), line));
    }
    let key_is_text = key.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let root = RootKey::from_bytes(key)?;
    if key_is_text {
        Err(KeyFileProblem::Text)
    } else {
        Ok(root)
    }
}

fn decode(line: &[u8], key: &mut [u8; 32]) -> Result<(), KeyFileProblem> {
    // 33 bytes, because `decode_slice` demands room for its estimate of the length.
    let mut decoded = Zeroizing::new([0; 33]);
    match STANDARD.decode_slice(line, &mut *decoded) {
        Ok(32) => {}
        Ok(_) | Err(_) => return Err(KeyFileProblem::NotBase64),
    }
    let (bytes, _) = decoded.split_first_chunk().ok_or(KeyFileProblem::NotBase64)?;
    *key = *bytes;
    Ok(())
}

fn wrong_length(len: usize, line: &[u8]) -> KeyFileProblem {
    match line.len() {
        _ if len == 0 => KeyFileProblem::Empty,
        32 => KeyFileProblem::RawWithNewline,
        64 if line.iter().all(u8::is_ascii_hexdigit) => KeyFileProblem::Hex,
        _ => KeyFileProblem::Length(FileLength::Bytes(len)),
    }
}

fn write_key(path: &Path) -> Result<RootKey, KeyFileProblem> {
    let root = RootKey::generate()?;
    let mut line = Zeroizing::new([b'\n'; BASE64_LEN + 1]);
    STANDARD
        .encode_slice(root.expose(), &mut *line)
        .expect("32 bytes are 44 characters of base64, and there is room for 45");
    let mut file = NewFile::create(path)?;
    file.write_all(&*line)?;
    file.publish()?;
    Ok(root)
}

#[cfg(test)]
mod tests;
