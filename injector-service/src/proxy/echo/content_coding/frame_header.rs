//! The header of a frame of Zstandard (RFC 8878, sections 3.1.1.1 and 3.1.2).

const MAGIC_NUMBER: u32 = 0xfd2f_b528;
/// The last four bits of the magic number of a frame to skip are arbitrary.
const SKIPPABLE: u32 = 0x184d_2a50;
const SINGLE_SEGMENT: u8 = 0x20;
const HAS_DIGEST: u8 = 4;
/// The bytes of the magic number and the descriptor.
const BEGINNING: usize = 5;

pub(super) enum FrameHeader {
    Skippable {
        /// The number of bytes after the header.
        len: u32,
    },
    Data {
        window: u64,
        has_digest: bool,
    },
}

impl FrameHeader {
    /// Returns the length of the header whose beginning is `part`, as far as `part` tells. Returns `None` when `part` is
    /// no header.
    pub(super) fn len(part: &[u8]) -> Option<usize> {
        let [magic @ .., descriptor] = part
            .first_chunk::<BEGINNING>()
            .map_or([0; BEGINNING], |first| *first);
        if part.len() < BEGINNING {
            return Some(BEGINNING);
        }
        match u32::from_le_bytes(magic) {
            MAGIC_NUMBER => {
                let window = usize::from(descriptor & SINGLE_SEGMENT == 0);
                Some(BEGINNING + window + dictionary_len(descriptor) + content_size_len(descriptor))
            }
            magic if magic & !0xf == SKIPPABLE => Some(8),
            _ => None,
        }
    }

    /// Parses a header of the length that [`FrameHeader::len`] returns.
    pub(super) fn parse(header: &[u8]) -> Option<Self> {
        let (magic, rest) = header.split_first_chunk()?;
        match u32::from_le_bytes(*magic) {
            MAGIC_NUMBER => {
                let (descriptor, rest) = rest.split_first()?;
                Some(Self::Data {
                    window: window(*descriptor, rest)?,
                    has_digest: descriptor & HAS_DIGEST != 0,
                })
            }
            _ => Some(Self::Skippable {
                len: u32::from_le_bytes(*rest.first_chunk()?),
            }),
        }
    }
}

/// Returns the size of the window. `rest` follows the descriptor.
fn window(descriptor: u8, rest: &[u8]) -> Option<u64> {
    if descriptor & SINGLE_SEGMENT == 0 {
        let window = rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    let size = rest.get(dictionary_len(descriptor)..)?;
    let mut number = [0; 8];
    number.iter_mut().zip(size).for_each(|(to, from)| *to = *from);
    let offset = if size.len() == 2 { 256 } else { 0 };
    Some(u64::from_le_bytes(number).saturating_add(offset))
}

fn dictionary_len(descriptor: u8) -> usize {
    match descriptor & 3 {
        0 => 0,
        1 => 1,
        2 => 2,
        _ => 4,
    }
}

fn content_size_len(descriptor: u8) -> usize {
    match descriptor >> 6 {
        0 => usize::from(descriptor & SINGLE_SEGMENT != 0),
        1 => 2,
        2 => 4,
        _ => 8,
    }
}
