//! The tags of windows, and the fast search for samples whose tag is known.

use std::{iter, mem};

use smallvec::SmallVec;

use super::{MAX_STRIDE, WINDOW, encoding::Beginning};

/// The most tags for which the tiny filter, the small one and the medium one are used. With so many tags, one window of 16,
/// or of 8 with the medium one, in other text passes the filter.
const MAX_IN_TINY_FILTER: usize = 16;
const MAX_IN_SMALL_FILTER: usize = 128;
const MAX_IN_MEDIUM_FILTER: usize = 1024;
/// Samples that are looked up together, with one branch for all of them.
const BLOCK: usize = 8;
const BUCKETS: usize = 1 << 12;
const NONE: u16 = u16::MAX;

/// The tags of the first windows of all forms.
pub(super) struct WindowTable {
    factor: u64,
    stride: usize,
    filter: Filter,
    /// The tags of the first form, in the order of the windows, then those of the second form, and so on.
    tags: SmallVec<[u16; MAX_STRIDE]>,
    /// `None` for few tags, all of which are compared.
    chains: Option<Chains>,
}

/// A byte for each value that the highest bits of a tag can have, which is not zero when a tag has this value. The sizes
/// are constants, so that a look-up has no check of a bound.
enum Filter {
    Tiny(Box<[u8; 1 << 8]>),
    Small(Box<[u8; 1 << 11]>),
    Medium(Box<[u8; 1 << 13]>),
    Large(Box<[u8; 1 << 16]>),
}

/// The positions of tags, in a chain for each value of the lowest bits.
struct Chains {
    first: Vec<u16>,
    /// The position after each position.
    next: Vec<u16>,
}

impl WindowTable {
    /// Returns an empty table for the windows of about `forms` forms. The `factor` is random.
    pub(super) fn new(factor: u64, stride: usize, forms: usize) -> Self {
        let capacity = forms * stride;
        Self {
            factor: factor | 1,
            stride,
            filter: Filter::new(capacity),
            tags: SmallVec::with_capacity(capacity),
            chains: (capacity > MAX_IN_MEDIUM_FILTER).then(|| Chains {
                first: vec![NONE; BUCKETS],
                next: Vec::with_capacity(capacity),
            }),
        }
    }

    /// Adds the windows of the next form, as many as the stride. A full table takes no more windows.
    pub(super) fn insert(&mut self, form: &Beginning) {
        let start = self.tags.len();
        if start + self.stride > usize::from(NONE) {
            return;
        }
        let factor = self.factor;
        self.tags.extend((0..self.stride).map(|offset| {
            let window = form.get(offset..).and_then(<[u8]>::first_chunk);
            window.map_or(0, |window| tag(product(factor, window)))
        }));
        let new = self.tags.get(start..).unwrap_or_default();
        match &mut self.filter {
            Filter::Tiny(filter) => set(filter.as_mut_slice(), new),
            Filter::Small(filter) => set(filter.as_mut_slice(), new),
            Filter::Medium(filter) => set(filter.as_mut_slice(), new),
            Filter::Large(filter) => set(filter.as_mut_slice(), new),
        }
        if let Some(chains) = &mut self.chains {
            new.iter().for_each(|tag| chains.push(*tag));
        }
    }

    /// Calls `hit` with the form and the offset of each known window that has the tag of `window`.
    pub(super) fn lookup(&self, window: &[u8; WINDOW], mut hit: impl FnMut(usize, usize)) {
        let tag = tag(product(self.factor, window));
        let mut hit = |position: usize| hit(position / self.stride, position % self.stride);
        let is_tag = |position: usize| self.tags.get(position) == Some(&tag);
        match &self.chains {
            Some(chains) => chains.of(tag).filter(|at| is_tag(*at)).for_each(hit),
            None => {
                let mut from = 0;
                while let Some(rest) = self.tags.get(from..)
                    && let Some(next) = rest.iter().position(|known| *known == tag)
                {
                    hit(from + next);
                    from += next + 1;
                }
            }
        }
    }

    /// Returns the position of the first of the samples at `from` and at each stride after it that may be known.
    /// Otherwise returns the position of the first sample whose window is not in `text` as a whole.
    pub(super) fn find(&self, text: &[u8], from: usize) -> usize {
        match &self.filter {
            Filter::Tiny(filter) => find(filter, self.factor, text, from, self.stride),
            Filter::Small(filter) => find(filter, self.factor, text, from, self.stride),
            Filter::Medium(filter) => find(filter, self.factor, text, from, self.stride),
            Filter::Large(filter) => find(filter, self.factor, text, from, self.stride),
        }
    }
}

impl Filter {
    fn new(capacity: usize) -> Self {
        if capacity <= MAX_IN_TINY_FILTER {
            Self::Tiny(Box::new([0; _]))
        } else if capacity <= MAX_IN_SMALL_FILTER {
            Self::Small(Box::new([0; _]))
        } else if capacity <= MAX_IN_MEDIUM_FILTER {
            Self::Medium(Box::new([0; _]))
        } else {
            Self::Large(Box::new([0; _]))
        }
    }
}

impl Chains {
    fn push(&mut self, tag: u16) {
        let position = u16::try_from(self.next.len()).unwrap_or(NONE);
        if let Some(first) = self.first.get_mut(usize::from(tag) % BUCKETS) {
            self.next.push(mem::replace(first, position));
        }
    }

    /// Returns the positions in the chain of `tag`.
    fn of(&self, tag: u16) -> impl Iterator<Item = usize> {
        let first = self.first.get(usize::from(tag) % BUCKETS);
        iter::successors(first.copied(), |position| {
            self.next.get(usize::from(*position)).copied()
        })
        .take_while(|position| *position != NONE)
        .map(usize::from)
    }
}

fn product(factor: u64, window: &[u8; WINDOW]) -> u64 {
    u64::from_le_bytes(*window).wrapping_mul(factor)
}

/// The tag is in the highest bits of the product, which depend on all bits of the window.
fn tag(product: u64) -> u16 {
    let [first, second, ..] = product.to_be_bytes();
    u16::from_be_bytes([first, second])
}

fn set(filter: &mut [u8], tags: &[u16]) {
    let unused = u16::BITS - filter.len().trailing_zeros();
    for tag in tags {
        if let Some(known) = filter.get_mut(usize::from(tag >> unused)) {
            *known = 1;
        }
    }
}

fn find<const N: usize>(filter: &[u8; N], factor: u64, text: &[u8], from: usize, stride: usize) -> usize {
    // The strides are constants in the loop, so that it has no check of a bound.
    match stride {
        1 => find_with::<1, N>(filter, factor, text, from),
        2 => find_with::<2, N>(filter, factor, text, from),
        3 => find_with::<3, N>(filter, factor, text, from),
        4 => find_with::<4, N>(filter, factor, text, from),
        5 => find_with::<5, N>(filter, factor, text, from),
        6 => find_with::<6, N>(filter, factor, text, from),
        7 => find_with::<7, N>(filter, factor, text, from),
        _ => find_with::<MAX_STRIDE, N>(filter, factor, text, from),
    }
}

fn find_with<const STRIDE: usize, const N: usize>(
    filter: &[u8; N],
    factor: u64,
    text: &[u8],
    mut at: usize,
) -> usize {
    let known = |sample: &[u8]| {
        let product = sample.first_chunk().map_or(0, |window| product(factor, window));
        let index = usize::try_from(product >> (u64::BITS - N.trailing_zeros()));
        index
            .ok()
            .and_then(|index| filter.get(index))
            .copied()
            .unwrap_or(1)
    };
    while let Some(block) = text.get(at..at + (BLOCK - 1) * STRIDE + WINDOW) {
        let samples = (0..BLOCK).map(|sample| block.get(sample * STRIDE..).unwrap_or_default());
        if samples.fold(0, |any, sample| any | known(sample)) != 0 {
            break;
        }
        at += BLOCK * STRIDE;
    }
    while let Some(sample) = text.get(at..at + WINDOW) {
        if known(sample) != 0 {
            break;
        }
        at += STRIDE;
    }
    at
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn a_known_window_is_found_at_each_sample() {
        let form = b"0123456789abcdef";
        for forms in [2, 200, 2000] {
            for stride in 1..=MAX_STRIDE {
                let mut table = WindowTable::new(0x9e37_79b9_7f4a_7c15, stride, forms);
                table.insert(&Zeroizing::new(*b"another text 123"));
                table.insert(&Zeroizing::new(*form));
                for before in 0..200 {
                    let text = [&vec![b'-'; before][..], form].concat();
                    let mut at = table.find(&text, 0);
                    while at < before {
                        at = table.find(&text, at + stride);
                    }
                    assert!(at < before + stride && at.is_multiple_of(stride), "{at} {before}");
                    let mut hits = Vec::new();
                    let window = text[at..].first_chunk().unwrap();
                    table.lookup(window, |form, offset| hits.push((form, offset)));
                    assert!(hits.contains(&(1, at - before)), "{hits:?}");
                }
            }
        }
    }

    #[test]
    fn a_search_ends_at_the_first_incomplete_window() {
        for (len, stride, end) in [
            (0, 1, 0),
            (7, 1, 0),
            (8, 1, 1),
            (8, 8, 8),
            (100, 4, 96),
            (100, 8, 96),
        ] {
            let table = WindowTable::new(1, stride, 8);
            assert_eq!(table.find(&vec![b'-'; len], 0), end, "{len} {stride}");
        }
    }
}
