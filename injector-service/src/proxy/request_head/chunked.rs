//! Follows a chunked body (RFC 9112, section 7.1) to its end, in pieces of any size.
//!
//! hyper decodes the body, and refuses what is no chunk. After a line that is none, this only says that it does not know
//! any more where the body ends.

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunks {
    /// The line before a chunk: the size so far, and whether it still goes on.
    Size { size: u64, digits: bool },
    /// The rest of a chunk, in bytes.
    Data(u64),
    /// The line break behind a chunk.
    Break,
    /// The trailers: how many bytes of a line came so far.
    Trailers(u64),
    /// Nothing: the body has ended.
    End,
    /// Nobody knows.
    Lost,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self::Size {
            size: 0,
            digits: true,
        }
    }

    /// Takes bytes up to the end of the body. Returns their number.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && !matches!(self, Self::End | Self::Lost) {
            let count = self.step(rest);
            rest = rest.get(count..).unwrap_or_default();
        }
        bytes.len() - rest.len()
    }

    /// Takes some of the next bytes.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if let Self::Data(left) = self {
            let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            *left -= count as u64;
            if *left == 0 {
                *self = Self::Break;
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
            (Self::Break, b'\r') => Self::Break,
            (Self::Break, b'\n') => Self::new(),
            (Self::Break, _) => Self::Lost,
            (Self::Trailers(0), b'\r') => Self::Trailers(0),
            (Self::Trailers(0), b'\n') => Self::End,
            (Self::Trailers(_), b'\n') => Self::Trailers(0),
            (Self::Trailers(line), _) => Self::Trailers(line.saturating_add(1)),
            (Self::Data(_) | Self::End | Self::Lost, _) => Self::Lost,
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_it_ends_in_pieces_of_any_size() {
        for body in [
            "0\r\n\r\n",
            "2\r\n{}\r\n0\r\n\r\n",
            "00a;x=\"y\"\r\n0123456789\r\n0;z\r\n\r\n",
            "1\r\n\n\r\n1\r\n\r\r\n0\r\nx: y\r\nz: a\r\n\r\n",
            "A \r\n\r\n0\r\n\r\n567\r\n0\r\n\r\n",
        ] {
            let bytes = [body.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
            for piece in 1..bytes.len() {
                let (mut chunks, mut at) = (Chunks::new(), 0);
                while chunks != Chunks::End {
                    assert_ne!(chunks, Chunks::Lost, "{body:?}");
                    at += chunks.follow(&bytes[at..bytes.len().min(at + piece)]);
                }
                assert_eq!(at, body.len(), "{body:?} {piece}");
            }
        }
    }

    #[test]
    fn what_is_no_chunk_has_no_end() {
        for body in ["2\r\n{}x\r\n", "1\r\n{}\r\n", "fffffffffffffffff\r\n"] {
            let mut chunks = Chunks::new();
            chunks.follow(body.as_bytes());
            assert_eq!(chunks, Chunks::Lost, "{body:?}");
        }
    }
}
