use super::error::{JsonCause, SliceError};
use super::string::Scan;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NumberPart {
    Minus,
    Zero,
    Int,
    Point,
    Fraction,
    E,
    ExponentSign,
    Exponent,
}

impl NumberPart {
    /// Consumes bytes up to the end of the number. The byte after the number is not consumed.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<Scan, SliceError> {
        for (consumed, &byte) in bytes.iter().enumerate() {
            match self.after(byte) {
                Ok(Some(part)) => *self = part,
                Ok(None) => {
                    return Ok(Scan {
                        consumed,
                        ended: true,
                    });
                }
                Err(cause) => return Err(SliceError::new(consumed, cause)),
            }
        }
        Ok(Scan {
            consumed: bytes.len(),
            ended: false,
        })
    }

    /// Returns the part that `byte` belongs to, or `None` when the number has ended before `byte`.
    fn after(self, byte: u8) -> Result<Option<Self>, JsonCause> {
        match (self, byte) {
            (Self::Minus, b'0') => Ok(Some(Self::Zero)),
            (Self::Minus | Self::Int, b'0'..=b'9') => Ok(Some(Self::Int)),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Ok(Some(Self::Fraction)),
            (Self::E | Self::ExponentSign | Self::Exponent, b'0'..=b'9') => Ok(Some(Self::Exponent)),
            (Self::Zero | Self::Int, b'.') => Ok(Some(Self::Point)),
            (Self::Zero | Self::Int | Self::Fraction, b'e' | b'E') => Ok(Some(Self::E)),
            (Self::E, b'+' | b'-') => Ok(Some(Self::ExponentSign)),
            (Self::Zero, b'0'..=b'9') => Err(JsonCause::BadNumber),
            (Self::Zero | Self::Int | Self::Fraction | Self::Exponent, _) => Ok(None),
            (Self::Minus | Self::Point | Self::E | Self::ExponentSign, _) => Err(JsonCause::BadNumber),
        }
    }
}
