//! The limit on the bytes of bodies that all calls together hold in memory.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use proto::{Reason, Refusal};

/// A number of bytes that may be held. Clones share the budget.
#[derive(Debug, Clone)]
pub(crate) struct BufferBudget {
    free: Arc<AtomicUsize>,
    total: usize,
}

/// Bytes that one call holds. Dropping the reservation returns them to the budget.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: BufferBudget,
    bytes: usize,
}

impl BufferBudget {
    pub(crate) fn new(total: usize) -> Self {
        Self {
            free: Arc::new(AtomicUsize::new(total)),
            total,
        }
    }

    /// Returns a reservation of no bytes, which can grow.
    pub(super) fn empty_reservation(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

impl Reservation {
    /// Reserves `bytes` more. Fails when the budget has fewer free bytes.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        match self.take(bytes, 0) {
            true => Ok(()),
            false => Err(exhausted()),
        }
    }

    /// Reserves as many bytes as are missing to `bytes`. Fails when the budget has fewer free bytes.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.grow(bytes.saturating_sub(self.bytes))
    }

    /// Reserves `bytes` more and returns true, if half of the budget stays free for calls that have to buffer.
    pub(super) fn grow_optional(&mut self, bytes: usize) -> bool {
        self.take(bytes, self.budget.total / 2)
    }

    /// Takes `bytes` when at least `rest` bytes are free after that.
    fn take(&mut self, bytes: usize, rest: usize) -> bool {
        let enough = |free: usize| free.checked_sub(bytes).filter(|free| *free >= rest);
        let taken = self.budget.free.fetch_update(Relaxed, Relaxed, enough).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Returns all bytes above `bytes` to the budget.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let excess = self.bytes.saturating_sub(bytes);
        self.budget.free.fetch_add(excess, Relaxed);
        self.bytes -= excess;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.bytes, Relaxed);
    }
}

fn exhausted() -> Refusal {
    Refusal::new(
        Reason::Overloaded,
        "the bodies of all calls together fill the injector's buffer; see --max-buffered-total",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_share_the_budget_and_return_their_bytes() {
        let budget = BufferBudget::new(10);
        let (mut one, mut other) = (budget.empty_reservation(), budget.clone().empty_reservation());
        one.grow(7).unwrap();
        other.grow(3).unwrap();
        assert_eq!(other.grow(1).unwrap_err().reason, Reason::Overloaded);
        one.shrink_to(8);
        assert!(other.grow(1).is_err());
        one.shrink_to(6);
        other.grow_to(3).unwrap();
        other.grow_to(4).unwrap();
        assert!(other.grow_to(5).is_err());
        assert!(budget.empty_reservation().grow(1).is_err());
        drop(one);
        other.grow(6).unwrap();
        drop(other);
        budget.empty_reservation().grow(10).unwrap();
    }

    #[test]
    fn optional_reservations_leave_half_of_the_budget_free() {
        let budget = BufferBudget::new(10);
        let (mut one, mut other) = (budget.empty_reservation(), budget.empty_reservation());
        assert!(one.grow_optional(5) && !one.grow_optional(1));
        other.grow(5).unwrap();
        drop(one);
        assert!(!other.grow_optional(1));
    }
}
