//! Finds the end of a chunked body (RFC 9112, section 7.1), which arrives in pieces of any size.
//!
//! hyper decodes the body and refuses malformed chunks. After a malformed line, [`ChunkedBody`] only reports that it
//! has lost the end of the body.

/// The part of a chunked body that the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkedBody {
    /// The line before a chunk, with the size according to its digits so far. Digits after `digits` is false belong to
    /// an extension.
    Size {
        size: u64,
        digits: bool,
    },
    Data(u64),
    LineBreak,
    /// A line of the trailers, of which this number of bytes has arrived.
    Trailers(u64),
    End,
    Lost,
}

impl ChunkedBody {
    pub(super) fn new() -> Self {
        Self::Size {
            size: 0,
            digits: true,
        }
    }

    /// Consumes bytes up to the end of the body. Returns their number.
    pub(super) fn consume(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && !matches!(self, Self::End | Self::Lost) {
            let count = self.step(rest);
            rest = rest.get(count..).unwrap_or_default();
        }
        bytes.len() - rest.len()
    }

    fn step(&mut self, bytes: &[u8]) -> usize {
        if let Self::Data(left) = self {
            let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            *left -= count as u64;
            if *left == 0 {
                *self = Self::LineBreak;
            }
            return count;
        }
        if let Some(byte) = bytes.first() {
            *self = self.after(*byte);
        }
        1
    }

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size { size: 0, .. }, b'\n') => Self::Trailers(0),
            (Self::Size { size, .. }, b'\n') => Self::Data(size),
            (Self::Size { size, digits: true }, digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16).map_or(0, u64::from);
                let size = size.checked_mul(16).and_then(|size| size.checked_add(digit));
                size.map_or(Self::Lost, |size| Self::Size { size, digits: true })
            }
            (Self::Size { size, .. }, _) => Self::Size { size, digits: false },
            (Self::LineBreak, b'\r') => Self::LineBreak,
            (Self::LineBreak, b'\n') => Self::new(),
            (Self::LineBreak, _) => Self::Lost,
            (Self::Trailers(0), b'\r') => Self::Trailers(0),
            (Self::Trailers(0), b'\n') => Self::End,
            (Self::Trailers(_), b'\n') => Self::Trailers(0),
            (Self::Trailers(line), _) => Self::Trailers(line.saturating_add(1)),
            (Self::Data(_) | Self::End | Self::Lost, _) => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_body_is_found_in_pieces_of_any_size() {
        for body in [
            "0\r\n\r\n",
            "2\r\n{}\r\n0\r\n\r\n",
            "00a;x=\"y\"\r\n0123456789\r\n0;z\r\n\r\n",
            "1\r\n\n\r\n1\r\n\r\r\n0\r\nx: y\r\nz: a\r\n\r\n",
            "A \r\n\r\n0\r\n\r\n567\r\n0\r\n\r\n",
        ] {
            let bytes = [body.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
            for piece in 1..bytes.len() {
                let (mut chunked, mut at) = (ChunkedBody::new(), 0);
                while chunked != ChunkedBody::End {
                    assert_ne!(chunked, ChunkedBody::Lost, "{body:?}");
                    at += chunked.consume(&bytes[at..bytes.len().min(at + piece)]);
                }
                assert_eq!(at, body.len(), "{body:?} {piece}");
            }
        }
    }

    #[test]
    fn a_malformed_body_has_no_end() {
        for body in ["2\r\n{}x\r\n", "1\r\n{}\r\n", "fffffffffffffffff\r\n"] {
            let mut chunked = ChunkedBody::new();
            chunked.consume(body.as_bytes());
            assert_eq!(chunked, ChunkedBody::Lost, "{body:?}");
        }
    }
}
