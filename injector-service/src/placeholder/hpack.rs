//! Reads HPACK blocks (RFC 7541), as far as needed to find the literal field lines that add nothing to the dynamic table.

use std::ops::Range;

use http::{HeaderName, header};

use super::huffman;

/// The index of `:path` in the static table (appendix A) that h2 uses for every path but `/` and `/index.html`.
const PATH_INDEX: usize = 4;
/// The bit in the first byte of a literal field that turns a field without indexing (section 6.2.2) into a field that is
/// never indexed (section 6.2.3).
pub(super) const NEVER_INDEXED: u8 = 0x10;

/// A literal field without indexing, or one that is never indexed, whose value is Huffman-coded. h2 writes every sensitive
/// field as never indexed, and the field `:path`, which it cannot mark as sensitive, as a field without indexing.
pub(super) struct HuffmanField<'b> {
    name: FieldName<'b>,
    is_never_indexed: bool,
    /// The position of the field's first byte in the block.
    pub(super) start: usize,
    /// The range of the value's code in the block.
    pub(super) value: Range<usize>,
}

enum FieldName<'b> {
    Index(usize),
    Huffman(&'b [u8]),
}

impl HuffmanField<'_> {
    /// Returns true for the field `:path`.
    pub(super) fn is_target(&self) -> bool {
        matches!(self.name, FieldName::Index(PATH_INDEX)) && !self.is_never_indexed
    }

    /// Returns true for a sensitive field with this name.
    pub(super) fn is_sensitive(&self, name: &HeaderName) -> bool {
        self.is_never_indexed && self.name.is(name)
    }
}

impl FieldName<'_> {
    fn is(&self, name: &HeaderName) -> bool {
        match self {
            Self::Index(index) => static_index(name) == Some(*index),
            Self::Huffman(code) => {
                huffman::encode(name.as_str().as_bytes()).is_some_and(|name| *name == *code)
            }
        }
    }
}

/// Returns the index of a credential's field name in the static table (appendix A). The dynamic table does not matter:
/// h2 adds a name to it only with a value that is not sensitive.
fn static_index(name: &HeaderName) -> Option<usize> {
    match *name {
        header::AUTHORIZATION => Some(23),
        header::COOKIE => Some(32),
        header::PROXY_AUTHORIZATION => Some(49),
        _ => None,
    }
}

/// Returns the fields of a block that add nothing to the dynamic table, up to the block's end or to the first bytes that
/// are not HPACK.
pub(super) fn unindexed_fields(block: &[u8]) -> impl Iterator<Item = HuffmanField<'_>> {
    let mut block = BlockReader { bytes: block, at: 0 };
    std::iter::from_fn(move || {
        loop {
            if let Some(field) = block.line()? {
                return Some(field);
            }
        }
    })
}

struct BlockReader<'b> {
    bytes: &'b [u8],
    at: usize,
}

/// A string literal (section 5.2).
struct StringLiteral {
    is_huffman: bool,
    range: Range<usize>,
}

impl<'b> BlockReader<'b> {
    /// Reads a field line or a dynamic table size update (section 6). Returns `None` at the end of the block, and
    /// `Some(None)` for anything but a [`HuffmanField`].
    fn line(&mut self) -> Option<Option<HuffmanField<'b>>> {
        match *self.bytes.get(self.at)? {
            0x80.. => self.integer(7).map(|_| None),
            0x40..0x80 => self.literal(6).map(|_| None),
            0x20..0x40 => self.integer(5).map(|_| None),
            ..0x20 => self.literal(4),
        }
    }

    /// Reads a literal field line (section 6.2). Returns `Some(None)` when the name or the value is not Huffman-coded.
    fn literal(&mut self, prefix: u32) -> Option<Option<HuffmanField<'b>>> {
        let start = self.at;
        let is_never_indexed = self.bytes.get(start)? & NEVER_INDEXED != 0;
        let name = match self.integer(prefix)? {
            0 => {
                let StringLiteral { is_huffman, range } = self.string()?;
                is_huffman.then_some(FieldName::Huffman(self.bytes.get(range)?))
            }
            index => Some(FieldName::Index(index)),
        };
        let StringLiteral { is_huffman, range } = self.string()?;
        Some(name.filter(|_| is_huffman).map(|name| HuffmanField {
            name,
            is_never_indexed,
            start,
            value: range,
        }))
    }

    fn string(&mut self) -> Option<StringLiteral> {
        let is_huffman = self.bytes.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let range = self.at..self.at.checked_add(length)?;
        self.bytes.get(range.clone())?;
        self.at = range.end;
        Some(StringLiteral { is_huffman, range })
    }

    /// Reads an integer whose first byte has `prefix` bits of it (section 5.1). Returns `None` when it exceeds `usize`.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let most = (1 << prefix) - 1;
        let mut value = usize::from(self.byte()?) & most;
        let mut shift = 0;
        while value >= most {
            let byte = self.byte()?;
            let bits = usize::from(byte & 0x7f).checked_mul(1_usize.checked_shl(shift)?)?;
            value = value.checked_add(bits)?;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
        Some(value)
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The integers are the examples of RFC 7541, appendix C.1.
    #[test]
    fn integers_are_read_as_the_standard_says() {
        for (bytes, prefix, value) in [
            (&[0x0a][..], 5, Some(10)),
            (&[0xea], 5, Some(10)),
            (&[0x1f, 0x9a, 0x0a], 5, Some(1337)),
            (&[0x2a], 8, Some(42)),
            (&[0x1f, 0x00], 5, Some(31)),
            (&[0x1f], 5, None),
            (&[0x1f, 0x80], 5, None),
            (&[], 5, None),
            (
                &[
                    0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
                ],
                5,
                None,
            ),
        ] {
            assert_eq!(BlockReader { bytes, at: 0 }.integer(prefix), value, "{bytes:x?}");
        }
    }

    #[test]
    fn a_truncated_block_has_the_fields_before_the_cut() {
        let code = |text: &[u8]| {
            let code = huffman::encode(text).unwrap();
            [&[0x80 | u8::try_from(code.len()).unwrap()][..], &code].concat()
        };
        let block = [
            &[0x82, 0x3f, 0x09, 0x1f, 0x08][..],
            &code(b"first"),
            &[0x10],
            &code(b"x-a"),
            &code(b"second"),
        ]
        .concat();
        for cut in 0..=block.len() {
            let names: Vec<_> = unindexed_fields(&block[..cut])
                .map(|field| (field.is_sensitive(&header::AUTHORIZATION), field.value.end))
                .collect();
            let first = 5 + code(b"first").len();
            let expected = [(true, first), (false, block.len())];
            let whole = usize::from(cut >= first) + usize::from(cut == block.len());
            assert_eq!(names, expected[..whole], "{cut}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(block in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            for field in unindexed_fields(&block) {
                assert!(block.get(field.value).is_some());
            }
        }
    }
}
