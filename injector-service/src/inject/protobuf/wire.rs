//! Parses the wire format (<https://protobuf.dev/programming-guides/encoding/>), as far as needed to find fields.

use thiserror::Error;

use super::MAX_MESSAGE;

/// Deepest nesting of groups. protobuf's own parsers have the same limit.
const MAX_DEPTH: usize = 100;
const MAX_VARINT: usize = 10;

/// The reason why a message is refused. Never quotes the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    #[error("it has more than {MAX_MESSAGE} bytes")]
    TooLarge,
    #[error("it ends inside a field")]
    Truncated,
    #[error("a varint has more than {MAX_VARINT} bytes")]
    Varint,
    /// A tag with more than 32 bits, or with field number 0.
    #[error("a tag names no field")]
    Tag,
    #[error("a tag has an unknown wire type")]
    WireType,
    /// The end of a group that is not the innermost open group.
    #[error("a group ends that did not begin")]
    GroupEnd,
    #[error("groups are nested more than {MAX_DEPTH} deep")]
    TooDeep,
}

pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) bytes: &'a [u8],
}

/// Iterates over the top-level fields of a message, up to the first error.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<Field<'a>, WireError> {
        let start = self.rest;
        let tag = Tag::take(&mut self.rest)?;
        skip_value(&mut self.rest, tag)?;
        let (bytes, _) = start.split_at(start.len() - self.rest.len());
        Ok(Field {
            number: tag.number,
            bytes,
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[derive(Clone, Copy)]
struct Tag {
    number: u32,
    wire_type: WireType,
}

#[derive(Clone, Copy)]
enum WireType {
    Varint,
    Fixed64,
    Length,
    GroupBegins,
    GroupEnds,
    Fixed32,
}

impl Tag {
    fn take(rest: &mut &[u8]) -> Result<Self, WireError> {
        let tag = u32::try_from(take_varint(rest)?).map_err(|_| WireError::Tag)?;
        let wire_type = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Length,
            3 => WireType::GroupBegins,
            4 => WireType::GroupEnds,
            5 => WireType::Fixed32,
            _ => return Err(WireError::WireType),
        };
        match tag >> 3 {
            0 => Err(WireError::Tag),
            number => Ok(Self { number, wire_type }),
        }
    }
}

/// Reads a varint of up to ten bytes with all of its seventy bits. Some parsers drop bits of a varint that is too
/// large; here all bits count, so that such a varint is refused.
fn take_varint(rest: &mut &[u8]) -> Result<u128, WireError> {
    let mut value = 0;
    for (index, &byte) in rest.iter().take(MAX_VARINT).enumerate() {
        value |= u128::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *rest = rest.get(index + 1..).unwrap_or_default();
            return Ok(value);
        }
    }
    Err(if rest.len() < MAX_VARINT {
        WireError::Truncated
    } else {
        WireError::Varint
    })
}

fn skip(rest: &mut &[u8], count: u128) -> Result<(), WireError> {
    let count = usize::try_from(count).map_err(|_| WireError::Truncated)?;
    *rest = rest.get(count..).ok_or(WireError::Truncated)?;
    Ok(())
}

fn skip_value(rest: &mut &[u8], tag: Tag) -> Result<(), WireError> {
    match tag.wire_type {
        WireType::Varint => take_varint(rest).map(drop),
        WireType::Fixed64 => skip(rest, 8),
        WireType::Length => {
            let length = take_varint(rest)?;
            skip(rest, length)
        }
        WireType::GroupBegins => skip_group(rest, tag.number),
        WireType::GroupEnds => Err(WireError::GroupEnd),
        WireType::Fixed32 => skip(rest, 4),
    }
}

/// Skips the rest of the group `number`, with the groups inside it.
fn skip_group(rest: &mut &[u8], number: u32) -> Result<(), WireError> {
    let mut open = vec![number];
    while let Some(&innermost) = open.last() {
        let tag = Tag::take(rest)?;
        match tag.wire_type {
            WireType::GroupBegins if open.len() == MAX_DEPTH => return Err(WireError::TooDeep),
            WireType::GroupBegins => open.push(tag.number),
            WireType::GroupEnds if tag.number == innermost => drop(open.pop()),
            WireType::GroupEnds
            | WireType::Varint
            | WireType::Fixed64
            | WireType::Length
            | WireType::Fixed32 => skip_value(rest, tag)?,
        }
    }
    Ok(())
}
