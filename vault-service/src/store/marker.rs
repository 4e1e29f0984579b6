//! The store's own marker: a file of ours beside sled's that says what must be there.
//!
//! sled can open a damaged log as a smaller, older or empty store, and say nothing. So an entry that callers cannot
//! reach ([`KEY`]) holds the store's id, the number of groups committed so far and the number of entries. Each group's
//! batch writes it too, so it is as durable as the group and always exact. The file repeats it, and lists the files that
//! belong to the store:
//!
//! ```text
//! aerostack store 2                        the marker's format
//! id 0f3c…                                 16 random bytes, in hexadecimal
//! generation 42                            groups committed
//! entries 97                               entries, without the store's own
//! making | opening | open | closed         how the store was left
//! file db 8912896 90c1fa27                 a file that does not change in that state: name, length, CRC-32
//! entry 6d657461 0801…                     an entry of a closed store, in hexadecimal; without a value if it is absent
//! crc32 5e1d09ab                           of the lines above
//! ```
//!
//! It is replaced when the store is opened and closed, and about once a second while it commits: syncing it with each
//! group would cost as much again as the group. So while a store is open, its file is a lower bound.
//!
//! sled writes snapshots while it opens, and at no other time. So the marker is `opening` from before sled opens the
//! store until after: only a store that was killed in between may have a snapshot that its marker does not list.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    OpenError,
    files::{DB, failed, read_regular, sync},
    read,
};

/// Where the store describes itself. No caller's key is this one.
pub(super) const KEY: &[u8] = b"\0store";
/// The file's name.
pub(super) const FILE: &str = "marker";
/// What it is called until it is whole.
pub(super) const UNFINISHED: &str = "marker.new";
/// The format of the file.
const FORMAT: u8 = 2;
/// The format of the entry at [`KEY`].
const TALLY_FORMAT: u8 = 1;
/// How the file begins.
const TITLE: &str = "aerostack store ";
/// Bytes of a file that are read at once.
const READ: usize = 1024 * 1024;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) tally: Tally,
    pub(super) state: State,
    /// Files that do not change in this state, by name.
    pub(super) files: Files,
    /// Some entries of a closed store, to be read without opening it.
    pub(super) front: Front,
}

/// Files of a store, by name.
pub(super) type Files = BTreeMap<String, Sum>;

/// Keys, and the value that is at each, if any.
pub(super) type Front = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// How the store was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Being made: nothing in it was ever acknowledged.
    Making,
    /// Being opened by sled, which may replace the snapshot and clear the end of `db`.
    Opening,
    /// In use, or not closed; the tally is a lower bound.
    Open,
    /// Closed; the tally is exact, and the files are all that there were.
    Closed,
}

/// Length and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    length: u64,
    crc: u32,
}

impl StoreId {
    /// Parses an id from its displayed form.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self(u128::from_str_radix(text, 16).ok()?.to_be_bytes()))
    }
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
        let mut bytes = vec![TALLY_FORMAT];
        bytes.extend(self.id.0);
        bytes.extend(self.generation.to_be_bytes());
        bytes.extend(self.entries.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.strip_prefix(&[TALLY_FORMAT])?.split_first_chunk()?;
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
        let bytes = match read_regular(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let text = str::from_utf8(&bytes).unwrap_or_default();
        if let Some(found) = format(text).filter(|found| *found != FORMAT) {
            return Err(OpenError::OtherFormat {
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
            id: StoreId::parse(field("id ")?)?,
            generation: field("generation ")?.parse().ok()?,
            entries: field("entries ")?.parse().ok()?,
        };
        let state = State::parse(lines.next()?)?;
        let (mut files, mut front) = (Files::new(), Front::new());
        for line in lines {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["file", name, length, crc] => {
                    files.insert((*name).to_owned(), Sum::parse(length, crc)?);
                }
                ["entry", key] => {
                    front.insert(from_hex(key)?, None);
                }
                ["entry", key, value] => {
                    front.insert(from_hex(key)?, Some(from_hex(value)?));
                }
                // Other lines are the checksum, or invalid lines that the comparison below refuses.
                _ => {}
            }
        }
        let marker = Self {
            tally,
            state,
            files,
            front,
        };
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
        let states = [Self::Making, Self::Opening, Self::Open, Self::Closed];
        states.into_iter().find(|state| state.name() == text)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

impl Sum {
    /// Reads the whole file.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::and_search(path, &[])?.0)
    }

    /// Sums up the file, and also returns true when the file contains `wanted`.
    pub(super) fn and_search(path: &Path, wanted: &[u8]) -> io::Result<(Self, bool)> {
        let (mut crc, mut length, mut contains) = (crc32fast::Hasher::new(), 0, false);
        let overlap = wanted.len().saturating_sub(1);
        each_part(path, overlap, |before, part| {
            crc.update(part.get(before..).unwrap_or_default());
            length += (part.len() - before) as u64;
            contains = contains || memchr::memmem::find(part, wanted).is_some();
        })?;
        let sum = Self {
            length,
            crc: crc.finalize(),
        };
        Ok((sum, contains))
    }

    pub(super) fn has_length(&self, length: u64) -> bool {
        self.length == length
    }

    fn parse(length: &str, crc: &str) -> Option<Self> {
        Some(Self {
            length: length.parse().ok()?,
            crc: u32::from_str_radix(crc, 16).ok()?,
        })
    }
}

/// Returns the number of nonzero bytes of the file.
pub(super) fn written(path: &Path) -> io::Result<u64> {
    let mut written = 0;
    each_part(path, 0, |_, part| {
        written += part.iter().filter(|byte| **byte != 0).count() as u64;
    })?;
    Ok(written)
}

/// Reads the whole file, part by part. The last `overlap` bytes of a part are also the first bytes of the next. `see`
/// receives the number of bytes of the part that it has seen before, and the part.
fn each_part(path: &Path, overlap: usize, mut see: impl FnMut(usize, &[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; READ + overlap];
    let mut before = 0;
    loop {
        let read = match file.read(buffer.get_mut(before..).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = before + read;
        see(before, buffer.get(..end).unwrap_or_default());
        before = overlap.min(end);
        buffer.copy_within(end - before..end, 0);
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tally,
            state,
            files,
            front,
        } = self;
        let Tally {
            id,
            generation,
            entries,
        } = tally;
        let state = state.name();
        let mut lines =
            format!("{TITLE}{FORMAT}\nid {id}\ngeneration {generation}\nentries {entries}\n{state}\n");
        for (name, Sum { length, crc }) in files {
            writeln!(lines, "file {name} {length} {crc:08x}")?;
        }
        for (key, value) in front {
            let value = value
                .as_ref()
                .map_or(String::new(), |value| format!(" {}", hex(value)));
            writeln!(lines, "entry {}{value}", hex(key))?;
        }
        let crc = crc32fast::hash(lines.as_bytes());
        writeln!(f, "{lines}crc32 {crc:08x}")
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The format that a marker's first line names.
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

/// Keeps the file, on the commit thread. That it cannot be written is no reason to stop: what is acknowledged is in
/// `db`, and what the file says stays true.
pub(super) struct Keeper {
    dir: PathBuf,
    tally: Tally,
    /// The files that do not change while the store is open.
    files: Files,
    /// Keys whose entries the marker of the closed store repeats.
    front: &'static [&'static [u8]],
    written: Instant,
    /// How old the file may get while groups are committed. A value, for tests.
    pub(super) refresh: Duration,
}

impl Keeper {
    /// Starts the marker of a store that was opened with this tally and these files.
    pub(super) fn start(
        dir: &Path,
        tally: Tally,
        files: Files,
        front: &'static [&'static [u8]],
    ) -> Result<Self, OpenError> {
        let keeper = Self {
            dir: dir.to_owned(),
            tally,
            files,
            front,
            written: Instant::now(),
            refresh: REFRESH,
        };
        keeper.open_marker().write(dir)?;
        Ok(keeper)
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
            self.write(&self.open_marker());
        }
    }

    /// Nothing is written to `db` any more. Reads all of it once.
    pub(super) fn close(self, db: &sled::Db) {
        let sum = match Sum::of(&self.dir.join(DB)) {
            Ok(sum) => sum,
            Err(error) => {
                tracing::warn!(%error, "the store was closed without its checksum");
                return;
            }
        };
        let mut files = self.files.clone();
        files.insert(DB.to_owned(), sum);
        let front = self.front.iter().map(|key| {
            let value = read(db, key)?.map(|value| value.to_vec());
            Ok::<_, super::Fault>((key.to_vec(), value))
        });
        self.write(&Marker {
            tally: self.tally,
            state: State::Closed,
            files,
            // A marker without these entries makes the next start read a copy of the store, which is only slower.
            front: front.collect::<Result<_, _>>().unwrap_or_default(),
        });
    }

    fn open_marker(&self) -> Marker {
        Marker {
            tally: self.tally,
            state: State::Open,
            files: self.files.clone(),
            front: Front::new(),
        }
    }

    fn write(&self, marker: &Marker) {
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
        let sum = Sum {
            length: 8_388_608,
            crc: 0x00AB_CDEF,
        };
        let front = [
            (vec![1], None),
            (vec![2], Some(vec![])),
            (vec![3, 4], Some(vec![0xFF])),
        ];
        Marker {
            tally,
            state,
            files: Files::from([("conf".to_owned(), sum), ("db".to_owned(), sum)]),
            front: front.into(),
        }
    }

    fn states() -> [State; 4] {
        [State::Making, State::Opening, State::Open, State::Closed]
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
                    matches!(
                        refused,
                        Err(OpenError::BadMarker(_) | OpenError::OtherFormat { .. })
                    ),
                    "{refused:?} for {:?}",
                    String::from_utf8_lossy(&damaged)
                );
            }
        }
    }

    #[test]
    fn a_marker_of_another_format_is_refused_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        for other in [FORMAT - 1, FORMAT + 1] {
            fs::write(dir.path().join(FILE), format!("{TITLE}{other}\nwhatever\n")).unwrap();
            let refused = Marker::read(dir.path());
            assert!(
                matches!(refused, Err(OpenError::OtherFormat { found, .. }) if found == other),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn bytes_are_found_wherever_they_are_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let wanted = b"across the end of a part";
        for at in [0, READ - wanted.len(), READ - 3, READ, READ + 1, 2 * READ - 1] {
            let mut bytes = vec![0; 2 * READ + 100];
            bytes[at..at + wanted.len()].copy_from_slice(wanted);
            fs::write(&path, &bytes).unwrap();
            let (sum, found) = Sum::and_search(&path, wanted).unwrap();
            assert!(found, "{at}");
            assert_eq!(sum.length, bytes.len() as u64);
            assert_eq!(sum.crc, crc32fast::hash(&bytes));
            assert_eq!(Sum::of(&path).unwrap(), sum);
            assert_eq!(written(&path).unwrap(), wanted.len() as u64);
            assert!(!Sum::and_search(&path, b"elsewhere").unwrap().1);
        }
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
