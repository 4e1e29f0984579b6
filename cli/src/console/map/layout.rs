//! The places of the nodes of a drawing with two columns. Pure: the same lines always give the same places.
//!
//! Parts of the graph without a line between them are laid out one below the other. In each part, the nodes of both columns are
//! ordered by the mean position of their neighbours (the barycentre heuristic of Sugiyama, Tagawa and Toda, 1981), several times,
//! and the order with the fewest crossings is taken.

mod components;
mod crossings;

use std::collections::BTreeMap;

use self::{
    components::{Component, components},
    crossings::crossings,
};

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
        for component in components(left, right, lines) {
            layout.add(component);
        }
        layout
    }

    /// Places a component below those before it.
    fn add(&mut self, component: Component) {
        let Component { left, right, lines } = component.in_best_order();
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

impl Component {
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
mod tests;
