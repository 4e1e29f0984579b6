//! Reads of sled's entries, without the store's checkpoint and without regard to durability.

use std::ops::{Bound, RangeBounds};

use sled::IVec;

use super::{Entry, Fault, checkpoint::CHECKPOINT_KEY, engine::caught};

/// Bounds of keys.
pub(super) type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The first entries of a range, in key order.
pub(super) struct Chunk {
    pub(super) entries: Vec<(IVec, IVec)>,
    /// Last key of `entries` if the range may have more entries after it.
    pub(super) rest: Option<IVec>,
}

/// Reads the value at `key`, which may also be the checkpoint's.
pub(super) fn read(db: &sled::Db, key: &[u8]) -> Result<Option<IVec>, Fault> {
    caught(|| db.get(key))
}

/// Reads up to `limit` entries whose keys start with `prefix`, after the full key `after` if given.
pub(super) fn scan(
    db: &sled::Db,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Entry>, Fault> {
    let end = prefix_end(prefix);
    let range: KeyRange<'_> = (scan_start(prefix, after), end.as_ref().map(AsRef::as_ref));
    let Chunk { entries, rest: _ } = chunk(db, range, limit, usize::MAX)?;
    Ok(entries.into_iter().map(Entry::from).collect())
}

/// Reads the start of a range: up to `limit` entries, and no entry after the one that reaches `bytes`.
pub(super) fn chunk(db: &sled::Db, range: KeyRange<'_>, limit: usize, bytes: usize) -> Result<Chunk, Fault> {
    let mut left = bytes;
    // After a damaged page sled's iterator repeats its error for ever. `collect` stops at the first error.
    let entries: Vec<(IVec, IVec)> = caught(|| {
        db.range::<&[u8], _>((range.0, Bound::Unbounded))
            .filter(|entry| entry.as_ref().map_or(true, |(key, _)| key != CHECKPOINT_KEY))
            .take_while(|entry| {
                let wanted = |(key, _): &(IVec, IVec)| left > 0 && contains(range, key);
                let more = entry.as_ref().map_or(true, wanted);
                let size = entry.as_ref().map_or(0, |(key, value)| key.len() + value.len());
                left = left.saturating_sub(size.max(1));
                more
            })
            .take(limit)
            .collect::<Result<_, _>>()
    })?;
    let is_complete = entries.len() < limit && left > 0;
    let rest = entries
        .last()
        .filter(|_| !is_complete)
        .map(|(key, _)| key.clone());
    Ok(Chunk { entries, rest })
}

pub(super) fn contains(range: KeyRange<'_>, key: &[u8]) -> bool {
    RangeBounds::<[u8]>::contains(&range, key)
}

pub(super) fn scan_start<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        Some(_) | None => Bound::Included(prefix),
    }
}

/// Returns the upper bound of the keys that start with `prefix`.
pub(super) fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

impl From<(IVec, IVec)> for Entry {
    fn from((key, value): (IVec, IVec)) -> Self {
        Self {
            key: key.to_vec(),
            value: value.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_above_all_keys_that_start_with_the_prefix() {
        assert_eq!(prefix_end(b"s/"), Bound::Excluded(b"s0".to_vec()));
        assert_eq!(prefix_end(&[1, 0xFF, 0xFF]), Bound::Excluded(vec![2]));
        assert_eq!(prefix_end(&[0xFF]), Bound::Unbounded);
        assert_eq!(prefix_end(b""), Bound::Unbounded);
    }
}
