//! One message of sled's log: a header, a body, and a CRC-32 over both.
//!
//! ```text
//! crc32 (4, little endian)  kind (1)  length of the body (varint)  segment number (varint)  page id (varint)  body
//! ```
//!
//! The segment number times the size of a segment, plus the offset within the segment, is the message's log sequence
//! number (LSN), its position in the order of the log. So an intact message gives its LSN without the segment's header.
//!
//! The checksum covers `body || header[4..]`. It is linear over GF(2), and two single-bit errors in messages of less than
//! 2^32 - 1 bits never have the same syndrome. So one flipped bit can be located and corrected: see [`corrected`].

use super::{SEGMENT, varint};

/// Length of the longest header, in bytes. No message begins in the last `LONGEST_HEADER` bytes of a segment.
pub(super) const LONGEST_HEADER: usize = 32;
const CRC: usize = 4;
/// Length of the longest body, in bytes. sled puts larger bodies into separate files, but the vault's entries are too
/// small for that.
const LONGEST_BODY: usize = SEGMENT / 4;
/// Upper bound of valid segment numbers. No log of a vault has so many segments, so larger numbers come from damage.
const LAST_SEGMENT: u64 = 1 << 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageKind {
    /// A write that sled cancelled.
    Cancelled,
    /// Padding that fills the rest of a segment.
    Cap,
    /// The begin of a batch; the body is the LSN at which the batch ends.
    Batch,
    /// The release of a page that is no longer used.
    Free,
    /// The whole content of a page.
    Node,
    /// One change of a page.
    Link,
    /// A page that sled uses for itself, with none of the vault's entries.
    Other,
}

impl MessageKind {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Cancelled),
            2 => Some(Self::Cap),
            3 => Some(Self::Batch),
            4 => Some(Self::Free),
            5..=7 => Some(Self::Other),
            8 => Some(Self::Node),
            10 => Some(Self::Link),
            // Kinds 9 and 11 refer to files outside the log.
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

/// The fields of a header. They are not trustworthy before [`MessageHeader::authenticates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageHeader {
    pub(super) kind: MessageKind,
    pub(super) segment: u64,
    pub(super) page: u64,
    crc: u32,
    /// Lengths of the header and of the body, in bytes.
    pub(super) header: usize,
    pub(super) body: usize,
}

/// A bit that was flipped, counted from the message's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flip {
    pub(super) byte: usize,
    pub(super) mask: u8,
}

impl MessageHeader {
    /// Parses the header at the start of `bytes`. Returns `None` when the header is invalid or its message does not fit
    /// into `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        Self::parse_start(bytes, bytes.len())
    }

    /// Parses the header in `start` of a message that may have at most `available` bytes.
    fn parse_start(start: &[u8], available: usize) -> Option<Self> {
        let (crc, rest) = start.split_first_chunk::<CRC>()?;
        let (kind, mut rest) = rest.split_first()?;
        let kind = MessageKind::of(*kind)?;
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

    /// Returns the length of the whole message, in bytes.
    pub(super) fn len(&self) -> usize {
        self.header + self.body
    }

    /// Returns the checksum of the message at the start of `bytes`, xor the checksum in the header: 0 for an intact
    /// message.
    fn syndrome(&self, bytes: &[u8]) -> Option<u32> {
        let (header, body) = bytes.get(..self.len())?.split_at_checked(self.header)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(body);
        crc.update(header.get(CRC..)?);
        Some(!crc.finalize() ^ self.crc)
    }

    /// Returns true when the message at the start of `bytes` is intact.
    pub(super) fn authenticates(&self, bytes: &[u8]) -> bool {
        self.syndrome(bytes) == Some(0)
    }
}

/// Number of bytes that may still be hashed during the search of a damaged segment. Without a bound, bytes crafted to
/// look like the beginnings of long messages could take hours.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn of_segment() -> Self {
        Self(64 * SEGMENT)
    }

    /// Takes `bytes` out of the budget. Returns `None` when the budget is used up.
    pub(super) fn spend(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.checked_sub(bytes)?;
        Some(())
    }
}

/// Returns the header of the message at the start of `bytes` if the message authenticates.
pub(super) fn whole(bytes: &[u8]) -> Option<MessageHeader> {
    MessageHeader::parse(bytes).filter(|header| header.authenticates(bytes))
}

/// Finds one flipped bit of the message at the start of `bytes`, such that the corrected message authenticates.
///
/// Another kind of damage looks like one flipped bit with a probability of (bits of the message) / 2^32.
pub(super) fn corrected(bytes: &[u8], budget: &mut Budget) -> Option<(MessageHeader, Flip)> {
    in_body(bytes, budget).or_else(|| in_header(bytes, budget))
}

/// Finds a flipped bit in the checksum or in the body of a message whose header is intact.
fn in_body(bytes: &[u8], budget: &mut Budget) -> Option<(MessageHeader, Flip)> {
    let header = MessageHeader::parse(bytes)?;
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
    // `locate` counts bytes from the end of the covered bytes, which are the body and then the header without its
    // checksum. So the count reaches the header first.
    let (back, mask) = locate(syndrome, header.len() - CRC)?;
    let byte = back.checked_sub(header.header - CRC)?;
    let byte = header.len().checked_sub(byte + 1)?;
    Some((header, Flip { byte, mask }))
}

/// Finds a flipped bit in the header by trying each bit, since any of them may change the lengths of the header and the
/// message.
fn in_header(bytes: &[u8], budget: &mut Budget) -> Option<(MessageHeader, Flip)> {
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

/// Returns the header of the message in `bytes` if the message authenticates with its first bytes replaced by `start`.
fn with_header(start: &[u8], bytes: &[u8], budget: &mut Budget) -> Option<MessageHeader> {
    let (_, rest) = bytes.split_at_checked(start.len())?;
    let short = MessageHeader::parse_start(start, bytes.len())?;
    budget.spend(short.body)?;
    let (header, of_body) = start.split_at_checked(short.header)?;
    let mut crc = crc32fast::Hasher::new();
    let first = of_body.get(..of_body.len().min(short.body))?;
    crc.update(first);
    crc.update(rest.get(..short.body - first.len())?);
    crc.update(header.get(CRC..)?);
    (!crc.finalize() == short.crc).then_some(short)
}

/// Returns the bytes from the end and the mask of the bit whose flip causes this syndrome.
fn locate(syndrome: u32, covered: usize) -> Option<(usize, u8)> {
    // The syndromes of the eight bits of the last byte; one byte further from the end is eight zero bits more.
    let mut bits: [u32; 8] = std::array::from_fn(|bit| shifted(1 << bit));
    (0..covered).find_map(|back| {
        let found = bits.iter().position(|bit| *bit == syndrome);
        bits = bits.map(shifted);
        found.map(|bit| (back, 1 << bit))
    })
}

/// Advances a CRC register by eight zero bits, in the reflected polynomial of CRC-32 (IEEE 802.3).
fn shifted(register: u32) -> u32 {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    (0..8).fold(register, |register, _| {
        let carry = (register & 1).wrapping_neg() & POLYNOMIAL;
        (register >> 1) ^ carry
    })
}
