//! Zstandard (RFC 8878), with a window of at most 8 MiB (RFC 9659, section 3).
//!
//! `ruzstd` decodes the blocks. On its own, it gives out a byte only when as many bytes as its window follow, which would
//! hold back an event stream. So this decoder tells `ruzstd` at the beginning of a frame that the frame has ended, and then
//! passes it block after block: `ruzstd` shows all that it keeps, and still uses it for the next block.
//! [`ZstdDecoder::shown_from`] reads this without taking it. The bytes that no later block refers to are taken now and then,
//! by [`ZstdDecoder::drop_old`].

use std::{
    hash::Hasher as _,
    io::{self, Read as _, Write},
    mem,
};

use bytes::Bytes;
use proto::Refusal;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use twox_hash::XxHash64;

use super::{
    decoded_body::{Decoder, malformed, no_memory, window_too_large},
    frame_header::FrameHeader,
};
use crate::proxy::{
    buffer_budget::{BufferBudget, Reservation},
    grpc::encoding::MAX_WINDOW,
};

/// The most bytes in one block, encoded or decoded.
const MAX_BLOCK: usize = 128 * 1024;
/// The most bytes that `ruzstd` writes before it rejects a block that stands for more than [`MAX_BLOCK`] bytes. Literals and
/// a match have up to 20 bits of length.
const MAX_BLOCK_OUTPUT: usize = 3 * 512 * 1024;
/// Memory for one block: its bytes in this decoder and in `ruzstd`, its literals, its sequences, and tables.
const BLOCK_MEMORY: usize = 1024 * 1024;
/// `ruzstd` keeps a power of two, and this much more.
const RING_SLACK: usize = 2 * MAX_BLOCK;
/// Decoded bytes are dropped when the next block could make them more than twice the window, or more than twice this if the
/// window is smaller. Dropping copies the window.
const SMALLEST_STEP: usize = 2 * 1024 * 1024;
/// An empty last block.
const END_OF_FRAME: [u8; 3] = [1, 0, 0];
/// The length of the digest at the end of a frame.
const DIGEST: usize = 4;

pub(super) struct ZstdDecoder {
    frame: FrameDecoder,
    /// The next part of the encoded bytes, as far as it was received.
    part: Vec<u8>,
    expected: Expected,
    window: usize,
    /// True when the digest of the decoded bytes follows the last block.
    has_digest: bool,
    digest: XxHash64,
    /// The most decoded bytes that `ruzstd` has kept in this frame. Its buffer grows with them, and does not shrink.
    most_kept: usize,
    /// The budget's bytes for the decoded bytes that are kept.
    kept: Reservation,
    _block_memory: Reservation,
}

/// The part that comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    FrameHeader,
    Block,
    Digest,
    /// The content of a frame that is skipped.
    Skipped(u32),
}

impl ZstdDecoder {
    pub(super) fn new(budget: &BufferBudget) -> Result<Self, Refusal> {
        let mut block_memory = budget.empty_reservation();
        block_memory.grow(BLOCK_MEMORY).map_err(|_| no_memory())?;
        Ok(Self {
            frame: FrameDecoder::new(),
            part: Vec::new(),
            expected: Expected::FrameHeader,
            window: 0,
            has_digest: false,
            digest: XxHash64::with_seed(0),
            most_kept: 0,
            kept: budget.empty_reservation(),
            _block_memory: block_memory,
        })
    }

    /// Returns the length of the next part, as far as its first bytes tell, and never less than these bytes.
    fn part_len(&self) -> Result<usize, Refusal> {
        match self.expected {
            Expected::FrameHeader => FrameHeader::len(&self.part).ok_or_else(malformed),
            Expected::Block => block_len(&self.part).ok_or_else(malformed),
            Expected::Digest => Ok(DIGEST),
            Expected::Skipped(_) => Ok(0),
        }
    }

    /// Returns true when the next part was received.
    fn receive(&mut self, input: &mut Bytes) -> Result<bool, Refusal> {
        loop {
            let missing = self.part_len()? - self.part.len();
            if missing == 0 {
                return Ok(true);
            }
            if input.is_empty() {
                return Ok(false);
            }
            self.part
                .extend_from_slice(&input.split_to(missing.min(input.len())));
        }
    }

    fn skip(&mut self, left: u32, input: &mut Bytes) {
        let skipped = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        drop(input.split_to(skipped));
        let left = left - u32::try_from(skipped).unwrap_or(left);
        self.expected = match left {
            0 => Expected::FrameHeader,
            left => Expected::Skipped(left),
        };
    }

    /// Decodes the part that was received.
    fn decode_part(&mut self) -> Result<Bytes, Refusal> {
        let part = mem::take(&mut self.part);
        let mut decoded = Bytes::new();
        self.expected = match self.expected {
            Expected::FrameHeader => match FrameHeader::parse(&part).ok_or_else(malformed)? {
                FrameHeader::Skippable { len: 0 } => Expected::FrameHeader,
                FrameHeader::Skippable { len } => Expected::Skipped(len),
                FrameHeader::Data { window, has_digest } => {
                    self.begin_frame(&part, window, has_digest)?;
                    Expected::Block
                }
            },
            Expected::Block => {
                decoded = self.decode_block(&part)?;
                match (is_last_block(&part), self.has_digest) {
                    (false, _) => Expected::Block,
                    (true, true) => Expected::Digest,
                    (true, false) => Expected::FrameHeader,
                }
            }
            Expected::Digest => {
                // The lower half of the hash, with its lowest byte first.
                if !self.digest.finish().to_le_bytes().starts_with(&part) {
                    return Err(malformed());
                }
                Expected::FrameHeader
            }
            same @ Expected::Skipped(_) => same,
        };
        // Keeps the allocation for the next part.
        self.part = part;
        self.part.clear();
        Ok(decoded)
    }

    fn begin_frame(&mut self, header: &[u8], window: u64, has_digest: bool) -> Result<(), Refusal> {
        if window > MAX_WINDOW {
            return Err(window_too_large());
        }
        self.window = usize::try_from(window).map_err(|_| window_too_large())?;
        self.has_digest = has_digest;
        self.digest = XxHash64::with_seed(0);
        // `FrameDecoder::reset` allocates the whole window when the decoder is used again.
        self.frame = FrameDecoder::new();
        self.frame.set_max_window_size(MAX_WINDOW);
        self.most_kept = 0;
        self.kept.shrink_to(0);
        self.frame.reset(header).map_err(|_| malformed())?;
        self.pass(&END_OF_FRAME[..])
    }

    /// Decodes one block, and returns the bytes that it stands for.
    fn decode_block(&mut self, block: &[u8]) -> Result<Bytes, Refusal> {
        if self.frame.can_collect() + MAX_BLOCK_OUTPUT > self.most_to_keep() {
            self.drop_old()?;
        }
        let before = self.frame.can_collect();
        let reserved = memory_to_keep(self.most_kept.max(before + MAX_BLOCK_OUTPUT));
        self.kept.grow_to(reserved).map_err(|_| no_memory())?;
        self.pass(block)?;
        self.most_kept = self.most_kept.max(self.frame.can_collect());
        self.kept.shrink_to(memory_to_keep(self.most_kept));
        let decoded = self.shown_from(before)?;
        if decoded.len() > MAX_BLOCK {
            return Err(malformed());
        }
        if self.has_digest {
            self.digest.write(&decoded);
        }
        Ok(decoded.into())
    }

    /// Has `ruzstd` decode a block. Behind a last block, it reads a digest, which this decoder compares itself.
    fn pass(&mut self, block: impl io::Read) -> Result<(), Refusal> {
        let block = block.chain(&[0; DIGEST][..]);
        let decoded = self
            .frame
            .decode_blocks(block, BlockDecodingStrategy::UptoBlocks(1));
        decoded.map(drop).map_err(|_| malformed())
    }

    /// Returns the decoded bytes from `start` on that `ruzstd` keeps, and leaves them there.
    fn shown_from(&mut self, start: usize) -> Result<Vec<u8>, Refusal> {
        let len = self.frame.can_collect().saturating_sub(start);
        let mut shown = ShownBytes {
            start,
            bytes: Vec::with_capacity(len),
        };
        self.frame
            .collect_to_writer(&mut shown)
            .map_err(|_| malformed())?;
        match shown.bytes.len() == len {
            true => Ok(shown.bytes),
            // `ruzstd` shows the bytes in one slice, because `drop_old` has it start at the beginning of its buffer again.
            false => Err(malformed()),
        }
    }

    /// Drops the decoded bytes before the window. `ruzstd` would keep the rest in two pieces, the second of which it does not
    /// show. So `drop_old` takes everything, and passes the window again as blocks that are not compressed.
    fn drop_old(&mut self) -> Result<(), Refusal> {
        let window = self.shown_from(self.frame.can_collect().saturating_sub(self.window))?;
        self.frame
            .collect_to_writer(io::sink())
            .map_err(|_| malformed())?;
        // `collect` starts at the beginning of the buffer when all bytes were taken.
        self.frame.collect();
        for bytes in window.chunks(MAX_BLOCK.min(self.window.max(1))) {
            self.pass(raw_block_header(bytes.len()).chain(bytes))?;
        }
        Ok(())
    }

    fn most_to_keep(&self) -> usize {
        2 * self.window.next_power_of_two().max(SMALLEST_STEP)
    }
}

/// Returns the memory that `ruzstd` needs to keep `len` decoded bytes.
fn memory_to_keep(len: usize) -> usize {
    let ring = (len.saturating_sub(RING_SLACK) + 1).next_power_of_two() + RING_SLACK + 1;
    // While the bytes move to a larger ring, the smaller one of at most half the size exists too. `drop_old` copies at
    // most as many.
    ring + ring / 2
}

impl Decoder for ZstdDecoder {
    fn decode(&mut self, input: &mut Bytes) -> Result<Bytes, Refusal> {
        if let Expected::Skipped(left) = self.expected {
            self.skip(left, input);
            return Ok(Bytes::new());
        }
        match self.receive(input)? {
            true => self.decode_part(),
            false => Ok(Bytes::new()),
        }
    }

    fn may_end(&self) -> bool {
        self.expected == Expected::FrameHeader && self.part.is_empty()
    }
}

/// Copies the bytes from `start` on, and takes none.
struct ShownBytes {
    start: usize,
    bytes: Vec<u8>,
}

impl Write for ShownBytes {
    fn write(&mut self, all: &[u8]) -> io::Result<usize> {
        self.bytes
            .extend_from_slice(all.get(self.start..).unwrap_or_default());
        Ok(0)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the length of a block whose beginning is `part` (RFC 8878, section 3.1.1.2), or `None` for a block that is not
/// allowed.
fn block_len(part: &[u8]) -> Option<usize> {
    let Some([first, second, third]) = part.first_chunk() else {
        return Some(3);
    };
    let header = u32::from_le_bytes([*first, *second, *third, 0]);
    let size = usize::try_from(header >> 3).ok()?;
    let content = match header >> 1 & 3 {
        RLE => 1,
        RAW | COMPRESSED => size,
        _ => return None,
    };
    (size <= MAX_BLOCK).then_some(3 + content)
}

const RAW: u32 = 0;
const RLE: u32 = 1;
const COMPRESSED: u32 = 2;

fn is_last_block(block: &[u8]) -> bool {
    block.first().is_some_and(|first| first & 1 == 1)
}

/// Returns the header of a block that is not compressed and not the last one.
fn raw_block_header(len: usize) -> io::Cursor<[u8; 3]> {
    let [first, second, third, ..] = (len << 3).to_le_bytes();
    io::Cursor::new([first, second, third])
}
