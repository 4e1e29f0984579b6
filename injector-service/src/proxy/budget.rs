//! How much of bodies is held in memory, of all calls together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use proto::{Reason, Refusal};

/// Bytes that may still be held. Clones share them.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicUsize>);

/// Bytes that one call holds: given back when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// So many, of all who share it.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Nothing, yet.
    pub(super) fn none(&self) -> Held {
        Held {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

impl Held {
    /// Holds so many bytes more, if there are so many.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Refusal> {
        let left = &self.budget.0;
        let taken = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        taken.map_err(|_| used_up())?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives back what is more than this.
    pub(super) fn keep(&mut self, bytes: usize) {
        let more = self.bytes.saturating_sub(bytes);
        self.budget.0.fetch_add(more, Relaxed);
        self.bytes -= more;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Relaxed);
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
        let budget = Budget::new(10);
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
}
