//! The messages of one segment of the log, and the gaps between them.

use super::{
    SEGMENT,
    frame::{self, Budget, Flip, MessageHeader, MessageKind},
};

pub(super) const SEGMENT_BYTES: u64 = SEGMENT as u64;
/// Length of a segment's header, in bytes. Every message repeats the segment number of the header, so the header is
/// used only for a segment without a message.
const SEGMENT_HEADER: usize = 20;
/// Upper bound of the number of bytes after the last message of a full segment.
const END: usize = frame::LONGEST_HEADER;
/// Length of the shortest message that changes an entry, in bytes.
pub(super) const SHORTEST: usize = 11;
/// Last offset in a segment at which a message can begin.
const LAST: usize = SEGMENT - END;

/// A message whose checksum matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Position of the message in the log's order.
    pub(super) lsn: u64,
    pub(super) kind: MessageKind,
    pub(super) page: u64,
    /// File offset at which the body begins, and the body's length.
    pub(super) at: u64,
    pub(super) length: usize,
}

/// A range of bytes between messages that forms no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// LSN at which the gap begins; 0 when unknown.
    pub(super) from: u64,
    /// LSN at which the gap ends; `u64::MAX` when unknown.
    pub(super) end: u64,
    pub(super) bytes: u64,
    /// Maximum number of messages that the gap can have held.
    pub(super) messages: u64,
}

/// The messages and the damage found in one segment.
#[derive(Default)]
pub(super) struct ScannedSegment {
    pub(super) frames: Vec<Frame>,
    pub(super) gaps: Vec<Gap>,
    /// File offsets of bytes with a flipped bit, and the bit's mask.
    pub(super) flips: Vec<(u64, u8)>,
    /// LSN at which the messages end, if the segment has room after them. Only the last segment may end so.
    pub(super) open_end: Option<u64>,
}

/// Reads the segment in `bytes`, which begins at `base` in the file.
pub(super) fn segment(bytes: &[u8], base: u64) -> ScannedSegment {
    let mut scan = SegmentScan {
        bytes,
        base,
        segment_number: segment_number_of_header(bytes),
        budget: Budget::of_segment(),
        found: ScannedSegment::default(),
    };
    let mut at = SEGMENT_HEADER;
    while let Some(next) = scan.step(at) {
        at = next;
    }
    scan.found
}

/// The scan of one segment. sled reuses a segment that holds no needed data, and the new messages have another segment
/// number. After a crash, messages of the earlier use may remain after those of the current use.
struct SegmentScan<'a> {
    bytes: &'a [u8],
    base: u64,
    /// Segment number of the preceding messages, or of the header.
    segment_number: Option<u64>,
    budget: Budget,
    found: ScannedSegment,
}

impl SegmentScan<'_> {
    /// Reads the bytes at `at`, and returns the offset at which the scan continues.
    fn step(&mut self, at: usize) -> Option<usize> {
        let rest = self
            .bytes
            .get(at..)
            .filter(|rest| !rest.is_empty() && at <= LAST)?;
        if let Some(header) = frame::whole(rest) {
            return self.message(at, &header);
        }
        if is_blank(rest) {
            self.found.open_end = self.segment_number.map(|number| lsn(number, at));
            return None;
        }
        if let Some((header, flip)) = self.corrected(rest) {
            let Flip { byte, mask } = flip;
            self.found.flips.push((self.place(at + byte), mask));
            return self.message(at, &header);
        }
        self.gap(at)
    }

    fn message(&mut self, at: usize, header: &MessageHeader) -> Option<usize> {
        self.segment_number = Some(header.segment);
        self.found.frames.push(Frame {
            lsn: lsn(header.segment, at),
            kind: header.kind,
            page: header.page,
            at: self.place(at + header.header),
            length: header.body,
        });
        (header.kind != MessageKind::Cap).then_some(at + header.len())
    }

    /// Corrects one flipped bit. The correction is accepted only when another message or the end of the segment
    /// follows, as it would after an undamaged message.
    fn corrected(&mut self, rest: &[u8]) -> Option<(MessageHeader, Flip)> {
        let (header, flip) = frame::corrected(rest, &mut self.budget)?;
        let behind = rest.get(header.len()..)?;
        let goes_on = frame::whole(behind).is_some_and(|next| next.segment == header.segment);
        let is_at_end = header.kind == MessageKind::Cap || behind.len() < END || is_blank(behind);
        let is_of_this_segment = self.segment_number.is_none_or(|number| number == header.segment);
        (is_of_this_segment && (goes_on || is_at_end)).then_some((header, flip))
    }

    /// Records a gap at `at`, and searches for the next message after it.
    fn gap(&mut self, at: usize) -> Option<usize> {
        let next = (at + 1..self.bytes.len().min(LAST + 1)).find_map(|next| self.message_at(next));
        let (before, (end, after)) = match next {
            Some((next, header)) => (self.segment_number, (next, Some(header.segment))),
            None => (self.segment_number, (self.written(), None)),
        };
        let numbers = [before, after].into_iter().flatten();
        self.found.gaps.push(Gap {
            from: before.map_or(0, |number| lsn(number, at)),
            end: numbers.max().map_or(u64::MAX, |number| lsn(number, end)),
            bytes: (end - at) as u64,
            messages: self.messages(at, end),
        });
        next.map(|(next, _)| next)
    }

    /// Returns the maximum number of messages in a gap: 1 when the gap begins with a header whose message has exactly
    /// the gap's length.
    fn messages(&self, at: usize, end: usize) -> u64 {
        let header = self.bytes.get(at..).and_then(MessageHeader::parse);
        let is_one = header
            .is_some_and(|header| self.segment_number == Some(header.segment) && at + header.len() == end);
        match is_one {
            true => 1,
            false => ((end - at) / SHORTEST + 1) as u64,
        }
    }

    /// Returns the message at `at` if it authenticates and its segment number is possible: up to that of the preceding
    /// messages.
    fn message_at(&mut self, at: usize) -> Option<(usize, MessageHeader)> {
        let rest = self.bytes.get(at..)?;
        let header = MessageHeader::parse(rest)?;
        // A segment's index in the file never exceeds its segment number, and earlier uses have lower numbers.
        let possible = self.base / SEGMENT_BYTES..=self.segment_number.unwrap_or(u64::MAX);
        let fills = header.kind != MessageKind::Cap || at + header.body + END == SEGMENT;
        (fills && possible.contains(&header.segment)).then(|| self.budget.spend(header.len()))??;
        header.authenticates(rest).then_some((at, header))
    }

    /// Returns the offset at which the segment's trailing zeros begin.
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

/// Returns the segment number of a segment's header if the header's checksum matches.
///
/// ```text
/// crc32 of what follows, inverted (4)  LSN xor 7F FF … (8)  highest stable LSN xor 7F FF … (8), little endian
/// ```
fn segment_number_of_header(bytes: &[u8]) -> Option<u64> {
    let (crc, rest) = bytes.get(..SEGMENT_HEADER)?.split_first_chunk()?;
    let (lsn, _) = rest.split_first_chunk()?;
    let lsn = u64::from_le_bytes(*lsn) ^ (u64::MAX >> 1);
    let adds_up = !crc32fast::hash(rest) == u32::from_le_bytes(*crc);
    (adds_up && lsn % SEGMENT_BYTES == 0).then_some(lsn / SEGMENT_BYTES)
}

const _: () = assert!(SEGMENT as u64 == SEGMENT_BYTES);
