//! The file `marker`, which says what the other files of the store must contain.
//!
//! sled can open a damaged log as a smaller, older or empty store, without an error. The marker repeats the store's
//! checkpoint outside of the log, and lists the files that belong to the store:
//!
//! ```text
//! aerostack store 2                        format of the marker
//! id 0f3c…                                 id of the store: 16 random bytes, in hexadecimal
//! generation 42                            number of committed groups
//! entries 97                               number of entries without the checkpoint
//! making | opening | open | closed         state in which the store was left
//! file db 8912896 90c1fa27                 a file that does not change in that state: name, length, CRC-32
//! entry 6d657461 0801…                     an entry of a closed store, in hexadecimal; without a value if it is absent
//! crc32 5e1d09ab                           CRC-32 of the lines above
//! ```
//!
//! The marker is replaced when the store is opened and closed, at most once a second while the store commits, and a second
//! after the last group: syncing the marker with each group would double the cost of a group. So the marker of an open
//! store is a lower bound.
//!
//! sled writes snapshots only while it opens, and the marker is in the state `opening` for all of that time. So only a
//! store that was killed in that state can have a snapshot that its marker does not list.

mod writer;

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs, io,
    path::Path,
};

pub(super) use writer::MarkerWriter;

use super::{
    checkpoint::{Checkpoint, StoreId},
    error::StoreOpenError,
    file_sum::FileSum,
    fs::{read_regular, sync, write_synced},
};

pub(super) const MARKER: &str = "marker";
/// Name of the new marker until it is complete.
pub(super) const NEW_MARKER: &str = "marker.new";
const FORMAT: u8 = 2;
/// Start of the first line, up to the number of the format.
const TITLE: &str = "aerostack store ";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) checkpoint: Checkpoint,
    pub(super) state: MarkerState,
    /// Files that do not change in this state.
    pub(super) files: FileSums,
    /// Some entries of a closed store, which can be read before the store is opened.
    pub(super) preview: PreviewEntries,
}

/// Sums of files, by name.
pub(super) type FileSums = BTreeMap<String, FileSum>;

/// Values by key; `None` for a key without a value.
pub(super) type PreviewEntries = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// State in which a store was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkerState {
    /// The store is being created, and acknowledged nothing yet.
    Creating,
    /// sled is opening the store, and may replace the snapshot and clear the end of `db`.
    Opening,
    /// The store is open, or was not closed. The checkpoint is a lower bound.
    Open,
    /// The store was closed. The checkpoint is exact, and the marker lists all files.
    Closed,
}

impl Marker {
    /// Reads the marker in `dir`; returns `None` when the file does not exist.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, StoreOpenError> {
        let path = dir.join(MARKER);
        let bytes = match read_regular(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreOpenError::files("read", &path)(error)),
        };
        let text = str::from_utf8(&bytes).unwrap_or_default();
        if let Some(found) = format(text).filter(|found| *found != FORMAT) {
            return Err(StoreOpenError::UnknownFormat {
                dir: dir.to_owned(),
                found,
            });
        }
        match Self::parse(text) {
            Some(marker) => Ok(Some(marker)),
            None => Err(StoreOpenError::DamagedMarker(dir.to_owned())),
        }
    }

    /// Accepts only the exact text that `Display` writes, checksum included.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(1);
        let mut field = |name: &str| lines.next()?.strip_prefix(name);
        let checkpoint = Checkpoint {
            id: StoreId::parse(field("id ")?)?,
            generation: field("generation ")?.parse().ok()?,
            entries: field("entries ")?.parse().ok()?,
        };
        let state = MarkerState::parse(lines.next()?)?;
        let (mut files, mut preview) = (FileSums::new(), PreviewEntries::new());
        for line in lines {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["file", name, length, crc] => {
                    let sum = FileSum {
                        length: length.parse().ok()?,
                        crc: u32::from_str_radix(crc, 16).ok()?,
                    };
                    files.insert((*name).to_owned(), sum);
                }
                ["entry", key] => {
                    preview.insert(from_hex(key)?, None);
                }
                ["entry", key, value] => {
                    preview.insert(from_hex(key)?, Some(from_hex(value)?));
                }
                // Other lines are the checksum, or invalid lines that the comparison below refuses.
                _ => {}
            }
        }
        let marker = Self {
            checkpoint,
            state,
            files,
            preview,
        };
        (marker.to_string() == text).then_some(marker)
    }

    /// Replaces the marker in `dir`. After a crash the file is the new one or the previous one.
    pub(super) fn write(&self, dir: &Path) -> Result<(), StoreOpenError> {
        let (path, new) = (dir.join(MARKER), dir.join(NEW_MARKER));
        write_synced(&new, self.to_string().as_bytes()).map_err(StoreOpenError::files("write", &new))?;
        fs::rename(&new, &path).map_err(StoreOpenError::files("replace", &path))?;
        sync(dir)
    }
}

impl MarkerState {
    fn parse(text: &str) -> Option<Self> {
        let states = [Self::Creating, Self::Opening, Self::Open, Self::Closed];
        states.into_iter().find(|state| state.name() == text)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Creating => "making",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            checkpoint,
            state,
            files,
            preview,
        } = self;
        let Checkpoint {
            id,
            generation,
            entries,
        } = checkpoint;
        let state = state.name();
        let mut lines =
            format!("{TITLE}{FORMAT}\nid {id}\ngeneration {generation}\nentries {entries}\n{state}\n");
        for (name, FileSum { length, crc }) in files {
            writeln!(lines, "file {name} {length} {crc:08x}")?;
        }
        for (key, value) in preview {
            let value = value
                .as_ref()
                .map_or(String::new(), |value| format!(" {}", hex(value)));
            writeln!(lines, "entry {}{value}", hex(key))?;
        }
        let crc = crc32fast::hash(lines.as_bytes());
        writeln!(f, "{lines}crc32 {crc:08x}")
    }
}

/// Returns the format that the first line names.
fn format(text: &str) -> Option<u8> {
    text.lines().next()?.strip_prefix(TITLE)?.parse().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() {
        pairs.iter().map(byte).collect()
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
