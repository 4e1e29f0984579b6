/// Most levels that may be open at once. Their stack takes 16 KiB.
pub(super) const MAX_DEPTH: usize = 128 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Array,
    Object,
}

/// The stack of open containers, with one bit for each. `innermost` has the last 1 to 64 containers, and its lowest bit
/// is the top of the stack.
#[derive(Default)]
pub(super) struct Nesting {
    outer: Vec<u64>,
    innermost: u64,
    depth: usize,
}

impl Nesting {
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn top(&self) -> Option<Container> {
        match (self.depth, self.innermost & 1) {
            (0, _) => None,
            (_, 0) => Some(Container::Array),
            (_, _) => Some(Container::Object),
        }
    }

    /// Returns false when the stack already has [`MAX_DEPTH`] containers.
    #[must_use]
    pub(super) fn push(&mut self, container: Container) -> bool {
        if self.depth == MAX_DEPTH {
            return false;
        }
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.innermost);
        }
        self.innermost = self.innermost << 1 | u64::from(container == Container::Object);
        self.depth += 1;
        true
    }

    pub(super) fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.innermost >>= 1;
        if self.depth.is_multiple_of(64) {
            self.innermost = self.outer.pop().unwrap_or_default();
        }
    }
}
