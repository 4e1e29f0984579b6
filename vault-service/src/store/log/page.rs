//! The bodies of messages: a page, or one change of a page.
//!
//! A page has the entries from its low key up to its high key, which is empty for the last page. The keys in the page are
//! stored without the prefix that they share, which is the first bytes of the low key.
//!
//! ```text
//! node   next + 1 or 0 (varint)  merging child or 0 (varint)  merging (1)  length of the prefix (1)
//!        low key  high key  0 = leaf or 1 = index (1)  count (varint)  keys  values or page ids (varint)
//! link   0 = set (1)  key  value  |  1 = delete (1)  key  |  2 to 4 = merges of pages, which change no entry
//! ```
//!
//! The length of each key and value, as a varint, precedes its bytes.

use super::varint::{take, take_bytes};

/// The whole content of a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node<'a> {
    pub(super) low: &'a [u8],
    /// High key; empty when the page has no upper end.
    pub(super) high: &'a [u8],
    pub(super) prefix: &'a [u8],
    pub(super) data: Data<'a>,
}

/// The entries of a page. Keys are without the prefix of the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Data<'a> {
    /// Keys and values of the store's entries.
    Leaf(Vec<(&'a [u8], &'a [u8])>),
    /// Low keys and ids of the child pages.
    Index(Vec<(&'a [u8], u64)>),
}

/// One change of a page. The key is without the prefix of the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Link<'a> {
    Set(&'a [u8], &'a [u8]),
    Delete(&'a [u8]),
    /// A merge of pages, which changes no entry.
    Merge,
}

impl<'a> Node<'a> {
    pub(super) fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let (_next, _merging_child) = (take(bytes)?, take(bytes)?);
        let _merging = take_byte(bytes)?;
        let prefix = usize::from(take_byte(bytes)?);
        let (low, high) = (take_bytes(bytes)?, take_bytes(bytes)?);
        let is_index = take_byte(bytes)?;
        let count = take(bytes)?;
        // The code reserves no capacity, because damage may have changed `count`.
        let mut keys = Vec::new();
        for _ in 0..count {
            keys.push(take_bytes(bytes)?);
        }
        let keys = keys.into_iter();
        let data = match is_index {
            0 => Data::Leaf(
                keys.map(|key| Some((key, take_bytes(bytes)?)))
                    .collect::<Option<_>>()?,
            ),
            1 => Data::Index(keys.map(|key| Some((key, take(bytes)?))).collect::<Option<_>>()?),
            _ => return None,
        };
        bytes.is_empty().then_some(Self {
            low,
            high,
            prefix: low.get(..prefix)?,
            data,
        })
    }
}

impl<'a> Link<'a> {
    pub(super) fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        let bytes = &mut bytes;
        match take_byte(bytes)? {
            0 => Some(Self::Set(take_bytes(bytes)?, take_bytes(bytes)?)),
            1 => Some(Self::Delete(take_bytes(bytes)?)),
            2..=4 => Some(Self::Merge),
            _ => None,
        }
    }
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}
