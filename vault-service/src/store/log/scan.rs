//! The messages of one segment of the log, and the gaps between them.

use super::{
    SEGMENT, SEGMENT_BYTES,
    frame::{self, Budget, Flip, Header, Kind},
};

/// A segment begins with a header of this length. It repeats what every message tells, so it is only asked where none does.
const SEGMENT_HEADER: usize = 20;
/// Behind the last message of a segment there are fewer bytes than this.
const END: usize = frame::LONGEST_HEADER;
/// No message that changes an entry is shorter.
pub(super) const SHORTEST: usize = 11;
/// No message begins behind this place.
const LAST: usize = SEGMENT - END;

/// A message that authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Its place in the log's order.
    pub(super) lsn: u64,
    pub(super) kind: Kind,
    pub(super) page: u64,
    /// Where its body begins in the file, and its length.
    pub(super) at: u64,
    pub(super) length: usize,
}

/// Bytes between messages that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// Where it begins in the log's order; 0 when that is not known.
    pub(super) from: u64,
    /// Where it ends; `u64::MAX` when that is not known.
    pub(super) end: u64,
    pub(super) bytes: u64,
    /// How many messages it can have been, at most.
    pub(super) messages: u64,
}

/// What was found in one segment.
#[derive(Default)]
pub(super) struct Scanned {
    pub(super) frames: Vec<Frame>,
    pub(super) gaps: Vec<Gap>,
    /// Places in the file where a bit was flipped.
    pub(super) flips: Vec<(u64, u8)>,
    /// Where in the log's order the messages end, if room is left behind them. Only the last segment may end so.
    pub(super) open_end: Option<u64>,
}

/// Reads the segment in `bytes`, which begins at `base` in the file.
pub(super) fn segment(bytes: &[u8], base: u64) -> Scanned {
    let mut scan = Scan {
        bytes,
        base,
        life: life_of_header(bytes),
        budget: Budget::of_segment(),
        found: Scanned::default(),
    };
    let mut at = SEGMENT_HEADER;
    while let Some(next) = scan.step(at) {
        at = next;
    }
    scan.found
}

/// A segment is used again once nothing in it is needed: its messages then have another segment number. After a crash the
/// rest of its last life may still lie behind those of the present one.
struct Scan<'a> {
    bytes: &'a [u8],
    base: u64,
    /// The segment number of the messages before, or the header's.
    life: Option<u64>,
    budget: Budget,
    found: Scanned,
}

impl Scan<'_> {
    /// Reads what begins at `at`, and says where to go on.
    fn step(&mut self, at: usize) -> Option<usize> {
        let rest = self
            .bytes
            .get(at..)
            .filter(|rest| !rest.is_empty() && at <= LAST)?;
        if let Some(header) = frame::whole(rest) {
            return self.message(at, &header);
        }
        if is_blank(rest) {
            self.found.open_end = self.life.map(|life| lsn(life, at));
            return None;
        }
        if let Some((header, flip)) = self.corrected(rest) {
            let Flip { byte, mask } = flip;
            self.found.flips.push((self.place(at + byte), mask));
            return self.message(at, &header);
        }
        self.gap(at)
    }

    fn message(&mut self, at: usize, header: &Header) -> Option<usize> {
        self.life = Some(header.segment);
        self.found.frames.push(Frame {
            lsn: lsn(header.segment, at),
            kind: header.kind,
            page: header.page,
            at: self.place(at + header.header),
            length: header.body,
        });
        (header.kind != Kind::Cap).then_some(at + header.len())
    }

    /// Only believed where a message follows, or nothing: where the log went on as if the bit had not been flipped.
    fn corrected(&mut self, rest: &[u8]) -> Option<(Header, Flip)> {
        let (header, flip) = frame::corrected(rest, &mut self.budget)?;
        let behind = rest.get(header.len()..)?;
        let goes_on = frame::whole(behind).is_some_and(|next| next.segment == header.segment);
        let is_at_end = header.kind == Kind::Cap || behind.len() < END || is_blank(behind);
        let is_of_this_life = self.life.is_none_or(|life| life == header.segment);
        (is_of_this_life && (goes_on || is_at_end)).then_some((header, flip))
    }

    /// Looks for the next message behind what is none.
    fn gap(&mut self, at: usize) -> Option<usize> {
        let next = (at + 1..self.bytes.len().min(LAST + 1)).find_map(|next| self.message_at(next));
        let (before, (end, after)) = match next {
            Some((next, header)) => (self.life, (next, Some(header.segment))),
            None => (self.life, (self.written(), None)),
        };
        let lives = [before, after].into_iter().flatten();
        self.found.gaps.push(Gap {
            from: before.map_or(0, |life| lsn(life, at)),
            end: lives.max().map_or(u64::MAX, |life| lsn(life, end)),
            bytes: (end - at) as u64,
            messages: self.messages(at, end),
        });
        next.map(|(next, _)| next)
    }

    /// A gap is one message if its header says so, to the byte.
    fn messages(&self, at: usize, end: usize) -> u64 {
        let header = self.bytes.get(at..).and_then(Header::parse);
        let is_one =
            header.is_some_and(|header| self.life == Some(header.segment) && at + header.len() == end);
        match is_one {
            true => 1,
            false => ((end - at) / SHORTEST + 1) as u64,
        }
    }

    /// A message there, with the segment number of those before or, where there are none, any that is possible.
    fn message_at(&mut self, at: usize) -> Option<(usize, Header)> {
        let rest = self.bytes.get(at..)?;
        let header = Header::parse(rest)?;
        // A segment's place in the file is never behind its place in the log's order, and its lives before are older.
        let lives = self.base / SEGMENT_BYTES..=self.life.unwrap_or(u64::MAX);
        let fills = header.kind != Kind::Cap || at + header.body + END == SEGMENT;
        (fills && lives.contains(&header.segment)).then(|| self.budget.spend(header.len()))??;
        header.authenticates(rest).then_some((at, header))
    }

    /// Where the zeros begin that end the segment.
    fn written(&self) -> usize {
        let last = self.bytes.iter().rposition(|byte| *byte != 0);
        last.map_or(0, |last| last + 1)
    }

    fn place(&self, at: usize) -> u64 {
        self.base.saturating_add(at as u64)
    }
}

fn lsn(segment: u64, at: usize) -> u64 {
    segment.saturating_mul(SEGMENT_BYTES).saturating_add(at as u64)
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The segment number that follows from a segment's header, if the header adds up.
///
/// ```text
/// crc32 of what follows, inverted (4)  LSN xor 7F FF … (8)  highest stable LSN xor 7F FF … (8), little endian
/// ```
fn life_of_header(bytes: &[u8]) -> Option<u64> {
    let (crc, rest) = bytes.get(..SEGMENT_HEADER)?.split_first_chunk()?;
    let (lsn, _) = rest.split_first_chunk()?;
    let lsn = u64::from_le_bytes(*lsn) ^ (u64::MAX >> 1);
    let adds_up = !crc32fast::hash(rest) == u32::from_le_bytes(*crc);
    (adds_up && lsn % SEGMENT_BYTES == 0).then_some(lsn / SEGMENT_BYTES)
}

const _: () = assert!(SEGMENT as u64 == SEGMENT_BYTES);
