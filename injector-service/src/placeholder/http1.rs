//! Finds the heads in the bytes that are written to an HTTP/1.1 connection (RFC 9112), in pieces of any size.
//!
//! hyper wrote these bytes, so every message is well-formed. After a malformed message no bytes count as a head any
//! more: placeholders are not replaced, and their calls fail.

use std::mem;

use super::{Occurrence, PlaceholderTable};

/// Number of bytes of a line that are kept, enough for every line that states the framing of a body.
const MAX_KEPT: usize = 48;

/// Finds the heads among the messages of one connection.
#[derive(Debug, Clone)]
pub(super) struct MessageScanner {
    part: MessagePart,
    line: PartialLine,
}

/// The part of a message that the next byte belongs to.
#[derive(Debug, Clone, Copy)]
enum MessagePart {
    RequestLine,
    /// The fields of a head, with the framing of the body according to the fields so far.
    Fields(BodyFraming),
    Data(u64),
    ChunkSize,
    /// The missing bytes of a chunk and of the line break after it.
    Chunk(u64),
    Trailers,
    Lost,
}

#[derive(Debug, Clone, Copy)]
enum BodyFraming {
    Length(u64),
    Chunked,
}

impl MessageScanner {
    pub(super) fn new() -> Self {
        Self {
            part: MessagePart::RequestLine,
            line: PartialLine::default(),
        }
    }

    /// Consumes some of `bytes`. Returns the number of consumed bytes, and true when they belong to a head.
    pub(super) fn step(&mut self, bytes: &[u8]) -> (usize, bool) {
        use MessagePart::{Chunk, ChunkSize, Data, Fields, Lost, RequestLine, Trailers};
        let in_head = matches!(self.part, RequestLine | Fields(_));
        let count = match &mut self.part {
            RequestLine | Fields(_) | ChunkSize | Trailers => self.read_line(bytes),
            Data(left) | Chunk(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                self.end_data();
                count
            }
            Lost => bytes.len(),
        };
        (count, in_head)
    }

    pub(super) fn is_within_head(&self) -> bool {
        match self.part {
            MessagePart::RequestLine => !self.line.is_empty(),
            MessagePart::Fields(_) => true,
            MessagePart::Data(_)
            | MessagePart::ChunkSize
            | MessagePart::Chunk(_)
            | MessagePart::Trailers
            | MessagePart::Lost => false,
        }
    }

    fn read_line(&mut self, bytes: &[u8]) -> usize {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.line.push(bytes);
            return bytes.len();
        };
        let line = bytes.get(..=end).unwrap_or_default();
        // Nearly every line arrives whole, and needs no copy then.
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
            MessagePart::Data(0) => self.part = MessagePart::RequestLine,
            MessagePart::Chunk(0) => self.part = MessagePart::ChunkSize,
            _ => {}
        }
    }
}

impl MessagePart {
    fn after(self, line: &[u8]) -> Self {
        match (self, line) {
            (Self::RequestLine, _) => Self::Fields(BodyFraming::Length(0)),
            (Self::Fields(BodyFraming::Length(0)) | Self::Trailers, []) => Self::RequestLine,
            (Self::Fields(BodyFraming::Length(length)), []) => Self::Data(length),
            (Self::Fields(BodyFraming::Chunked), []) => Self::ChunkSize,
            (Self::Fields(framing), field) => framing.after(field).map_or(Self::Lost, Self::Fields),
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

impl BodyFraming {
    /// Returns the framing after `field`, which most fields do not change, or `None` when the framing is unknown.
    fn after(self, field: &[u8]) -> Option<Self> {
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

/// A line whose end has not arrived. Only its first [`MAX_KEPT`] bytes are kept.
#[derive(Debug, Clone)]
struct PartialLine {
    kept: [u8; MAX_KEPT],
    length: usize,
}

impl Default for PartialLine {
    fn default() -> Self {
        Self {
            kept: [0; MAX_KEPT],
            length: 0,
        }
    }
}

impl PartialLine {
    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.kept.iter_mut().skip(self.length);
        room.zip(bytes).for_each(|(kept, byte)| *kept = *byte);
        self.length += bytes.len();
    }

    fn text(&self) -> &[u8] {
        without_line_break(self.kept.get(..self.length).unwrap_or(&self.kept))
    }
}

fn without_line_break(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Takes the placeholders in a head out of the table. Each is the target, or the whole value of its own field.
pub(super) fn take_occurrences(table: &PlaceholderTable, head: &[u8]) -> Vec<Occurrence> {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n');
    let request_line = lines.next().unwrap_or_default();
    let mut occurrences = Vec::new();
    if let Some((method, target)) = method_and_target(request_line)
        && let Some(substitution) = table.take(target, |found| found.matches_plain_target(target))
    {
        let start = method.len() + b" ".len();
        occurrences.push(Occurrence {
            range: start..start + target.len(),
            substitution,
        });
    }
    let mut end = request_line.len();
    for line in lines {
        end += line.len();
        let Some((name, value)) = field(line) else {
            continue;
        };
        if let Some(substitution) = table.take(value, |found| found.matches_plain_field(name, value)) {
            let value_end = end - b"\r\n".len();
            occurrences.push(Occurrence {
                range: value_end - value.len()..value_end,
                substitution,
            });
        }
    }
    occurrences
}

/// Splits a request line as hyper writes it: `GET /path HTTP/1.1`.
fn method_and_target(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b" HTTP/1.1\r\n")?;
    let (method, rest) = line.split_at_checked(memchr::memchr(b' ', line)?)?;
    Some((method, rest.strip_prefix(b" ")?))
}

/// Splits a field as hyper writes it.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"\r\n")?;
    let (name, rest) = line.split_at_checked(memchr::memchr(b':', line)?)?;
    Some((name, rest.strip_prefix(b": ")?))
}
