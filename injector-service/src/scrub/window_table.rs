//! The tags of windows, and the fast search for samples whose tag is known.

use std::mem;

use super::WINDOW;

/// Bits of the filter for each tag. More bits make fewer samples of other text pass the filter, and more memory.
const FILTER_BITS: usize = 64;
const MIN_FILTER_BITS: usize = 4096;
const NONE: u16 = u16::MAX;

/// The tags of the first windows of all forms, with the form and the offset of each.
pub(super) struct WindowTable {
    key: [u64; 2],
    /// A bit for each value that the lowest bits of a tag can have, set when a tag has this value.
    filter: Vec<u64>,
    /// The first tag of each bucket; a tag's bucket is in its lowest bits.
    buckets: Vec<u16>,
    tags: Vec<TaggedWindow>,
}

#[derive(Clone, Copy)]
struct TaggedWindow {
    tag: u16,
    /// The next tag in the same bucket.
    next: u16,
    form: u16,
    offset: u8,
}

impl WindowTable {
    /// Returns an empty table for about `capacity` tags.
    pub(super) fn new(key: [u64; 2], capacity: usize) -> Self {
        let bits = (capacity * FILTER_BITS)
            .next_power_of_two()
            .clamp(MIN_FILTER_BITS, 1 << 16);
        let buckets = capacity.next_power_of_two().clamp(1, 1 << 12);
        Self {
            key,
            filter: vec![0; bits / 64],
            buckets: vec![NONE; buckets],
            tags: Vec::with_capacity(capacity),
        }
    }

    /// Adds the first `count` windows of `form`, which has the index `index`. A full table takes no more windows.
    pub(super) fn insert(&mut self, form: &[u8], count: usize, index: u16) {
        let windows = (0..count).filter_map(|offset| form.get(offset..)?.first_chunk());
        for (window, offset) in windows.zip(0..) {
            let tag = self.tag(*window);
            let bucket = usize::from(tag) & (self.buckets.len() - 1);
            let (word, bit) = self.filter_bit(tag);
            let place = u16::try_from(self.tags.len()).unwrap_or(NONE);
            let (Some(first), Some(word)) = (self.buckets.get_mut(bucket), self.filter.get_mut(word)) else {
                return;
            };
            if place == NONE {
                return;
            }
            *word |= bit;
            let next = mem::replace(first, place);
            self.tags.push(TaggedWindow {
                tag,
                next,
                form: index,
                offset,
            });
        }
    }

    /// Calls `hit` with the form and the offset of each known window that has the tag of `window`.
    pub(super) fn lookup(&self, window: [u8; WINDOW], mut hit: impl FnMut(u16, u8)) {
        let tag = self.tag(window);
        let bucket = usize::from(tag) & (self.buckets.len() - 1);
        let mut index = self.buckets.get(bucket).copied().unwrap_or(NONE);
        while let Some(known) = self.tags.get(usize::from(index)) {
            if known.tag == tag {
                hit(known.form, known.offset);
            }
            index = known.next;
        }
    }

    /// Returns false when no known window has the tag of `window`.
    pub(super) fn may_know(&self, window: [u8; WINDOW]) -> bool {
        let (word, bit) = self.filter_bit(self.tag(window));
        self.filter.get(word).is_some_and(|word| word & bit != 0)
    }

    fn filter_bit(&self, tag: u16) -> (usize, u64) {
        let word = usize::from(tag >> 6) & (self.filter.len() - 1);
        (word, 1 << (tag & 63))
    }

    fn tag(&self, window: [u8; WINDOW]) -> u16 {
        let [key, factor] = self.key;
        let (low, high) = (u64::from_le_bytes(window) ^ key).carrying_mul(factor | 1, 0);
        let [first, second, ..] = (low ^ high).to_be_bytes();
        u16::from_be_bytes([first, second])
    }
}
