//! The part of HPACK (RFC 7541) that finds the field lines that are never to be indexed.

use std::ops::Range;

use http::{HeaderName, header};

use super::huffman;

/// A field whose value is never to be indexed (section 6.2.3), and is Huffman-coded.
pub(super) struct Field<'b> {
    pub(super) name: Name<'b>,
    /// The range of the value's Huffman code in the block.
    pub(super) value: Range<usize>,
}

/// A field's name.
pub(super) enum Name<'b> {
    /// The name's index in the static and dynamic tables.
    Index(usize),
    /// The name's Huffman code.
    Code(&'b [u8]),
}

impl Name<'_> {
    pub(super) fn is(&self, name: &HeaderName) -> bool {
        match self {
            Self::Index(index) => static_index(name) == Some(*index),
            Self::Code(code) => huffman::encode(name.as_str().as_bytes()).is_some_and(|name| *name == *code),
        }
    }
}

/// Returns the index of a name that credentials go under in the static table (appendix A). h2 adds a name to its
/// dynamic table only when the name had a value that was not sensitive.
fn static_index(name: &HeaderName) -> Option<usize> {
    match *name {
        header::AUTHORIZATION => Some(23),
        header::COOKIE => Some(32),
        header::PROXY_AUTHORIZATION => Some(49),
        _ => None,
    }
}

/// Returns the never-indexed fields of a block, up to the block's end or to the first bytes that are not HPACK.
pub(super) fn sensitive_fields(block: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut block = Block { bytes: block, at: 0 };
    std::iter::from_fn(move || {
        loop {
            if let Some(field) = block.line()? {
                return Some(field);
            }
        }
    })
}

struct Block<'b> {
    bytes: &'b [u8],
    at: usize,
}

/// A string literal: true when the string is Huffman-coded, and the range of its bytes.
struct Text {
    coded: bool,
    range: Range<usize>,
}

impl<'b> Block<'b> {
    /// Reads a field line or a change of the table's size. Returns None at the end, and Some(None) for a line that is
    /// not a [`Field`].
    fn line(&mut self) -> Option<Option<Field<'b>>> {
        match *self.bytes.get(self.at)? {
            0x80.. => self.integer(7).map(|_| None),
            0x40..0x80 => self.literal(6).map(|_| None),
            0x20..0x40 => self.integer(5).map(|_| None),
            0x10..0x20 => self.literal(4),
            ..0x10 => self.literal(4).map(|_| None),
        }
    }

    /// Reads a literal field line (section 6.2). Returns Some(None) when the name or the value is not Huffman-coded.
    fn literal(&mut self, prefix: u32) -> Option<Option<Field<'b>>> {
        let name = match self.integer(prefix)? {
            0 => {
                let Text { coded, range } = self.text()?;
                coded.then_some(Name::Code(self.bytes.get(range)?))
            }
            index => Some(Name::Index(index)),
        };
        let Text { coded, range } = self.text()?;
        Some(name.filter(|_| coded).map(|name| Field { name, value: range }))
    }

    /// Reads a string literal (section 5.2).
    fn text(&mut self) -> Option<Text> {
        let coded = self.bytes.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let range = self.at..self.at.checked_add(length)?;
        self.bytes.get(range.clone())?;
        self.at = range.end;
        Some(Text { coded, range })
    }

    /// Reads an integer (section 5.1).
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
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    /// The integers of RFC 7541, appendix C.1.
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
            assert_eq!(Block { bytes, at: 0 }.integer(prefix), value, "{bytes:x?}");
        }
    }

    /// A cut block ends at the cut, and nothing panics.
    #[test]
    fn a_block_that_is_cut_has_the_fields_before_the_cut() {
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
            let names: Vec<_> = sensitive_fields(&block[..cut])
                .map(|field| (field.name.is(&header::AUTHORIZATION), field.value.end))
                .collect();
            let first = 5 + code(b"first").len();
            let expected = [(true, first), (false, block.len())];
            let whole = usize::from(cut >= first) + usize::from(cut == block.len());
            assert_eq!(names, expected[..whole], "{cut}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(block in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            for field in sensitive_fields(&block) {
                assert!(block.get(field.value).is_some());
            }
        }
    }
}
