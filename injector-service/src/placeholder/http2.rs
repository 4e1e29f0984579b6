//! Finds the heads of requests in the bytes that are written to an HTTP/2 connection (RFC 9113), in pieces of any size.

use super::{Occurrence, PlaceholderTable, hpack};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Size of a frame's header, types and flags (sections 4.1, 6.2 and 6.10).
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Finds the heads among the frames of one connection. `preface_left` and `payload_left` count missing bytes of the
/// connection preface and of the current frame.
#[derive(Debug, Clone)]
pub(super) struct FrameScanner {
    preface_left: usize,
    /// The next frame's header, of which the first `header_len` bytes were received.
    header: [u8; FRAME_HEADER],
    header_len: usize,
    payload_left: usize,
    /// True when the current frame carries a part of a request's head.
    in_head: bool,
    /// True when a CONTINUATION frame has to follow the current frame of a head.
    is_continued: bool,
    /// The highest stream that a head has opened. HEADERS on this stream or a lower one are trailers.
    last_stream: u32,
}

impl FrameScanner {
    pub(super) fn new() -> Self {
        Self {
            preface_left: PREFACE.len(),
            header: [0; FRAME_HEADER],
            header_len: 0,
            payload_left: 0,
            in_head: false,
            is_continued: false,
            last_stream: 0,
        }
    }

    /// Consumes some of `bytes`. Returns the number of consumed bytes, and true when they belong to a head.
    pub(super) fn step(&mut self, bytes: &[u8]) -> (usize, bool) {
        if self.preface_left > 0 {
            let count = self.preface_left.min(bytes.len());
            self.preface_left -= count;
            return (count, false);
        }
        if self.payload_left > 0 {
            let count = self.payload_left.min(bytes.len());
            self.payload_left -= count;
            return (count, self.in_head);
        }
        let room = self.header.iter_mut().skip(self.header_len);
        let count = room.zip(bytes).map(|(kept, byte)| *kept = *byte).count();
        self.header_len += count;
        if self.header_len == FRAME_HEADER {
            self.header_len = 0;
            self.begin_frame();
        }
        (count, false)
    }

    pub(super) fn is_within_head(&self) -> bool {
        self.is_continued || self.in_head && self.payload_left > 0
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.in_head = match kind {
            HEADERS if stream > self.last_stream => {
                self.last_stream = stream;
                // h2 writes neither padding nor priorities.
                flags & (PADDED | PRIORITY) == 0
            }
            CONTINUATION => self.is_continued,
            _ => false,
        };
        self.is_continued = self.in_head && flags & END_HEADERS == 0;
    }
}

/// Takes the placeholders in a head out of the table. Each is the whole value of its own field, which may be `:path`.
/// Also returns the position of each field's first byte.
pub(super) fn take_occurrences(table: &PlaceholderTable, head: &[u8]) -> Vec<(usize, Occurrence)> {
    let fields = hpack::unindexed_fields(head);
    let occurrences = fields.filter_map(|field| {
        let code = head.get(field.value.clone())?;
        let substitution = table.take(code, |found| found.matches_huffman(&field, code))?;
        let range = field.value;
        Some((field.start, Occurrence { range, substitution }))
    });
    occurrences.collect()
}
