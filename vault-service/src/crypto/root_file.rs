//! The root key's file: 32 raw bytes, or base64 with at most one newline behind it. And a passphrase's.
//!
//! Made for how such files come about: `write_new`, `head -c 32 /dev/random`, `openssl rand -base64 32`,
//! and Kubernetes secrets (a symlink to a file of mode 0440 or 0400).

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

/// Bits that nobody but the owner, and for reading the group, may have.
const TOO_OPEN: u32 = 0o037;

/// Above any accepted length, so that a longer file is seen to be longer.
const READ_LEN: usize = 80;

const BASE64_LEN: usize = 44;

/// A root key's file that was not read or written.
#[derive(Debug, thiserror::Error)]
#[error("root key file {path:?}: {problem}")]
pub struct RootKeyFileError {
    /// Which file.
    pub path: PathBuf,
    /// Why, and what to do.
    pub problem: Problem,
}

/// A passphrase's file that was not read.
#[derive(Debug, thiserror::Error)]
#[error("passphrase file {path:?}: {problem}")]
pub struct PassphraseFileError {
    /// Which file.
    pub path: PathBuf,
    /// Why, and what to do.
    pub problem: Problem,
}

/// What is wrong with a root key's or a passphrase's file, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be opened, read or written.
    #[error("{0}")]
    Io(io::Error),
    /// A directory, a pipe, a device.
    #[error("not a regular file")]
    NotAFile,
    /// Someone else may read it, or write it.
    #[error(
        "its mode {0:04o} lets others read or change it: chmod 600, and make a new key if it was exposed"
    )]
    TooOpen(u32),
    /// No bytes at all.
    #[error("empty: it needs 32 random bytes, or their base64")]
    Empty,
    /// A raw key with a newline that an editor or `echo` put there.
    #[error("32 bytes and a newline: write the 32 bytes alone, or their base64")]
    RawWithNewline,
    /// 64 hexadecimal digits.
    #[error("hex is not accepted, use base64 (openssl rand -base64 32)")]
    Hex,
    /// 44 characters that are not the base64 of 32 bytes.
    #[error("not base64 of 32 bytes (standard alphabet, with padding)")]
    NotBase64,
    /// Another length.
    #[error("{0}: it needs exactly 32 raw bytes, or their base64 in 44 characters")]
    Length(Length),
    /// Printable text, such as a passphrase or 32 hexadecimal digits.
    #[error("the key is 32 characters of text, not 32 random bytes (openssl rand -base64 32)")]
    Text,
    /// All bytes are the same.
    #[error("all its bytes are the same, which is no key (openssl rand -base64 32)")]
    Weak,
    /// Too short or too long for a passphrase.
    #[error(transparent)]
    Passphrase(#[from] PassphraseLength),
    /// No random bytes for a new key.
    #[error("no key could be made: the operating system gave no random bytes")]
    NoRandomness,
}

/// How long a file is, as far as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Length {
    /// So many bytes.
    #[error("{0} bytes")]
    Bytes(usize),
    /// More than any key.
    #[error("more than {READ_LEN} bytes")]
    TooLong,
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

impl From<NoRandomness> for Problem {
    fn from(NoRandomness(_): NoRandomness) -> Problem {
        Problem::NoRandomness
    }
}

impl From<WeakKey> for Problem {
    fn from(WeakKey: WeakKey) -> Problem {
        Problem::Weak
    }
}

/// Reads the root key. Symlinks are followed; the mode that counts is that of the file itself.
pub fn read(path: &Path) -> Result<RootKey, RootKeyFileError> {
    read_key(path).map_err(|problem| RootKeyFileError {
        path: path.to_owned(),
        problem,
    })
}

/// Reads a passphrase: all that is in the file, but for one newline at its end. The same modes count.
pub fn read_passphrase(path: &Path) -> Result<Passphrase, PassphraseFileError> {
    let read = || {
        let mut buffer = Zeroizing::new([0; passphrase::MAX_LEN + 3]);
        let bytes = read_into(path, &mut *buffer)?.ok_or(PassphraseLength)?;
        Ok(Passphrase::parse(Zeroizing::new(line(bytes).to_vec()))?)
    };
    read().map_err(|problem| PassphraseFileError {
        path: path.to_owned(),
        problem,
    })
}

/// Makes a root key in a new file of mode 0600, on disk when this returns. Never overwrites.
pub fn write_new(path: &Path) -> Result<RootKey, RootKeyFileError> {
    write_key(path).map_err(|problem| RootKeyFileError {
        path: path.to_owned(),
        problem,
    })
}

fn read_key(path: &Path) -> Result<RootKey, Problem> {
    let mut buffer = Zeroizing::new([0; READ_LEN + 1]);
    match read_into(path, &mut *buffer)? {
        Some(bytes) => parse(bytes),
        None => Err(Problem::Length(Length::TooLong)),
    }
}

/// All that is in a file which is its owner's alone; none when it fills the buffer.
fn read_into<'b>(path: &Path, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>, Problem> {
    // Not blocking, or a named pipe would hang the start.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
    // Of the opened file, so that what was checked is what is read.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Problem::NotAFile);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & TOO_OPEN != 0 {
        return Err(Problem::TooOpen(mode));
    }
    let (mut len, full) = (0, buffer.len());
    // `read_to_end` would grow a Vec and leave copies.
    while let Some(free @ [_, ..]) = buffer.get_mut(len..) {
        match file.read(free) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(buffer.get(..len).filter(|_| len < full))
}

/// Without the newline at its end.
fn line(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    match line.strip_suffix(b"\r") {
        Some(shorter) if line.len() < bytes.len() => shorter,
        Some(_) | None => line,
    }
}

/// 32 bytes are raw; 44 characters, and a newline or not, are base64; everything else is refused.
fn parse(bytes: &[u8]) -> Result<RootKey, Problem> {
    let line = line(bytes);
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() == key.len() {
        key.copy_from_slice(bytes);
    } else if line.len() == BASE64_LEN {
        decode(line, &mut key)?;
    } else {
        return Err(misshapen(bytes.len(), line));
    }
    let key_is_text = key.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let root = RootKey::from_bytes(key)?;
    if key_is_text { Err(Problem::Text) } else { Ok(root) }
}

fn decode(line: &[u8], key: &mut [u8; 32]) -> Result<(), Problem> {
    // One byte more: base64 wants room for its estimate.
    let mut decoded = Zeroizing::new([0; 33]);
    match STANDARD.decode_slice(line, &mut *decoded) {
        Ok(32) => {}
        Ok(_) | Err(_) => return Err(Problem::NotBase64),
    }
    let (bytes, _) = decoded.split_first_chunk().ok_or(Problem::NotBase64)?;
    *key = *bytes;
    Ok(())
}

fn misshapen(len: usize, line: &[u8]) -> Problem {
    match line.len() {
        _ if len == 0 => Problem::Empty,
        32 => Problem::RawWithNewline,
        64 if line.iter().all(u8::is_ascii_hexdigit) => Problem::Hex,
        _ => Problem::Length(Length::Bytes(len)),
    }
}

fn write_key(path: &Path) -> Result<RootKey, Problem> {
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
#[path = "root_file_tests.rs"]
mod tests;
