//! Those who wait for the vault, as many as may.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use proto::{Reason, Refusal, vault::v1::DecryptCall};
use tokio::{sync::oneshot, time::Instant};

use super::{asking::Asking, sealed::Opened};

/// The most that wait; more are refused at once.
const MOST: usize = 8192;
/// How often they are looked through for some who gave up: not for each call that finds no place.
const SWEEP: Duration = Duration::from_millis(50);

/// A question, and who waits for its answer.
pub(super) struct Pending {
    pub(super) asking: Asking,
    pub(super) answer: oneshot::Sender<Result<Opened, Refusal>>,
}

impl Pending {
    /// Tells who waits. Dropped, and wiped, when nobody does any more.
    pub(super) fn tell(self, answer: Result<Opened, Refusal>) {
        drop(self.answer.send(answer));
    }

    fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }
}

/// Each of them once.
pub(super) struct Waiting {
    /// The vault has not been asked.
    unsent: VecDeque<Pending>,
    /// By the ids of their calls.
    unanswered: HashMap<u64, Pending>,
    next_id: u64,
    next_sweep: Instant,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self {
            unsent: VecDeque::new(),
            unanswered: HashMap::new(),
            next_id: 0,
            next_sweep: Instant::now(),
        }
    }

    /// How many the vault has not been asked for.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Has one wait until the vault can be asked, unless too many do.
    pub(super) fn admit(&mut self, pending: Pending) {
        if self.is_full() {
            pending.tell(Err(overloaded()));
        } else {
            self.unsent.push_back(pending);
        }
    }

    /// The next of those that were admitted.
    pub(super) fn pop(&mut self) -> Option<Pending> {
        self.unsent.pop_front()
    }

    /// What the vault is to be asked for one, unless nobody waits for it any more, or too many wait already.
    pub(super) fn ask(&mut self, pending: Pending) -> Option<DecryptCall> {
        if pending.is_given_up() {
            return None;
        }
        if self.is_full() {
            pending.tell(Err(overloaded()));
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        let request = Some(pending.asking.request());
        self.unanswered.insert(id, pending);
        Some(DecryptCall { id, request })
    }

    /// Who waits for the answer to a call. Nobody does for an id that was never given or was answered.
    pub(super) fn answered(&mut self, id: u64) -> Option<Pending> {
        self.unanswered.remove(&id)
    }

    /// Whoever was not answered is to be asked for again, if he still waits, and first.
    pub(super) fn again(&mut self) {
        for (_, pending) in self.unanswered.drain() {
            self.unsent.push_front(pending);
        }
        self.sweep();
    }

    /// Tells all of them.
    pub(super) fn refuse(&mut self, refusal: impl Fn() -> Refusal) {
        let unanswered = self.unanswered.drain().map(|(_, pending)| pending);
        for pending in unanswered.chain(self.unsent.drain(..)) {
            pending.tell(Err(refusal()));
        }
    }

    fn is_full(&mut self) -> bool {
        if self.len() < MOST {
            return false;
        }
        let now = Instant::now();
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.sweep();
        }
        self.len() >= MOST
    }

    fn len(&self) -> usize {
        self.unsent.len() + self.unanswered.len()
    }

    /// Forgets who gave up.
    fn sweep(&mut self) {
        self.unsent.retain(|pending| !pending.is_given_up());
        self.unanswered.retain(|_, pending| !pending.is_given_up());
    }
}

pub(super) fn overloaded() -> Refusal {
    Refusal::new(Reason::Overloaded, "too many calls wait for the vault; try again")
}
