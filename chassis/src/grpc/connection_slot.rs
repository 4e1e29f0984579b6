//! The slot of one connection.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use proto::Principal;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::connection_slots::{Holder, Slot, Slots};

/// The slot of one connection. A token can move the connection from the clients without a role to those with one. Clones
/// share the slot.
#[derive(Clone)]
pub(super) struct ConnectionSlot(Arc<SharedSlot>);

struct SharedSlot {
    /// `None` once the connection has ended.
    slot: Mutex<Option<Slot>>,
    evictor: CancellationToken,
    has_role: AtomicBool,
}

impl ConnectionSlot {
    pub(super) fn new(slot: Slot, has_role: bool) -> Self {
        Self(Arc::new(SharedSlot {
            evictor: slot.evictor(),
            slot: Mutex::new(Some(slot)),
            has_role: AtomicBool::new(has_role),
        }))
    }

    /// Returns true when the client has a role by its certificate, or by a token.
    pub(super) fn has_role(&self) -> bool {
        self.0.has_role.load(Ordering::Relaxed)
    }

    /// Takes one of `slots` for the connection, and gives back the one that it had. Only the first principal with a role
    /// counts. Returns false when there is no slot for `principal`.
    pub(super) fn move_to(&self, slots: &Slots, principal: &Principal) -> bool {
        let mut slot = self.lock();
        let (Some(present), false) = (slot.as_ref(), self.has_role()) else {
            return true;
        };
        let Some(taken) = slots.try_take_over(&Holder::Principal(principal.clone()), present) else {
            return false;
        };
        *slot = Some(taken);
        self.0.has_role.store(true, Ordering::Relaxed);
        true
    }

    /// Gives the slot back: the connection has ended.
    pub(super) fn release(&self) {
        let slot = self.lock().take();
        drop(slot);
    }

    /// Completes when the connection is evicted; the caller must then close the connection.
    pub(super) fn evicted(&self) -> WaitForCancellationFutureOwned {
        self.evictor().cancelled_owned()
    }

    /// Returns a token whose cancellation evicts the connection.
    pub(super) fn evictor(&self) -> CancellationToken {
        self.0.evictor.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Slot>> {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
