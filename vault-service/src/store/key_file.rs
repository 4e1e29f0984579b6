//! The caller's keys, in a separate file beside sled's files.
//!
//! sled's log keeps replaced entries until it reuses their space, so a key that must be destroyed reliably cannot be in
//! the log. This file is replaced as a whole, and the directory then has only the file's current content.
//!
//! ```text
//! aerostack keys 1                         the file's format
//! store 0f3c…                              id of the store that it belongs to (`marker`)
//! content CgkI…                            the caller's bytes, in base64
//! crc32 5e1d09ab                           of the lines above
//! ```

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use thiserror::Error;

use super::{
    OpenError, Store,
    files::{failed, read_regular},
    marker::StoreId,
};

/// The file's name.
pub(super) const FILE: &str = "keys";
/// Name of the file until it is complete.
pub(super) const UNFINISHED: &str = "keys.new";
/// The beginning of the file, up to the number of its format.
const TITLE: &str = "aerostack keys ";
const FORMAT: u8 = 1;

/// Why the file was not read or replaced.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file is not as it was written.
    #[error("the store's file `keys` is damaged: restore a backup")]
    Damaged,
    /// The file belongs to another store.
    #[error("the file `keys` is of another store: restore a backup")]
    AnotherStore,
    /// A later release wrote the file.
    #[error(
        "the store's file `keys` has format {0}, which this release does not know: use the release that wrote it"
    )]
    Newer(u8),
    /// The file system refused.
    #[error("the store's file `keys` cannot be {doing}")]
    Files {
        /// The step, as a participle.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Replaces the file in a directory: durable once it returns. A value, so that tests can fail it.
pub(super) type Replace = Box<dyn Fn(&Path, &[u8]) -> io::Result<()> + Send + Sync>;

/// The file of an open store.
pub(super) struct KeyFile {
    dir: PathBuf,
    id: StoreId,
    pub(super) replace: Replace,
}

impl KeyFile {
    pub(super) fn of(dir: &Path, id: StoreId) -> Self {
        Self {
            dir: dir.to_owned(),
            id,
            replace: Box::new(replace),
        }
    }
}

impl Store {
    /// The content of the file `keys`, if there is one. Blocking.
    pub fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        let KeyFile { dir, id, replace: _ } = &self.shared.key_file;
        read(dir, Some(*id))
    }

    /// Replaces the content of the file `keys`, which is durable once this returns. After a failure or a crash the file is the
    /// new one or the one before. Blocking.
    pub fn replace_key_file(&self, content: &[u8]) -> Result<(), KeyFileError> {
        let KeyFile { dir, id, replace } = &self.shared.key_file;
        replace(dir, text(*id, content).as_bytes()).map_err(|source| KeyFileError::Files {
            doing: "replaced",
            source,
        })
    }
}

/// The content of the file in `dir`, which must be of the store `id` where that is known.
pub(super) fn read(dir: &Path, id: Option<StoreId>) -> Result<Option<Vec<u8>>, KeyFileError> {
    let bytes = match read_regular(&dir.join(FILE)) {
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
    let format = file
        .lines()
        .next()
        .and_then(|line| line.strip_prefix(TITLE)?.parse().ok());
    if let Some(found) = format.filter(|found| *found > FORMAT) {
        return Err(KeyFileError::Newer(found));
    }
    let (found, content) = parse(file).ok_or(KeyFileError::Damaged)?;
    if id.is_some_and(|id| id != found) {
        return Err(KeyFileError::AnotherStore);
    }
    Ok(Some(content))
}

/// Parses the file. Accepts only the exact text that `text` writes.
fn parse(file: &str) -> Option<(StoreId, Vec<u8>)> {
    let mut lines = file.lines().skip(1);
    let id = StoreId::parse(lines.next()?.strip_prefix("store ")?)?;
    let content = STANDARD.decode(lines.next()?.strip_prefix("content ")?).ok()?;
    (text(id, &content) == file).then_some((id, content))
}

fn text(id: StoreId, content: &[u8]) -> String {
    let lines = format!(
        "{TITLE}{FORMAT}\nstore {id}\ncontent {}\n",
        STANDARD.encode(content)
    );
    let crc = crc32fast::hash(lines.as_bytes());
    format!("{lines}crc32 {crc:08x}\n")
}

fn replace(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let (path, unfinished) = (dir.join(FILE), dir.join(UNFINISHED));
    let before = match File::options().write(true).open(&path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    File::open(dir)?.sync_all()?;
    // Overwriting is best effort: copy-on-write file systems and disks that remap blocks keep the old blocks anyway.
    drop(before.map(|before| overwrite(&before)));
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

/// Removes an incomplete file that a killed process left.
pub(super) fn tidy(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(UNFINISHED);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
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
    fn what_is_written_is_read_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path(), Some(id(1))), Ok(None)));
        for content in [b"one".as_slice(), b"", &[0xFF; 300]] {
            replace(dir.path(), text(id(1), content).as_bytes()).unwrap();
            assert_eq!(read(dir.path(), Some(id(1))).unwrap().unwrap(), content);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn the_replaced_file_is_overwritten_unless_it_has_another_name() {
        let dir = written(b"old");
        let path = dir.path().join(FILE);
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
    fn a_file_of_which_any_bit_was_flipped_or_any_part_is_missing_is_refused() {
        let dir = written(b"content");
        let bytes = fs::read(dir.path().join(FILE)).unwrap();
        let flipped = (0..bytes.len() * 8).map(|bit| {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let cut = (0..bytes.len()).map(|length| bytes[..length].to_vec());
        for damaged in flipped.chain(cut) {
            fs::write(dir.path().join(FILE), &damaged).unwrap();
            let refused = read(dir.path(), Some(id(1)));
            assert!(
                matches!(refused, Err(KeyFileError::Damaged | KeyFileError::Newer(_))),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_file_of_another_store_or_of_a_later_release_is_refused_and_says_so() {
        let dir = written(b"content");
        let other = read(dir.path(), Some(id(2)));
        assert!(matches!(other, Err(KeyFileError::AnotherStore)), "{other:?}");
        fs::write(dir.path().join(FILE), "aerostack keys 2\nwhatever\n").unwrap();
        let newer = read(dir.path(), Some(id(1)));
        assert!(matches!(newer, Err(KeyFileError::Newer(2))), "{newer:?}");
    }

    #[test]
    fn a_pipe_in_the_place_of_the_file_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join(FILE), kind, mode, 0).unwrap();
        let refused = read(dir.path(), Some(id(1)));
        assert!(matches!(refused, Err(KeyFileError::Files { .. })), "{refused:?}");
    }

    #[test]
    fn what_was_left_of_a_file_on_its_way_is_removed() {
        let dir = written(b"content");
        fs::write(dir.path().join(UNFINISHED), "half").unwrap();
        for _ in 0..2 {
            tidy(dir.path()).unwrap();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
