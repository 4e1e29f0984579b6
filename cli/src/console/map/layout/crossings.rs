//! The lines that cross in a drawing with two columns.

use std::collections::BTreeMap;

/// Returns the number of pairs of lines that cross. Counts inversions with a Fenwick tree.
pub(super) fn crossings(left: &[usize], right: &[usize], lines: &[(usize, usize)]) -> u64 {
    let place = |nodes: &[usize]| -> BTreeMap<usize, usize> {
        nodes.iter().enumerate().map(|(at, node)| (*node, at)).collect()
    };
    let (left, right_places) = (place(left), place(right));
    let mut ends: Vec<_> = lines
        .iter()
        .filter_map(|(one, other)| Some((*left.get(one)?, *right_places.get(other)?)))
        .collect();
    ends.sort_unstable();
    let mut tree = vec![0_u64; right.len() + 1];
    let mut number = 0;
    for (seen, (_, end)) in (0_u64..).zip(ends) {
        // All lines before this one begin above it. Those that do not end at or above its end cross it.
        number += seen - sum_to(&tree, end + 1);
        add_at(&mut tree, end + 1);
    }
    number
}

fn sum_to(tree: &[u64], mut at: usize) -> u64 {
    let mut sum = 0;
    while at > 0 {
        sum += tree.get(at).copied().unwrap_or_default();
        at &= at - 1;
    }
    sum
}

fn add_at(tree: &mut [u64], mut at: usize) {
    while let Some(slot) = tree.get_mut(at) {
        *slot += 1;
        at += at & at.wrapping_neg();
    }
}
