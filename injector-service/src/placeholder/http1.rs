//! Finds the heads in the bytes that are written to an HTTP/1.1 connection (RFC 9112), in pieces of any size.
//!
//! hyper wrote these bytes, so every message is well-formed. After a malformed message, no bytes count as a head any
//! more: stand-ins are not replaced, and their calls fail.

use std::mem;

use super::{Found, PlaceholderTable};

/// Bytes of a line that are kept, enough for every line that tells a body's length.
const KEPT: usize = 48;

/// Follows the messages on one connection.
#[derive(Debug, Clone)]
pub(super) struct Messages {
    part: Part,
    line: Line,
}

/// The part of a message that comes next.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// A request line.
    Start,
    /// The fields of a head, with the body's framing that the fields so far tell.
    Fields(Body),
    /// The rest of a body of a known length, in bytes.
    Data(u64),
    /// The line before a chunk.
    ChunkSize,
    /// The rest of a chunk and of the line break after it, in bytes.
    Chunk(u64),
    Trailers,
    /// The parser cannot tell any more where a message begins.
    Lost,
}

/// The framing of a body.
#[derive(Debug, Clone, Copy)]
enum Body {
    Length(u64),
    Chunked,
}

impl Messages {
    pub(super) fn new() -> Self {
        Self {
            part: Part::Start,
            line: Line::default(),
        }
    }

    /// Takes some of the next bytes. Returns their number, and true when they belong to a head.
    pub(super) fn step(&mut self, bytes: &[u8]) -> (usize, bool) {
        let in_head = matches!(self.part, Part::Start | Part::Fields(_));
        let count = match &mut self.part {
            Part::Start | Part::Fields(_) | Part::ChunkSize | Part::Trailers => self.read_line(bytes),
            Part::Data(left) | Part::Chunk(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                self.end_data();
                count
            }
            Part::Lost => bytes.len(),
        };
        (count, in_head)
    }

    /// Returns true when a head has begun and has not ended.
    pub(super) fn is_within_head(&self) -> bool {
        match self.part {
            Part::Start => !self.line.is_empty(),
            Part::Fields(_) => true,
            Part::Data(_) | Part::ChunkSize | Part::Chunk(_) | Part::Trailers | Part::Lost => false,
        }
    }

    fn read_line(&mut self, bytes: &[u8]) -> usize {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.line.push(bytes);
            return bytes.len();
        };
        let line = bytes.get(..=end).unwrap_or_default();
        // Nearly every line arrives whole, and is not copied then.
        self.part = if self.line.is_empty() {
            self.part.after(without_line_break(line))
        } else {
            self.line.push(line);
            let line = mem::take(&mut self.line);
            self.part.after(line.text())
        };
        line.len()
    }

    fn end_data(&mut self) {
        match self.part {
            Part::Data(0) => self.part = Part::Start,
            Part::Chunk(0) => self.part = Part::ChunkSize,
            _ => {}
        }
    }
}

impl Part {
    /// Returns the part that follows `line`.
    fn after(self, line: &[u8]) -> Self {
        match (self, line) {
            (Self::Start, _) => Self::Fields(Body::Length(0)),
            (Self::Fields(Body::Length(0)) | Self::Trailers, []) => Self::Start,
            (Self::Fields(Body::Length(length)), []) => Self::Data(length),
            (Self::Fields(Body::Chunked), []) => Self::ChunkSize,
            (Self::Fields(body), field) => body.told_by(field).map_or(Self::Lost, Self::Fields),
            (Self::ChunkSize, size) => match chunk_size(size) {
                Some(0) => Self::Trailers,
                Some(size) => size.checked_add(2).map_or(Self::Lost, Self::Chunk),
                None => Self::Lost,
            },
            (Self::Trailers, _) => Self::Trailers,
            (Self::Data(_) | Self::Chunk(_) | Self::Lost, _) => Self::Lost,
        }
    }
}

impl Body {
    /// Returns the framing after `field`, which only some fields change. Returns None when `field` has an unknown
    /// framing.
    fn told_by(self, field: &[u8]) -> Option<Self> {
        if let Some(length) = field.strip_prefix(b"content-length: ") {
            return Some(Self::Length(str::from_utf8(length).ok()?.parse().ok()?));
        }
        match field.strip_prefix(b"transfer-encoding: ") {
            Some(b"chunked") => Some(Self::Chunked),
            Some(_) => None,
            None => Some(self),
        }
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?;
    u64::from_str_radix(str::from_utf8(size).ok()?, 16).ok()
}

/// The received part of a line, of which only the beginning is kept.
#[derive(Debug, Clone)]
struct Line {
    kept: [u8; KEPT],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            kept: [0; KEPT],
            length: 0,
        }
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.kept.iter_mut().skip(self.length);
        room.zip(bytes).for_each(|(kept, byte)| *kept = *byte);
        self.length += bytes.len();
    }

    /// Returns the beginning of the line, without the line break.
    fn text(&self) -> &[u8] {
        without_line_break(self.kept.get(..self.length).unwrap_or(&self.kept))
    }
}

fn without_line_break(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Finds the stand-ins in a head, each of which is the whole value of its own field.
pub(super) fn find(placeholders: &PlaceholderTable, head: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut end = 0;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        let Some((name, value)) = field(line) else {
            continue;
        };
        if let Some(hidden) = placeholders.take(value, |hidden| hidden.is_text(name, value)) {
            let value_end = end - b"\r\n".len();
            found.push(Found {
                range: value_end - value.len()..value_end,
                hidden,
            });
        }
    }
    found
}

/// Splits a field as hyper writes it. The part of a request line before its first colon has a space,
/// and so equals no name of a field.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"\r\n")?;
    let (name, rest) = line.split_at_checked(memchr::memchr(b':', line)?)?;
    Some((name, rest.strip_prefix(b": ")?))
}
