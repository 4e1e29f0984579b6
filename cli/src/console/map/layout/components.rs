//! The connected components of a graph with two columns.

use std::collections::BTreeMap;

/// A connected part of the graph. The order of the nodes is their order in the drawing.
#[derive(Debug, Clone, Default)]
pub(super) struct Component {
    pub(super) left: Vec<usize>,
    pub(super) right: Vec<usize>,
    pub(super) lines: Vec<(usize, usize)>,
}

/// Returns the components, by their first left node. A node without a line belongs to none.
pub(super) fn components(left: usize, right: usize, lines: &[(usize, usize)]) -> Vec<Component> {
    let mut sets = Sets::of(left + right);
    for (one, other) in lines {
        sets.join(*one, left + other);
    }
    let mut components = BTreeMap::<usize, Component>::new();
    for (one, other) in lines {
        let component = components.entry(sets.first(*one)).or_default();
        component.lines.push((*one, *other));
        component.left.push(*one);
        component.right.push(*other);
    }
    let mut components: Vec<_> = components.into_values().collect();
    for component in &mut components {
        for nodes in [&mut component.left, &mut component.right] {
            nodes.sort_unstable();
            nodes.dedup();
        }
    }
    components
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
