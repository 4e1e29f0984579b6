//! A reader of sled's log, for stores that sled cannot open, or opens without a part of their entries.
//!
//! sled stops at the first damaged message, and discards all later messages. This reader takes every message whose checksum
//! matches, wherever the message is, sorts the messages into the order in which they were written, and keeps the last state
//! of each key and some earlier values. The reader never writes, trusts no byte of the log, and needs memory for a fraction
//! of the log's size: for keys, and for the places of their values.
//!
//! The format is that of sled 0.34.7: see `pagecache/logger.rs`, `serialization.rs` and `node.rs` of its source.

mod frame;
mod gaps;
mod page;
mod replay;
mod scan;
#[cfg(test)]
mod tests;
mod value_location;
mod varint;

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt as _, path::Path};

pub(super) use gaps::Gaps;
pub(super) use replay::History;
use replay::{Replay, Survey};
use scan::{Frame, Gap, SEGMENT_BYTES, ScannedSegment};
pub(super) use value_location::ValueLocation;

use super::{Fault, engine::SEGMENT, error::StoreOpenError};

/// Size of the parts in which the reader reads a segment, so that a read error of the disk costs only one part.
const SECTOR: usize = 4096;

/// The log as far as it can be read.
pub(super) struct Log {
    file: File,
    /// Masks of flipped bits, by their place in the file.
    flips: BTreeMap<u64, u8>,
    live: BTreeMap<Vec<u8>, History>,
    deleted: BTreeMap<Vec<u8>, History>,
    gaps: Gaps,
    /// Number of bytes of the last write that are missing or unreadable.
    torn_bytes: u64,
    unnamed_changes: u64,
}

/// Treatment of a batch at the end of the log whose last messages are missing. The variants are the two possible causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnfinishedBatch {
    /// The batch was never acknowledged. The reader ignores it, as sled does.
    Ignore,
    /// The batch was acknowledged, and a part of it is lost. The reader reads its remaining messages.
    Read,
}

impl Log {
    /// Reads the log at `path`.
    pub(super) fn read(path: &Path, unfinished: UnfinishedBatch) -> Result<Self, StoreOpenError> {
        let file = File::open(path).map_err(StoreOpenError::files("open", path))?;
        let length = file
            .metadata()
            .map_err(StoreOpenError::files("read", path))?
            .len();
        let mut scanned = ScannedSegment::default();
        let mut open_ends = Vec::new();
        for base in (0..length).step_by(SEGMENT) {
            let ScannedSegment {
                frames,
                gaps,
                flips,
                open_end,
            } = scan::segment(&segment(&file, base, length), base);
            scanned.frames.extend(frames);
            scanned.gaps.extend(gaps);
            scanned.flips.extend(flips);
            open_ends.extend(open_end);
        }
        let ScannedSegment {
            mut frames,
            mut gaps,
            flips,
            open_end: _,
        } = scanned;
        frames.sort_by_key(|frame| frame.lsn);
        let tip = frames.last().map_or(0, |last| last.end());
        gaps.extend(cut_short(&open_ends, tip));
        let torn_bytes = take_torn(&mut gaps, tip);
        let mut log = Self {
            file,
            flips: flips.into_iter().collect(),
            live: BTreeMap::new(),
            deleted: BTreeMap::new(),
            gaps: Gaps::new(gaps),
            torn_bytes,
            unnamed_changes: 0,
        };
        log.replay(&frames, length, tip, unfinished);
        Ok(log)
    }

    /// Replays the messages. If the log has gaps, a second replay uses the tree at the end of the first one, which tells
    /// the ranges of pages whose own content is lost.
    fn replay(&mut self, frames: &[Frame], length: u64, tip: u64, unfinished: UnfinishedBatch) {
        let mut survey = Survey::of(frames, &self.gaps);
        let mut replay = self.replay_once(frames, length, tip, unfinished, &survey);
        if self.gaps.count() > 0 {
            survey.tree = replay.tree;
            replay = self.replay_once(frames, length, tip, unfinished, &survey);
        }
        if replay.batch_end >= tip {
            self.torn_bytes = self.torn_bytes.max(replay.batch_end - tip + 1);
        }
        self.unnamed_changes = replay.unnamed_changes();
        (self.live, self.deleted) = (replay.live, replay.deleted);
    }

    fn replay_once(
        &self,
        frames: &[Frame],
        length: u64,
        tip: u64,
        unfinished: UnfinishedBatch,
        survey: &Survey<'_>,
    ) -> Replay {
        let mut replay = Replay::default();
        let mut segment_at = (u64::MAX, Vec::new());
        for frame in frames {
            let base = frame.at / SEGMENT_BYTES * SEGMENT_BYTES;
            if segment_at.0 != base {
                segment_at = (base, self.corrected(base, segment(&self.file, base, length)));
            }
            let from = usize::try_from(frame.at - base).unwrap_or(usize::MAX);
            let body = segment_at.1.get(from..).and_then(|rest| rest.get(..frame.length));
            replay.apply(frame, body.unwrap_or_default(), survey);
            if replay.batch_end >= tip && unfinished == UnfinishedBatch::Ignore {
                break;
            }
        }
        replay
    }

    /// Returns the history of `key`; `None` when the log has no value or deletion of `key`.
    pub(super) fn history(&self, key: &[u8]) -> Option<&History> {
        self.live.get(key).or_else(|| self.deleted.get(key))
    }

    /// Returns the histories of the keys that have values.
    pub(super) fn live(&self) -> &BTreeMap<Vec<u8>, History> {
        &self.live
    }

    /// Returns the histories of the keys that had values.
    pub(super) fn deleted(&self) -> &BTreeMap<Vec<u8>, History> {
        &self.deleted
    }

    /// Reads the value at a location.
    pub(super) fn value(&self, value: &ValueLocation) -> Result<Vec<u8>, Fault> {
        let length = usize::try_from(value.length).unwrap_or(usize::MAX);
        if length > SEGMENT {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, value.at)?;
        let bytes = self.corrected(value.at, bytes);
        match crc32fast::hash(&bytes) == value.crc {
            true => Ok(bytes),
            false => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }

    fn corrected(&self, at: u64, mut bytes: Vec<u8>) -> Vec<u8> {
        for (place, mask) in self.flips.range(at..at.saturating_add(bytes.len() as u64)) {
            let byte = usize::try_from(place - at)
                .ok()
                .and_then(|byte| bytes.get_mut(byte));
            if let Some(byte) = byte {
                *byte ^= mask;
            }
        }
        bytes
    }

    pub(super) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    pub(super) fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    pub(super) fn unnamed_changes(&self) -> u64 {
        self.unnamed_changes
    }

    pub(super) fn corrected_messages(&self) -> u64 {
        self.flips.len() as u64
    }
}

impl Frame {
    /// Returns the LSN at which the message ends.
    fn end(&self) -> u64 {
        // The offsets of `at` and `lsn` in the segment differ by the length of the header.
        let header = (self.at % SEGMENT_BYTES).saturating_sub(self.lsn % SEGMENT_BYTES);
        self.lsn.saturating_add(header).saturating_add(self.length as u64)
    }
}

/// Reads the segment at `base` of a file with `length` bytes. Unreadable parts become zeros.
fn segment(file: &File, base: u64, length: u64) -> Vec<u8> {
    let length = usize::try_from(length.saturating_sub(base)).unwrap_or(SEGMENT);
    let mut bytes = vec![0; length.min(SEGMENT)];
    let mut filled = 0;
    for part in bytes.chunks_mut(SECTOR) {
        match read_at(file, part, base.saturating_add(filled)) {
            Ok(read) => {
                filled += read as u64;
                if read < part.len() {
                    break;
                }
            }
            Err(_unreadable) => filled += part.len() as u64,
        }
    }
    bytes.truncate(usize::try_from(filled).unwrap_or(SEGMENT));
    bytes
}

/// Fills `bytes`, or as much of it as the file has.
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Returns gaps for segments that end early: only the segment that is being written may end before it is full.
fn cut_short(open_ends: &[u64], tip: u64) -> Vec<Gap> {
    let of_last = tip / SEGMENT_BYTES;
    let early = open_ends.iter().filter(|end| **end / SEGMENT_BYTES != of_last);
    early
        .map(|from| {
            let end = (from / SEGMENT_BYTES + 1).saturating_mul(SEGMENT_BYTES);
            let (from, bytes) = (*from, end - from);
            let messages = bytes / scan::SHORTEST as u64 + 1;
            Gap {
                from,
                end,
                bytes,
                messages,
            }
        })
        .collect()
}

/// Removes the gap after the last message of the log, and returns its size in bytes. The gap is either a torn message
/// or left from an earlier use of the segment.
fn take_torn(gaps: &mut Vec<Gap>, tip: u64) -> u64 {
    let torn = gaps.iter().position(|gap| gap.from == tip);
    torn.map_or(0, |torn| gaps.swap_remove(torn).bytes)
}
