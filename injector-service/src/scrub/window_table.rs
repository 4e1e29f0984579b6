//! The tags of windows, and the fast search for samples whose tag is known.

use std::mem;

use super::{MAX_STRIDE, WINDOW};

/// The most tags for which the small filter is used. With this number of tags, one window of 16 in other text passes it.
const MAX_IN_SMALL_FILTER: usize = 256;
/// Samples that are looked up together, with one branch for all of them.
const BLOCK: usize = 8;
const NONE: u16 = u16::MAX;

/// The tags of the first windows of all forms, with the form and the offset of each.
pub(super) struct WindowTable {
    factor: u64,
    filter: Filter,
    /// The first tag of each bucket; a tag's bucket is in its lowest bits.
    buckets: Vec<u16>,
    tags: Vec<TaggedWindow>,
}

/// A bit for each value that the highest bits of a tag can have, set when a tag has this value. The sizes are constants,
/// so that a look-up has no check of a bound.
enum Filter {
    Small(Box<[u64; 64]>),
    Large(Box<[u64; 1024]>),
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
    /// Returns an empty table for about `capacity` tags. The `factor` is random.
    pub(super) fn new(factor: u64, capacity: usize) -> Self {
        let filter = if capacity > MAX_IN_SMALL_FILTER {
            Filter::Large(Box::new([0; 1024]))
        } else {
            Filter::Small(Box::new([0; 64]))
        };
        let buckets = capacity.next_power_of_two().clamp(1, 1 << 12);
        Self {
            factor: factor | 1,
            filter,
            buckets: vec![NONE; buckets],
            tags: Vec::with_capacity(capacity),
        }
    }

    /// Adds the first `count` windows of `form`, which has the index `index`. A full table takes no more windows.
    pub(super) fn insert(&mut self, form: &[u8], count: usize, index: u16) {
        let windows = (0..count).filter_map(|offset| form.get(offset..)?.first_chunk());
        for (window, offset) in windows.zip(0..) {
            let product = self.product(window);
            let tag = tag(product);
            let bucket = usize::from(tag) & (self.buckets.len() - 1);
            let place = u16::try_from(self.tags.len()).unwrap_or(NONE);
            let Some(first) = self.buckets.get_mut(bucket).filter(|_| place != NONE) else {
                return;
            };
            match &mut self.filter {
                Filter::Small(filter) => set(&mut **filter, product),
                Filter::Large(filter) => set(&mut **filter, product),
            }
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
    pub(super) fn lookup(&self, window: &[u8; WINDOW], mut hit: impl FnMut(u16, u8)) {
        let tag = tag(self.product(window));
        let bucket = usize::from(tag) & (self.buckets.len() - 1);
        let mut index = self.buckets.get(bucket).copied().unwrap_or(NONE);
        while let Some(known) = self.tags.get(usize::from(index)) {
            if known.tag == tag {
                hit(known.form, known.offset);
            }
            index = known.next;
        }
    }

    /// Returns the position of the first of the samples at `from` and at each `stride` bytes after it that may be known.
    /// Otherwise returns the position of the first sample whose window is not in `text` as a whole.
    pub(super) fn find(&self, text: &[u8], from: usize, stride: usize) -> usize {
        match &self.filter {
            Filter::Small(filter) => find(filter, self.factor, text, from, stride),
            Filter::Large(filter) => find(filter, self.factor, text, from, stride),
        }
    }

    fn product(&self, window: &[u8; WINDOW]) -> u64 {
        u64::from_le_bytes(*window).wrapping_mul(self.factor)
    }
}

/// The tag is in the highest bits of the product, which depend on all bits of the window.
fn tag(product: u64) -> u16 {
    let [first, second, ..] = product.to_be_bytes();
    u16::from_be_bytes([first, second])
}

/// Returns the index of the word of a filter, and the bit in the word.
fn place<const WORDS: usize>(product: u64) -> (usize, u64) {
    let shift = 64 - WORDS.trailing_zeros();
    let word = usize::try_from(product >> shift).unwrap_or_default();
    (word, 1 << (product >> (shift - 6) & 63))
}

fn set<const WORDS: usize>(filter: &mut [u64; WORDS], product: u64) {
    let (word, bit) = place::<WORDS>(product);
    if let Some(word) = filter.get_mut(word) {
        *word |= bit;
    }
}

fn find<const WORDS: usize>(
    filter: &[u64; WORDS],
    factor: u64,
    text: &[u8],
    from: usize,
    stride: usize,
) -> usize {
    // The strides are constants in the loop, so that it has no check of a bound.
    match stride {
        1 => find_with::<1, WORDS>(filter, factor, text, from),
        2 => find_with::<2, WORDS>(filter, factor, text, from),
        3 => find_with::<3, WORDS>(filter, factor, text, from),
        4 => find_with::<4, WORDS>(filter, factor, text, from),
        5 => find_with::<5, WORDS>(filter, factor, text, from),
        6 => find_with::<6, WORDS>(filter, factor, text, from),
        7 => find_with::<7, WORDS>(filter, factor, text, from),
        _ => find_with::<MAX_STRIDE, WORDS>(filter, factor, text, from),
    }
}

fn find_with<const STRIDE: usize, const WORDS: usize>(
    filter: &[u64; WORDS],
    factor: u64,
    text: &[u8],
    mut at: usize,
) -> usize {
    let may_know = |text: &[u8]| {
        let window = text.first_chunk().copied().map_or(0, u64::from_le_bytes);
        let (word, bit) = place::<WORDS>(window.wrapping_mul(factor));
        filter.get(word).is_some_and(|word| word & bit != 0)
    };
    while let Some(block) = text.get(at..at + (BLOCK - 1) * STRIDE + WINDOW) {
        let samples = (0..BLOCK).map(|sample| block.get(sample * STRIDE..).unwrap_or_default());
        if samples.fold(false, |known, sample| known | may_know(sample)) {
            break;
        }
        at += BLOCK * STRIDE;
    }
    while let Some(sample) = text.get(at..at + WINDOW) {
        if may_know(sample) {
            break;
        }
        at += STRIDE;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_window_is_found_at_each_sample() {
        let form = b"0123456789abcdef";
        for capacity in [8, 1000] {
            for stride in 1..=MAX_STRIDE {
                let mut table = WindowTable::new(0x9e37_79b9_7f4a_7c15, capacity);
                table.insert(form, stride, 7);
                for before in 0..200 {
                    let text = [&vec![b'-'; before][..], form].concat();
                    let mut at = table.find(&text, 0, stride);
                    while at < before {
                        at = table.find(&text, at + stride, stride);
                    }
                    assert!(at < before + stride && at.is_multiple_of(stride), "{at} {before}");
                    let mut hits = Vec::new();
                    let window = text[at..].first_chunk().unwrap();
                    table.lookup(window, |form, offset| hits.push((form, usize::from(offset))));
                    assert!(hits.contains(&(7, at - before)), "{hits:?}");
                }
            }
        }
    }

    #[test]
    fn a_search_ends_at_the_first_incomplete_window() {
        let table = WindowTable::new(1, 8);
        for (len, stride, end) in [
            (0, 1, 0),
            (7, 1, 0),
            (8, 1, 1),
            (8, 8, 8),
            (100, 4, 96),
            (100, 8, 96),
        ] {
            assert_eq!(table.find(&vec![b'-'; len], 0, stride), end, "{len} {stride}");
        }
    }
}
