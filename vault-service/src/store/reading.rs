//! Reads see only what is durable.
//!
//! sled shows a batch as soon as it is applied, which is before its sync. So before the commit thread applies a group it
//! puts the before-images of the keys that the group changes beside sled, and removes them after the sync. A reader asks
//! sled first and the before-images after that: any value that it found too early is replaced. After a failed write the
//! before-images stay, so that the process never serves what may be gone after a restart.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use sled::IVec;

use super::{Entry, Fault, Shared, marker, panics::caught};

/// Keys, and the value that was at each before the group, if any.
pub(super) type Images = BTreeMap<Vec<u8>, Option<IVec>>;

/// The before-images of the group that is being written.
#[derive(Default)]
pub(super) struct BeforeImages {
    /// True when `images` may have entries, so that readers need no lock while no group is being written.
    any: AtomicBool,
    images: RwLock<Images>,
}

/// The bounds of a read of several entries.
pub(super) type Range<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Entries of a range, in key order.
pub(super) struct Chunk {
    pub(super) entries: Vec<(IVec, IVec)>,
    /// The key after which the range goes on; none when all of it was read.
    pub(super) rest: Option<IVec>,
}

/// A value, and whether it is a before-image.
pub(super) struct Durable {
    pub(super) value: Option<IVec>,
    pub(super) is_image: bool,
}

impl BeforeImages {
    /// Sets the before-images; called before the group is applied.
    pub(super) fn set(&self, images: Images) {
        *self.images.write().unwrap_or_else(PoisonError::into_inner) = images;
        self.any.store(true, Ordering::SeqCst);
    }

    /// Removes the before-images; called once the group is durable.
    pub(super) fn clear(&self) {
        self.any.store(false, Ordering::SeqCst);
        self.images
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn of(&self, key: &[u8]) -> Option<Option<IVec>> {
        if !self.any.load(Ordering::SeqCst) {
            return None;
        }
        let images = self.images.read().unwrap_or_else(PoisonError::into_inner);
        images.get(key).cloned()
    }

    /// Replaces entries that were read of `range` by the before-images in the range.
    fn apply(&self, range: Range<'_>, entries: Vec<(IVec, IVec)>) -> Vec<(IVec, IVec)> {
        if !self.any.load(Ordering::SeqCst) {
            return entries;
        }
        let mut entries: BTreeMap<_, _> = entries.into_iter().collect();
        let images = self.images.read().unwrap_or_else(PoisonError::into_inner);
        for (key, image) in images.iter().filter(|(key, _)| is_in(range, key)) {
            let key = IVec::from(key.as_slice());
            match image {
                Some(value) => entries.insert(key, value.clone()),
                None => entries.remove(&key),
            };
        }
        entries.into_iter().collect()
    }
}

impl Shared {
    pub(super) fn read(&self, key: &[u8]) -> Result<Durable, Fault> {
        let stored = read(&self.db, key)?;
        Ok(match self.before.of(key) {
            Some(value) => Durable {
                value,
                is_image: true,
            },
            None => Durable {
                value: stored,
                is_image: false,
            },
        })
    }

    /// Returns up to `limit` entries whose keys start with `prefix`, after the full key `after` if given.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, Fault> {
        let end = prefix_end(prefix);
        let mut from = scan_start(prefix, after).map(IVec::from);
        let mut found = Vec::new();
        while found.len() < limit {
            let range: Range<'_> = (from.as_ref().map(AsRef::as_ref), end.as_ref().map(AsRef::as_ref));
            let Chunk { entries, rest } = self.chunk(range, limit - found.len(), usize::MAX)?;
            found.extend(entries.into_iter().map(entry_of));
            let Some(rest) = rest else { break };
            from = Bound::Excluded(rest);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Reads the beginning of a range: about `most` entries or `bytes` bytes.
    pub(super) fn chunk(&self, range: Range<'_>, most: usize, bytes: usize) -> Result<Chunk, Fault> {
        let Chunk { entries, rest } = chunk(&self.db, range, most, bytes)?;
        let end = rest
            .as_ref()
            .map_or(range.1, |last| Bound::Included(last.as_ref()));
        let entries = self.before.apply((range.0, end), entries);
        Ok(Chunk { entries, rest })
    }
}

/// Reads sled's value at `key`.
pub(super) fn read(db: &sled::Db, key: &[u8]) -> Result<Option<IVec>, Fault> {
    caught(|| db.get(key))
}

/// Reads sled's entries as [`Shared::scan`] does, without before-images.
pub(super) fn scan(
    db: &sled::Db,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Entry>, Fault> {
    let end = prefix_end(prefix);
    let range: Range<'_> = (scan_start(prefix, after), end.as_ref().map(AsRef::as_ref));
    let Chunk { entries, rest: _ } = chunk(db, range, limit, usize::MAX)?;
    Ok(entries.into_iter().map(entry_of).collect())
}

/// Reads the beginning of a range, without the store's own entry: up to `most` entries, and no further entry after the
/// one that reaches `bytes`.
fn chunk(db: &sled::Db, range: Range<'_>, most: usize, bytes: usize) -> Result<Chunk, Fault> {
    let mut left = bytes;
    // A damaged page makes sled's iterator repeat its error for ever: `collect` stops at the first.
    let entries: Vec<(IVec, IVec)> = caught(|| {
        db.range::<&[u8], _>((range.0, Bound::Unbounded))
            .filter(|entry| entry.as_ref().map_or(true, |(key, _)| key != marker::KEY))
            .take_while(|entry| {
                let wanted = |(key, _): &(IVec, IVec)| left > 0 && is_in(range, key);
                let more = entry.as_ref().map_or(true, wanted);
                let size = entry.as_ref().map_or(0, |(key, value)| key.len() + value.len());
                left = left.saturating_sub(size.max(1));
                more
            })
            .take(most)
            .collect::<Result<_, _>>()
    })?;
    let all = entries.len() < most && left > 0;
    let rest = entries.last().filter(|_| !all).map(|(key, _)| key.clone());
    Ok(Chunk { entries, rest })
}

fn is_in(range: Range<'_>, key: &[u8]) -> bool {
    RangeBounds::<[u8]>::contains(&range, key)
}

fn scan_start<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        Some(_) | None => Bound::Included(prefix),
    }
}

/// Returns the upper bound of the keys that start with `prefix`.
fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

fn entry_of((key, value): (IVec, IVec)) -> Entry {
    Entry {
        key: key.to_vec(),
        value: value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_all_keys_that_start_with_it() {
        assert_eq!(prefix_end(b"s/"), Bound::Excluded(b"s0".to_vec()));
        assert_eq!(prefix_end(&[1, 0xFF, 0xFF]), Bound::Excluded(vec![2]));
        assert_eq!(prefix_end(&[0xFF]), Bound::Unbounded);
        assert_eq!(prefix_end(b""), Bound::Unbounded);
    }
}
