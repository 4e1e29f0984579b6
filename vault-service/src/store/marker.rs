//! The store's own marker: a file of ours beside sled's that says what must be there.
//!
//! sled can open a damaged log as a smaller, older or empty store, and say nothing. So an entry that callers cannot
//! reach ([`KEY`]) holds the store's id, the number of groups committed so far and the number of entries. Each group's
//! batch writes it too, so it is as durable as the group and always exact. The file repeats it:
//!
//! ```text
//! aerostack store 1                        the marker's format
//! id 0f3c…                                 16 random bytes, in hexadecimal
//! generation 42                            groups committed
//! entries 97                               entries, without the store's own
//! open | making | closed LENGTH CRC32      of `db`, once it was closed
//! crc32 5e1d09ab                           of the lines above
//! ```
//!
//! It is replaced when the store is opened and closed, and about once a second while it commits: syncing it with each
//! group would cost as much again as the group. So while a store is open, its file is a lower bound.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    OpenError,
    files::{DB, failed, sync},
};

/// Where the store describes itself. No caller's key is this one.
pub(super) const KEY: &[u8] = b"\0store";
/// The file's name.
pub(super) const FILE: &str = "marker";
/// What it is called until it is whole.
const UNFINISHED: &str = "marker.new";
/// The format of both.
const FORMAT: u8 = 1;
/// How the file begins.
const TITLE: &str = "aerostack store ";
/// How long groups are committed before the file says so.
const REFRESH: Duration = Duration::from_secs(1);
/// The generation of a store to which nothing was committed yet.
pub(super) const FIRST: u64 = 1;

/// Tells a store from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreId([u8; 16]);

/// What a store says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) id: StoreId,
    /// Counts up with every group.
    pub(super) generation: u64,
    /// How many entries there are, this one aside.
    pub(super) entries: u64,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) tally: Tally,
    pub(super) state: State,
}

/// How the store was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Being made: nothing in it was ever acknowledged.
    Making,
    /// In use, or not closed; the tally is a lower bound.
    Open,
    /// Closed; the tally is exact, and `db` was this.
    Closed(Sum),
}

/// Length and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    length: u64,
    crc: u32,
}

impl Tally {
    /// Of a store with so many entries that never had a tally.
    pub(super) fn first(entries: u64) -> io::Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        Ok(Self {
            id: StoreId(id),
            generation: FIRST,
            entries,
        })
    }

    /// After one more group.
    pub(super) fn next(self, added: i64) -> Self {
        Self {
            id: self.id,
            generation: self.generation.saturating_add(1),
            entries: self.entries.saturating_add_signed(added),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.id.0);
        bytes.extend(self.generation.to_be_bytes());
        bytes.extend(self.entries.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.strip_prefix(&[FORMAT])?.split_first_chunk()?;
        let (generation, entries) = rest.split_first_chunk()?;
        Some(Self {
            id: StoreId(*id),
            generation: u64::from_be_bytes(*generation),
            entries: u64::from_be_bytes(entries.try_into().ok()?),
        })
    }
}

impl Marker {
    /// What the file in `dir` says, if there is one.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let text = str::from_utf8(&bytes).unwrap_or_default();
        if let Some(found) = format(text).filter(|found| *found > FORMAT) {
            return Err(OpenError::Newer {
                dir: dir.to_owned(),
                found,
            });
        }
        match Self::parse(text) {
            Some(marker) => Ok(Some(marker)),
            None => Err(OpenError::BadMarker(dir.to_owned())),
        }
    }

    /// Only ever takes what [`Marker`] shows, to the letter.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(1);
        let mut field = |name: &str| lines.next()?.strip_prefix(name);
        let tally = Tally {
            id: StoreId(u128::from_str_radix(field("id ")?, 16).ok()?.to_be_bytes()),
            generation: field("generation ")?.parse().ok()?,
            entries: field("entries ")?.parse().ok()?,
        };
        let state = State::parse(lines.next()?)?;
        let marker = Self { tally, state };
        (marker.to_string() == text).then_some(marker)
    }

    /// Replaces the file in `dir`: afterwards, and after a crash too, it is the new one or the one before.
    pub(super) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        let (path, unfinished) = (dir.join(FILE), dir.join(UNFINISHED));
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(failed("create", &unfinished))?;
        file.write_all(self.to_string().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed("write", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(failed("replace", &path))?;
        sync(dir)
    }
}

impl State {
    fn parse(text: &str) -> Option<Self> {
        match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["making"] => Some(Self::Making),
            ["open"] => Some(Self::Open),
            ["closed", length, crc] => Some(Self::Closed(Sum {
                length: length.parse().ok()?,
                crc: u32::from_str_radix(crc, 16).ok()?,
            })),
            _ => None,
        }
    }
}

impl Sum {
    /// Reads the whole file.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let (mut length, mut crc) = (0, crc32fast::Hasher::new());
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            crc.update(buffer.get(..read).unwrap_or_default());
            length += read as u64;
        }
        Ok(Self {
            length,
            crc: crc.finalize(),
        })
    }

    /// Cheaper than the checksum, and enough to tell that it differs.
    pub(super) fn has_length(&self, length: u64) -> bool {
        self.length == length
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tally, state } = self;
        let Tally {
            id,
            generation,
            entries,
        } = tally;
        let lines =
            format!("{TITLE}{FORMAT}\nid {id}\ngeneration {generation}\nentries {entries}\n{state}\n");
        let crc = crc32fast::hash(lines.as_bytes());
        writeln!(f, "{lines}crc32 {crc:08x}")
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Making => f.write_str("making"),
            Self::Open => f.write_str("open"),
            Self::Closed(Sum { length, crc }) => write!(f, "closed {length} {crc:08x}"),
        }
    }
}

/// The format that a marker's first line names.
fn format(text: &str) -> Option<u8> {
    text.lines().next()?.strip_prefix(TITLE)?.parse().ok()
}

/// Keeps the file, on the commit thread. That it cannot be written is no reason to stop: what is acknowledged is in
/// `db`, and what the file says stays true.
pub(super) struct Keeper {
    dir: PathBuf,
    tally: Tally,
    written: Instant,
    /// How old the file may get while groups are committed. A value, for tests.
    pub(super) refresh: Duration,
}

impl Keeper {
    /// Of a store that was opened with this tally.
    pub(super) fn start(dir: &Path, tally: Tally) -> Result<Self, OpenError> {
        let marker = Marker {
            tally,
            state: State::Open,
        };
        marker.write(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            tally,
            written: Instant::now(),
            refresh: REFRESH,
        })
    }

    /// What the store will say of itself after a group that added so many entries.
    pub(super) fn next(&self, added: i64) -> Tally {
        self.tally.next(added)
    }

    /// The group with this tally is durable.
    pub(super) fn advance(&mut self, tally: Tally) {
        self.tally = tally;
        if self.written.elapsed() >= self.refresh {
            self.written = Instant::now();
            self.write(State::Open);
        }
    }

    /// Nothing is written to `db` any more. Reads all of it once.
    pub(super) fn close(self) {
        match Sum::of(&self.dir.join(DB)) {
            Ok(sum) => self.write(State::Closed(sum)),
            Err(error) => tracing::warn!(%error, "the store was closed without its checksum"),
        }
    }

    fn write(&self, state: State) {
        let marker = Marker {
            tally: self.tally,
            state,
        };
        if let Err(error) = marker.write(&self.dir) {
            tracing::warn!(%error, "the store's marker was not written");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn marker(state: State) -> Marker {
        let tally = Tally {
            id: StoreId(*b"0123456789abcdef"),
            generation: 42,
            entries: 97,
        };
        Marker { tally, state }
    }

    fn states() -> [State; 3] {
        let sum = Sum {
            length: 8_388_608,
            crc: 0x00AB_CDEF,
        };
        [State::Making, State::Open, State::Closed(sum)]
    }

    #[test]
    fn what_is_written_is_read_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Marker::read(dir.path()).unwrap(), None);
        for state in states() {
            marker(state).write(dir.path()).unwrap();
            assert_eq!(Marker::read(dir.path()).unwrap(), Some(marker(state)));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_marker_of_which_any_bit_was_flipped_or_any_part_is_missing_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for state in states() {
            let bytes = marker(state).to_string().into_bytes();
            let flipped = (0..bytes.len() * 8).map(|bit| {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            });
            let cut = (0..bytes.len()).map(|length| bytes[..length].to_vec());
            for damaged in flipped.chain(cut) {
                fs::write(dir.path().join(FILE), &damaged).unwrap();
                let refused = Marker::read(dir.path());
                assert!(
                    matches!(refused, Err(OpenError::BadMarker(_) | OpenError::Newer { .. })),
                    "{refused:?} for {:?}",
                    String::from_utf8_lossy(&damaged)
                );
            }
        }
    }

    #[test]
    fn a_marker_of_a_later_release_is_refused_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "aerostack store 2\nwhatever\n").unwrap();
        let refused = Marker::read(dir.path());
        assert!(
            matches!(refused, Err(OpenError::Newer { found: 2, .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn a_tally_is_read_as_it_was_written_and_nothing_else_is() {
        let tally = marker(State::Open).tally;
        let bytes = tally.encode();
        assert_eq!(Tally::decode(&bytes), Some(tally));
        for length in 0..bytes.len() {
            assert_eq!(Tally::decode(&bytes[..length]), None);
        }
        assert_eq!(Tally::decode(&[bytes.as_slice(), &[0]].concat()), None);
    }
}
