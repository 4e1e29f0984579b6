//! The places of the nodes of a drawing with two columns. Pure: the same lines always give the same places.
//!
//! Parts of the graph without a line between them are laid out one below the other. In each part, the nodes of both columns are
//! ordered by the mean position of their neighbours (the barycentre heuristic of Sugiyama, Tagawa and Toda, 1981), several times,
//! and the order with the fewest crossings is taken.

use std::collections::BTreeMap;

/// Height of a node with its distance to the next one, in pixels.
pub(crate) const ROW: u32 = 32;
/// Number of times that both columns are ordered. The crossings rarely become fewer after five.
const ROUNDS: usize = 8;

/// The middle of each node from above, in pixels. A node without a line has no place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) left: Vec<Option<u32>>,
    pub(crate) right: Vec<Option<u32>>,
    pub(crate) height: u32,
}

impl Layout {
    /// Lays out a graph with `left` and `right` nodes. A line is a pair of a left and a right node.
    pub(crate) fn of(left: usize, right: usize, lines: &[(usize, usize)]) -> Self {
        let mut layout = Self {
            left: vec![None; left],
            right: vec![None; right],
            height: 0,
        };
        for part in parts(left, right, lines) {
            layout.add(part);
        }
        layout
    }

    /// Places a part below the parts before it.
    fn add(&mut self, part: Part) {
        let Part { left, right, lines } = part.in_best_order();
        let rows = left.len().max(right.len());
        let neighbours = |of_left: bool| Neighbours::of(&lines, of_left);
        // The longer column has a node in every row. Each node of the shorter one stands beside the middle of its neighbours.
        let (left_rows, right_rows) = if left.len() >= right.len() {
            let full = every_row(rows);
            let near = near_neighbours(&right, &rows_by_node(&left, &full), &neighbours(false), rows);
            (full, near)
        } else {
            let full = every_row(rows);
            let near = near_neighbours(&left, &rows_by_node(&right, &full), &neighbours(true), rows);
            (near, full)
        };
        let top = self.height;
        for (nodes, rows, places) in [
            (&left, left_rows, &mut self.left),
            (&right, right_rows, &mut self.right),
        ] {
            for (node, row) in nodes.iter().zip(rows) {
                if let Some(place) = places.get_mut(*node) {
                    *place = Some(top + pixels(row));
                }
            }
        }
        self.height = top + u32::try_from(rows).unwrap_or(u32::MAX / ROW).saturating_mul(ROW);
    }
}

/// Returns the middle of a row in pixels. Rows are at most as many as nodes, so the number fits.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a row is a small number that is not negative, and `as` saturates"
)]
fn pixels(row: f64) -> u32 {
    ((row + 0.5) * f64::from(ROW)).round() as u32
}

/// A connected part of the graph. The order of the nodes is their order in the drawing.
#[derive(Debug, Clone, Default)]
struct Part {
    left: Vec<usize>,
    right: Vec<usize>,
    lines: Vec<(usize, usize)>,
}

/// Returns the connected parts, by their first left node. A node without a line belongs to no part.
fn parts(left: usize, right: usize, lines: &[(usize, usize)]) -> Vec<Part> {
    let mut sets = Sets::of(left + right);
    for (one, other) in lines {
        sets.join(*one, left + other);
    }
    let mut parts = BTreeMap::<usize, Part>::new();
    for (one, other) in lines {
        let part = parts.entry(sets.first(*one)).or_default();
        part.lines.push((*one, *other));
        part.left.push(*one);
        part.right.push(*other);
    }
    let mut parts: Vec<_> = parts.into_values().collect();
    for part in &mut parts {
        for nodes in [&mut part.left, &mut part.right] {
            nodes.sort_unstable();
            nodes.dedup();
        }
    }
    parts
}

/// Disjoint sets of nodes, each named by its smallest node.
struct Sets(Vec<usize>);

impl Sets {
    fn of(length: usize) -> Self {
        Self((0..length).collect())
    }

    fn parent(&self, node: usize) -> usize {
        self.0.get(node).copied().unwrap_or(node)
    }

    fn set(&mut self, node: usize, parent: usize) {
        if let Some(slot) = self.0.get_mut(node) {
            *slot = parent;
        }
    }

    fn first(&mut self, mut node: usize) -> usize {
        while self.parent(node) != node {
            // Halves the path, so that later searches are short.
            self.set(node, self.parent(self.parent(node)));
            node = self.parent(node);
        }
        node
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.first(one), self.first(other));
        self.set(one.max(other), one.min(other));
    }
}

impl Part {
    fn in_best_order(self) -> Self {
        let Self { left, right, lines } = self;
        let (of_left, of_right) = (Neighbours::of(&lines, true), Neighbours::of(&lines, false));
        let mut order = (left, right);
        let mut best = (crossings(&order.0, &order.1, &lines), order.clone());
        for _ in 0..ROUNDS {
            sort_by_neighbours(&mut order.1, &order.0, &of_right);
            sort_by_neighbours(&mut order.0, &order.1, &of_left);
            let number = crossings(&order.0, &order.1, &lines);
            if number < best.0 {
                best = (number, order.clone());
            }
        }
        let (_, (left, right)) = best;
        Self { left, right, lines }
    }
}

/// The nodes of the other column that each node has a line to.
struct Neighbours(BTreeMap<usize, Vec<usize>>);

impl Neighbours {
    fn of(lines: &[(usize, usize)], of_left: bool) -> Self {
        let mut neighbours = BTreeMap::<_, Vec<_>>::new();
        for (left, right) in lines {
            let (node, other) = if of_left { (left, right) } else { (right, left) };
            neighbours.entry(*node).or_default().push(*other);
        }
        Self(neighbours)
    }

    /// Returns the mean of the neighbours' rows.
    fn mean(&self, node: usize, rows: &BTreeMap<usize, f64>) -> f64 {
        let found: Vec<_> = self
            .0
            .get(&node)
            .into_iter()
            .flatten()
            .filter_map(|other| rows.get(other))
            .collect();
        let number = u32::try_from(found.len()).unwrap_or(u32::MAX);
        found.into_iter().sum::<f64>() / f64::from(number.max(1))
    }
}

fn every_row(rows: usize) -> Vec<f64> {
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    (0..rows).map(f64::from).collect()
}

fn rows_by_node(nodes: &[usize], rows: &[f64]) -> BTreeMap<usize, f64> {
    nodes.iter().copied().zip(rows.iter().copied()).collect()
}

/// Sorts the nodes of a column by the mean row of their neighbours in the other one. Equal nodes keep their order.
fn sort_by_neighbours(nodes: &mut [usize], others: &[usize], neighbours: &Neighbours) {
    let rows = rows_by_node(others, &every_row(others.len()));
    nodes.sort_by(|one, other| {
        neighbours
            .mean(*one, &rows)
            .total_cmp(&neighbours.mean(*other, &rows))
    });
}

/// Returns the number of pairs of lines that cross. Counts inversions with a Fenwick tree.
fn crossings(left: &[usize], right: &[usize], lines: &[(usize, usize)]) -> u64 {
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

/// Returns rows for the nodes of the shorter column: in their order, at least one row apart, from 0 to `rows - 1`, and as near
/// as possible to the mean row of their neighbours (least squares, by pooling adjacent violators).
fn near_neighbours(
    nodes: &[usize],
    others: &BTreeMap<usize, f64>,
    neighbours: &Neighbours,
    rows: usize,
) -> Vec<f64> {
    /// Nodes that stand one row apart from each other.
    struct Block {
        sum: f64,
        size: f64,
    }
    let mut blocks: Vec<Block> = Vec::new();
    for (node, index) in nodes.iter().zip(every_row(nodes.len())) {
        let mut block = Block {
            sum: neighbours.mean(*node, others) - index,
            size: 1.0,
        };
        while let Some(above) = blocks.pop_if(|above| above.sum / above.size >= block.sum / block.size) {
            block = Block {
                sum: above.sum + block.sum,
                size: above.size + block.size,
            };
        }
        blocks.push(block);
    }
    // Without the rows of the nodes above it, a node has `spare` rows to move in.
    let spare = every_row(rows.saturating_sub(nodes.len()) + 1)
        .last()
        .copied()
        .unwrap_or_default();
    let offsets = blocks.iter().flat_map(|block| {
        let mut left = block.size;
        let offset = (block.sum / block.size).clamp(0.0, spare);
        std::iter::from_fn(move || {
            left -= 1.0;
            (left > -0.5).then_some(offset)
        })
    });
    offsets
        .zip(every_row(nodes.len()))
        .map(|(offset, index)| offset + index)
        .collect()
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that panics has failed"
)]
mod tests {
    use super::*;

    /// Returns the crossings of the lines as they are drawn.
    fn drawn_crossings(layout: &Layout, lines: &[(usize, usize)]) -> usize {
        let place =
            |(left, right): &(usize, usize)| (layout.left[*left].unwrap(), layout.right[*right].unwrap());
        let crosses = |one: &(usize, usize), other: &(usize, usize)| {
            let (one, other) = (place(one), place(other));
            (one.0 < other.0 && one.1 > other.1) || (one.0 > other.0 && one.1 < other.1)
        };
        let pairs = lines
            .iter()
            .enumerate()
            .flat_map(|(at, one)| lines[at + 1..].iter().map(move |other| (one, other)));
        pairs.filter(|(one, other)| crosses(one, other)).count()
    }

    /// Asserts that the placed nodes of a column do not overlap and are inside of the drawing.
    fn assert_apart(places: &[Option<u32>], height: u32) {
        let mut placed: Vec<_> = places.iter().copied().flatten().collect();
        placed.sort_unstable();
        assert!(
            placed.windows(2).all(|pair| pair[1] - pair[0] >= ROW - 1),
            "{placed:?}"
        );
        assert!(placed.first().is_none_or(|first| *first >= ROW / 2));
        assert!(placed.last().is_none_or(|last| *last <= height - ROW / 2));
    }

    /// Lines of a workspace: server `s` gets `each` secrets, which are spread over all of them.
    fn scattered(secrets: usize, servers: usize, each: usize) -> Vec<(usize, usize)> {
        let lines = (0..servers)
            .flat_map(|server| (0..each).map(move |nth| ((server * 37 + nth * 61) % secrets, server)));
        let mut lines: Vec<_> = lines.collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }

    #[test]
    fn lines_that_need_not_cross_do_not_cross() {
        for lines in [
            vec![(0, 2), (1, 1), (2, 0)],
            vec![(0, 2), (1, 2), (2, 0), (3, 0), (4, 1), (0, 1)],
            vec![(0, 0), (0, 1), (0, 2), (1, 3)],
        ] {
            let layout = Layout::of(5, 4, &lines);
            assert_eq!(drawn_crossings(&layout, &lines), 0, "{lines:?} {layout:?}");
        }
    }

    #[test]
    fn the_order_removes_most_crossings_of_a_large_workspace() {
        // 50 servers get 4 neighbouring secrets each, and the names do not tell which.
        let lines: Vec<_> = (0..50)
            .flat_map(|server| (0..4).map(move |nth| ((server * 4 + nth) * 77 % 200, (server * 21) % 50)))
            .collect();
        let alphabetical = {
            let (left, right) = ((0..200).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
            crossings(&left, &right, &lines)
        };
        let layout = Layout::of(200, 50, &lines);
        assert!(alphabetical > 5_000, "{alphabetical}");
        assert_eq!(drawn_crossings(&layout, &lines), 0);

        let tangled = scattered(200, 50, 8);
        let layout = Layout::of(200, 50, &tangled);
        let (left, right) = ((0..200).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
        let before = crossings(&left, &right, &tangled);
        let after = drawn_crossings(&layout, &tangled);
        assert!(u64::try_from(after).unwrap() * 2 < before, "{after} of {before}");
    }

    #[test]
    fn crossings_are_counted_as_by_comparing_every_pair() {
        let lines = scattered(30, 12, 5);
        let (left, right) = ((0..30).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
        let naive = lines
            .iter()
            .flat_map(|one| lines.iter().map(move |other| (one, other)))
            .filter(|(one, other)| one.0 < other.0 && one.1 > other.1)
            .count();
        assert_eq!(crossings(&left, &right, &lines), u64::try_from(naive).unwrap());
    }

    #[test]
    fn nodes_do_not_overlap_and_nodes_without_lines_have_no_place() {
        for (secrets, servers, each) in [(200, 50, 4), (3, 50, 2), (1, 1, 1), (1_000, 50, 64), (50, 50, 1)] {
            let lines = scattered(secrets, servers, each);
            let layout = Layout::of(secrets + 1, servers + 1, &lines);
            assert_apart(&layout.left, layout.height);
            assert_apart(&layout.right, layout.height);
            for (left, right) in &lines {
                assert!(layout.left[*left].is_some() && layout.right[*right].is_some());
            }
            assert_eq!((layout.left[secrets], layout.right[servers]), (None, None));
        }
    }

    #[test]
    fn a_server_stands_beside_the_middle_of_its_secrets() {
        let layout = Layout::of(5, 1, &[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
        assert_eq!(layout.right[0], layout.left[2]);
        assert_eq!(layout.height, 5 * ROW);
    }

    #[test]
    fn several_servers_beside_the_first_secret_stay_inside_of_the_drawing() {
        let lines = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (3, 2), (4, 2)];
        let layout = Layout::of(5, 3, &lines);
        assert_apart(&layout.left, layout.height);
        assert_apart(&layout.right, layout.height);
    }

    #[test]
    fn an_empty_graph_has_no_height() {
        let layout = Layout::of(3, 2, &[]);
        assert_eq!(layout.height, 0);
        assert!(layout.left.iter().chain(&layout.right).all(Option::is_none));
    }
}
