//! The file `keys`, with the keys of the store's caller.
//!
//! sled's log keeps replaced entries until it reuses their space, so a key that must be destroyed reliably cannot be in the
//! log. The file `keys` is replaced as a whole, so the directory has only its current content.
//!
//! ```text
//! aerostack keys 1                         format of the file
//! store 0f3c…                              id of the store, as in its marker
//! content CgkI…                            the caller's bytes, in base64
//! crc32 5e1d09ab                           CRC-32 of the lines above
//! ```

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use thiserror::Error;

use super::{
    checkpoint::StoreId,
    error::StoreOpenError,
    fs::{read_regular, remove_file_if_exists, write_synced},
};

pub(super) const KEYS: &str = "keys";
/// Name of the new file until it is complete.
pub(super) const NEW_KEYS: &str = "keys.new";
/// Start of the first line, up to the number of the format.
const TITLE: &str = "aerostack keys ";
const FORMAT: u8 = 1;

#[derive(Debug, Error)]
pub enum KeyFileError {
    #[error("the store's file `keys` is damaged: restore a backup")]
    Damaged,
    #[error("the file `keys` is of another store: restore a backup")]
    AnotherStore,
    /// A later release wrote the file.
    #[error(
        "the store's file `keys` has format {0}, which this release does not know: use the release that wrote it"
    )]
    Newer(u8),
    #[error("the store's file `keys` cannot be {doing}")]
    Files {
        /// The failed step, as a participle.
        doing: &'static str,
        source: io::Error,
    },
}

/// Replaces the file in a directory, durably. The type is a closure, so that tests can make it fail.
pub(super) type Replace = Box<dyn Fn(&Path, &[u8]) -> io::Result<()> + Send + Sync>;

/// The file of an open store.
pub(super) struct KeyFile {
    dir: PathBuf,
    store: StoreId,
    pub(super) replace: Replace,
}

impl KeyFile {
    pub(super) fn new(dir: &Path, store: StoreId) -> Self {
        Self {
            dir: dir.to_owned(),
            store,
            replace: Box::new(replace),
        }
    }

    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        read(&self.dir, Some(self.store))
    }

    pub(super) fn replace(&self, content: &[u8]) -> Result<(), KeyFileError> {
        (self.replace)(&self.dir, text(self.store, content).as_bytes()).map_err(|source| {
            KeyFileError::Files {
                doing: "replaced",
                source,
            }
        })
    }
}

/// Returns the content of the file in `dir`; `None` when the file does not exist. The file must belong to `store` if that
/// is known.
pub(super) fn read(dir: &Path, store: Option<StoreId>) -> Result<Option<Vec<u8>>, KeyFileError> {
    let bytes = match read_regular(&dir.join(KEYS)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(KeyFileError::Files {
                doing: "read",
                source,
            });
        }
    };
    let file = str::from_utf8(&bytes).unwrap_or_default();
    if let Some(found) = format(file).filter(|found| *found > FORMAT) {
        return Err(KeyFileError::Newer(found));
    }
    let (found, content) = parse(file).ok_or(KeyFileError::Damaged)?;
    if store.is_some_and(|store| store != found) {
        return Err(KeyFileError::AnotherStore);
    }
    Ok(Some(content))
}

/// Returns the format that the first line names.
fn format(file: &str) -> Option<u8> {
    file.lines().next()?.strip_prefix(TITLE)?.parse().ok()
}

/// Parses the file. Accepts only the exact text that [`text`] returns.
fn parse(file: &str) -> Option<(StoreId, Vec<u8>)> {
    let mut lines = file.lines().skip(1);
    let store = StoreId::parse(lines.next()?.strip_prefix("store ")?)?;
    let content = STANDARD.decode(lines.next()?.strip_prefix("content ")?).ok()?;
    (text(store, &content) == file).then_some((store, content))
}

fn text(store: StoreId, content: &[u8]) -> String {
    let lines = format!(
        "{TITLE}{FORMAT}\nstore {store}\ncontent {}\n",
        STANDARD.encode(content)
    );
    let crc = crc32fast::hash(lines.as_bytes());
    format!("{lines}crc32 {crc:08x}\n")
}

fn replace(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let (path, new) = (dir.join(KEYS), dir.join(NEW_KEYS));
    let previous = match File::options().write(true).open(&path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    write_synced(&new, bytes)?;
    fs::rename(&new, &path)?;
    File::open(dir)?.sync_all()?;
    // Overwriting is best effort: copy-on-write file systems and disks that remap blocks keep the old blocks anyway.
    drop(previous.map(|previous| overwrite(&previous)));
    Ok(())
}

/// Writes zeros over a file that has no name any more, so that its blocks do not keep the old keys.
fn overwrite(mut file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.nlink() > 0 {
        return Ok(());
    }
    io::copy(&mut io::Read::take(io::repeat(0), metadata.len()), &mut file)?;
    file.sync_all()
}

/// Removes an incomplete new file that a killed process left.
pub(super) fn remove_leftover(dir: &Path) -> Result<(), StoreOpenError> {
    remove_file_if_exists(&dir.join(NEW_KEYS))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn id(first: u8) -> StoreId {
        StoreId::parse(&format!("{first:02x}{}", "5a".repeat(15))).unwrap()
    }

    fn written(content: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        replace(dir.path(), text(id(1), content).as_bytes()).unwrap();
        dir
    }

    #[test]
    fn a_written_file_is_read_back_and_replaces_the_previous_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path(), Some(id(1))), Ok(None)));
        for content in [b"one".as_slice(), b"", &[0xFF; 300]] {
            replace(dir.path(), text(id(1), content).as_bytes()).unwrap();
            assert_eq!(read(dir.path(), Some(id(1))).unwrap().unwrap(), content);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn the_previous_file_is_overwritten_unless_it_has_another_name() {
        let dir = written(b"old");
        let path = dir.path().join(KEYS);
        let mut old = File::open(&path).unwrap();
        replace(dir.path(), text(id(1), b"new").as_bytes()).unwrap();
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut old, &mut bytes).unwrap();
        assert!(!bytes.is_empty() && bytes.iter().all(|byte| *byte == 0));
        let link = dir.path().join("link");
        fs::hard_link(&path, &link).unwrap();
        replace(dir.path(), text(id(1), b"newest").as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(link).unwrap(), text(id(1), b"new"));
    }

    #[test]
    fn a_file_with_any_flipped_bit_or_any_missing_part_is_refused() {
        let dir = written(b"content");
        let bytes = fs::read(dir.path().join(KEYS)).unwrap();
        let flipped = (0..bytes.len() * 8).map(|bit| {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let truncated = (0..bytes.len()).map(|length| bytes[..length].to_vec());
        for damaged in flipped.chain(truncated) {
            fs::write(dir.path().join(KEYS), &damaged).unwrap();
            let refused = read(dir.path(), Some(id(1)));
            assert!(
                matches!(refused, Err(KeyFileError::Damaged | KeyFileError::Newer(_))),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_file_of_another_store_or_of_a_later_release_is_refused_with_the_reason() {
        let dir = written(b"content");
        let other = read(dir.path(), Some(id(2)));
        assert!(matches!(other, Err(KeyFileError::AnotherStore)), "{other:?}");
        fs::write(dir.path().join(KEYS), "aerostack keys 2\nwhatever\n").unwrap();
        let newer = read(dir.path(), Some(id(1)));
        assert!(matches!(newer, Err(KeyFileError::Newer(2))), "{newer:?}");
    }

    #[test]
    fn a_pipe_in_the_place_of_the_file_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join(KEYS), kind, mode, 0).unwrap();
        let refused = read(dir.path(), Some(id(1)));
        assert!(matches!(refused, Err(KeyFileError::Files { .. })), "{refused:?}");
    }

    #[test]
    fn an_incomplete_new_file_is_removed() {
        let dir = written(b"content");
        fs::write(dir.path().join(NEW_KEYS), "half").unwrap();
        for _ in 0..2 {
            remove_leftover(dir.path()).unwrap();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
