//! How much of bodies is held in memory, of all calls together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use proto::{Reason, Refusal};

/// Bytes that may still be held. Clones share them.
#[derive(Debug, Clone)]
pub struct BufferBudget {
    left: Arc<AtomicUsize>,
    total: usize,
}

/// Bytes that one call holds: given back when this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: BufferBudget,
    bytes: usize,
}

impl BufferBudget {
    /// So many, of all who share it.
    pub fn new(bytes: usize) -> Self {
        Self {
            left: Arc::new(AtomicUsize::new(bytes)),
            total: bytes,
        }
    }

    /// Nothing, yet.
    pub(super) fn none(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

impl Reservation {
    /// Holds so many bytes more, if there are so many.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Refusal> {
        match self.take(bytes, 0) {
            true => Ok(()),
            false => Err(used_up()),
        }
    }

    /// Holds so many bytes more, if half of the budget stays free for calls that cannot do without. Returns false when it
    /// does not.
    pub(super) fn add_spare(&mut self, bytes: usize) -> bool {
        self.take(bytes, self.budget.total / 2)
    }

    /// Takes `bytes` when at least `rest` bytes are left after that.
    fn take(&mut self, bytes: usize, rest: usize) -> bool {
        let enough = |left: usize| left.checked_sub(bytes).filter(|left| *left >= rest);
        let taken = self.budget.left.fetch_update(Relaxed, Relaxed, enough).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Gives back what is more than this.
    pub(super) fn keep(&mut self, bytes: usize) {
        let more = self.bytes.saturating_sub(bytes);
        self.budget.left.fetch_add(more, Relaxed);
        self.bytes -= more;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Relaxed);
    }
}

fn used_up() -> Refusal {
    Refusal::new(
        Reason::Overloaded,
        "the injector holds as much of bodies as it may, of all calls together; see --max-buffered-total",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back_and_no_more_than_there_is() {
        let budget = BufferBudget::new(10);
        let (mut one, mut other) = (budget.none(), budget.clone().none());
        one.add(7).unwrap();
        other.add(3).unwrap();
        assert_eq!(other.add(1).unwrap_err().reason, Reason::Overloaded);
        one.keep(8);
        assert!(other.add(1).is_err());
        one.keep(6);
        other.add(1).unwrap();
        assert!(budget.none().add(1).is_err());
        drop(one);
        other.add(6).unwrap();
        drop(other);
        budget.none().add(10).unwrap();
    }

    #[test]
    fn what_can_be_done_without_leaves_half_of_the_budget() {
        let budget = BufferBudget::new(10);
        let (mut one, mut other) = (budget.none(), budget.none());
        assert!(one.add_spare(5) && !one.add_spare(1));
        other.add(5).unwrap();
        drop(one);
        assert!(!other.add_spare(1));
    }
}
