//! Finds the heads of requests in the bytes that are written to an HTTP/2 connection (RFC 9113), in pieces of any size.

use super::{Found, PlaceholderTable, hpack};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The size of a frame's header (section 4.1).
const HEADER: usize = 9;
/// Types and flags of frames (sections 6.2 and 6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Follows the frames on one connection.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    /// Bytes of the connection preface that are still to come.
    preface: usize,
    /// The received part of the next frame's header.
    header: [u8; HEADER],
    come: usize,
    /// Bytes of the current frame's payload that are still to come.
    left: usize,
    /// True when the current frame carries a part of a request's head.
    in_head: bool,
    /// True when the head continues in the next frame.
    goes_on: bool,
    /// The newest stream that a head has opened. HEADERS on this stream or an older one are trailers.
    last: u32,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            preface: PREFACE.len(),
            header: [0; HEADER],
            come: 0,
            left: 0,
            in_head: false,
            goes_on: false,
            last: 0,
        }
    }

    /// Takes some of the next bytes. Returns their number, and true when they belong to a head.
    pub(super) fn step(&mut self, bytes: &[u8]) -> (usize, bool) {
        if self.preface > 0 {
            let count = self.preface.min(bytes.len());
            self.preface -= count;
            return (count, false);
        }
        if self.left > 0 {
            let count = self.left.min(bytes.len());
            self.left -= count;
            return (count, self.in_head);
        }
        let room = self.header.iter_mut().skip(self.come);
        let count = room.zip(bytes).map(|(come, byte)| *come = *byte).count();
        self.come += count;
        if self.come == HEADER {
            self.come = 0;
            self.begin();
        }
        (count, false)
    }

    /// Returns true when a head has begun and has not ended.
    pub(super) fn is_within_head(&self) -> bool {
        self.goes_on || self.in_head && self.left > 0
    }

    /// Interprets the header of a frame, which has come whole.
    fn begin(&mut self) {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.in_head = match kind {
            HEADERS if stream > self.last => {
                self.last = stream;
                // h2 writes neither padding nor priorities.
                flags & (PADDED | PRIORITY) == 0
            }
            CONTINUATION => self.goes_on,
            _ => false,
        };
        self.goes_on = self.in_head && flags & END_HEADERS == 0;
    }
}

/// Finds the stand-ins in a head, each of which is the whole value of its own field.
pub(super) fn find(placeholders: &PlaceholderTable, head: &[u8]) -> Vec<Found> {
    let fields = hpack::sensitive_fields(head);
    let found = fields.filter_map(|hpack::Field { name, value }| {
        let code = head.get(value.clone())?;
        let hidden = placeholders.take(code, |hidden| hidden.is_code(&name, code))?;
        Some(Found { range: value, hidden })
    });
    found.collect()
}
