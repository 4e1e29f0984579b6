//! One message of sled's log: a header, a body, and a CRC-32 over both.
//!
//! ```text
//! crc32 (4, little endian)  kind (1)  length of the body (varint)  segment number (varint)  page id (varint)  body
//! ```
//!
//! The segment number times the size of a segment, plus the offset within the segment, is the message's place in the
//! log's order (its LSN). So a message that authenticates tells its place without the header of its segment.
//!
//! The checksum covers `body || header[4..]`. It is linear over GF(2), and two single-bit errors in messages of less than
//! 2^32 - 1 bits never have the same syndrome. So one flipped bit is not only noticed, but found: see [`corrected`].

use super::{SEGMENT, varint};

/// No message begins in the last bytes of a segment.
pub(super) const LONGEST_HEADER: usize = 32;
const CRC: usize = 4;
/// Longer messages are never written: sled puts them into files of their own, for which our entries are too small.
const LONGEST_BODY: usize = SEGMENT / 4;
/// No log of ours has so many segments; larger numbers come from damage.
const LAST_SEGMENT: u64 = 1 << 32;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A write that was given up.
    Cancelled,
    /// Fills the rest of a segment.
    Cap,
    /// The LSN at which a batch ends that begins here.
    Batch,
    /// A page is no longer used.
    Free,
    /// All of a page.
    Node,
    /// One change of a page.
    Link,
    /// A page of sled's own, with none of our entries.
    Other,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Cancelled),
            2 => Some(Self::Cap),
            3 => Some(Self::Batch),
            4 => Some(Self::Free),
            5..=7 => Some(Self::Other),
            8 => Some(Self::Node),
            10 => Some(Self::Link),
            // 9 and 11 point to files outside the log.
            _ => None,
        }
    }

    fn longest(self) -> usize {
        match self {
            Self::Cap => SEGMENT,
            Self::Cancelled | Self::Batch | Self::Free | Self::Node | Self::Link | Self::Other => {
                LONGEST_BODY
            }
        }
    }
}

/// What a header says, before the checksum was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) segment: u64,
    pub(super) page: u64,
    crc: u32,
    /// Bytes of the header and of the body.
    pub(super) header: usize,
    pub(super) body: usize,
}

/// A bit that was flipped, counted from the message's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flip {
    pub(super) byte: usize,
    pub(super) mask: u8,
}

impl Header {
    /// The header that `bytes` begin with, if it can be one and its message fits into `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        Self::parse_start(bytes, bytes.len())
    }

    /// The same, of a message of which `start` has the header, and which has `available` bytes at most.
    fn parse_start(start: &[u8], available: usize) -> Option<Self> {
        let (crc, rest) = start.split_first_chunk::<CRC>()?;
        let (kind, mut rest) = rest.split_first()?;
        let kind = Kind::of(*kind)?;
        let body = usize::try_from(varint::take(&mut rest)?).ok()?;
        let segment = varint::take(&mut rest)?;
        let page = varint::take(&mut rest)?;
        let header = start.len() - rest.len();
        let fits = body <= kind.longest() && header + body <= available && segment <= LAST_SEGMENT;
        fits.then_some(Self {
            kind,
            segment,
            page,
            crc: u32::from_le_bytes(*crc),
            header,
            body,
        })
    }

    /// Bytes of the whole message.
    pub(super) fn len(&self) -> usize {
        self.header + self.body
    }

    /// The checksum of what `bytes` begin with, xor the one that the header gives: 0 for a message that is as it was.
    fn syndrome(&self, bytes: &[u8]) -> Option<u32> {
        let (header, body) = bytes.get(..self.len())?.split_at_checked(self.header)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(body);
        crc.update(header.get(CRC..)?);
        Some(!crc.finalize() ^ self.crc)
    }

    /// Whether the message that `bytes` begin with is as it was written.
    pub(super) fn authenticates(&self, bytes: &[u8]) -> bool {
        self.syndrome(bytes) == Some(0)
    }
}

/// Bytes that may still be hashed while a damaged segment is searched. Bytes made to look like the beginnings of long
/// messages could otherwise take hours.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn of_segment() -> Self {
        Self(64 * SEGMENT)
    }

    /// None when it is used up.
    pub(super) fn spend(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.checked_sub(bytes)?;
        Some(())
    }
}

/// The message that `bytes` begin with and that authenticates.
pub(super) fn whole(bytes: &[u8]) -> Option<Header> {
    Header::parse(bytes).filter(|header| header.authenticates(bytes))
}

/// The message that `bytes` begin with once one bit is flipped back, and which.
///
/// A message that is damaged otherwise is taken for one with a flipped bit with a probability of (its bits) / 2^32.
pub(super) fn corrected(bytes: &[u8], budget: &mut Budget) -> Option<(Header, Flip)> {
    in_body(bytes, budget).or_else(|| in_header(bytes, budget))
}

/// The header is as it was; the flipped bit is in the checksum or in the body.
fn in_body(bytes: &[u8], budget: &mut Budget) -> Option<(Header, Flip)> {
    let header = Header::parse(bytes)?;
    // Searching a byte for its flipped bit costs about as much as hashing thirty.
    budget.spend(header.len().saturating_mul(32))?;
    let syndrome = header.syndrome(bytes)?;
    if syndrome.is_power_of_two() {
        let bit = syndrome.trailing_zeros();
        let flip = Flip {
            byte: usize::try_from(bit / 8).ok()?,
            mask: 1 << (bit % 8),
        };
        return Some((header, flip));
    }
    // Bytes from the end of what is covered: first the header without its checksum, then the body.
    let (back, mask) = locate(syndrome, header.len() - CRC)?;
    let byte = back.checked_sub(header.header - CRC)?;
    let byte = header.len().checked_sub(byte + 1)?;
    Some((header, Flip { byte, mask }))
}

/// Any bit of the header may change how long it and the message are: each is tried.
fn in_header(bytes: &[u8], budget: &mut Budget) -> Option<(Header, Flip)> {
    let mut start = [0; LONGEST_HEADER];
    let length = bytes.len().min(LONGEST_HEADER);
    let (start, _) = start.split_at_mut_checked(length)?;
    start.copy_from_slice(bytes.get(..length)?);
    for byte in CRC..length {
        for bit in 0..8 {
            let flip = Flip { byte, mask: 1 << bit };
            *start.get_mut(byte)? ^= flip.mask;
            if let Some(header) = with_header(start, bytes, budget) {
                return Some((header, flip)).filter(|(header, flip)| flip.byte < header.header);
            }
            *start.get_mut(byte)? ^= flip.mask;
        }
    }
    None
}

/// The message, if it authenticates with the first bytes that `start` gives.
fn with_header(start: &[u8], bytes: &[u8], budget: &mut Budget) -> Option<Header> {
    let (_, rest) = bytes.split_at_checked(start.len())?;
    let short = Header::parse_start(start, bytes.len())?;
    budget.spend(short.body)?;
    let (header, of_body) = start.split_at_checked(short.header)?;
    let mut crc = crc32fast::Hasher::new();
    let first = of_body.get(..of_body.len().min(short.body))?;
    crc.update(first);
    crc.update(rest.get(..short.body - first.len())?);
    crc.update(header.get(CRC..)?);
    (!crc.finalize() == short.crc).then_some(short)
}

/// Which bit of a byte has this syndrome, and how many bytes from the end that byte is.
fn locate(syndrome: u32, covered: usize) -> Option<(usize, u8)> {
    // The syndromes of the eight bits of the last byte; one byte further from the end is eight zero bits more.
    let mut bits: [u32; 8] = std::array::from_fn(|bit| shifted(1 << bit));
    (0..covered).find_map(|back| {
        let found = bits.iter().position(|bit| *bit == syndrome);
        bits = bits.map(shifted);
        found.map(|bit| (back, 1 << bit))
    })
}

/// Eight zero bits more, in the reflected polynomial of CRC-32 (IEEE 802.3).
fn shifted(register: u32) -> u32 {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    (0..8).fold(register, |register, _| {
        let carry = (register & 1).wrapping_neg() & POLYNOMIAL;
        (register >> 1) ^ carry
    })
}
