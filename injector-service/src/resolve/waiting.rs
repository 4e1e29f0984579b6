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
/// The most calls without an answer, abandoned ones included; a further call is refused at once. Without this limit, a
/// vault that reads calls and never answers would fill the memory with abandoned calls.
const MOST_UNANSWERED: usize = 4 * MOST;
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

/// A call that was sent to the vault and has no answer yet.
pub(super) enum Unanswered {
    /// The caller waits for the answer.
    Awaited(Pending),
    /// The caller gave up. The vault's answers open only in the order in which they were sealed, each with the name of its
    /// server, so the name has to be kept until the answer has come.
    Abandoned { server: Box<str> },
}

impl Unanswered {
    /// Returns the server that the answer is for, or an empty text when the question is about no server.
    pub(super) fn server(&self) -> &str {
        match self {
            Self::Awaited(pending) => pending.asking.server(),
            Self::Abandoned { server } => server,
        }
    }

    /// Returns the caller, if the caller still waits.
    pub(super) fn caller(self) -> Option<Pending> {
        match self {
            Self::Awaited(pending) => Some(pending),
            Self::Abandoned { server: _ } => None,
        }
    }

    /// Marks the call as abandoned when its caller gave up. Returns true when the call was not marked before.
    fn abandon_if_given_up(&mut self) -> bool {
        match self {
            Self::Awaited(pending) if pending.is_given_up() => {
                let server = pending.asking.server().into();
                *self = Self::Abandoned { server };
                true
            }
            Self::Awaited(_) | Self::Abandoned { server: _ } => false,
        }
    }
}

/// Each of them once.
pub(super) struct Waiting {
    /// The vault has not been asked.
    unsent: VecDeque<Pending>,
    /// By the ids of their calls.
    unanswered: HashMap<u64, Unanswered>,
    /// The number of abandoned calls among `unanswered`.
    abandoned: usize,
    next_id: u64,
    next_sweep: Instant,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self {
            unsent: VecDeque::new(),
            unanswered: HashMap::new(),
            abandoned: 0,
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
        self.unanswered.insert(id, Unanswered::Awaited(pending));
        Some(DecryptCall { id, request })
    }

    /// Removes and returns the call `id`. Returns None for an id that was never given or was answered already.
    pub(super) fn answered(&mut self, id: u64) -> Option<Unanswered> {
        let call = self.unanswered.remove(&id)?;
        if matches!(call, Unanswered::Abandoned { server: _ }) {
            self.abandoned -= 1;
        }
        Some(call)
    }

    /// Whoever was not answered is to be asked for again, if he still waits, and first.
    pub(super) fn again(&mut self) {
        let awaited = self.unanswered.drain().filter_map(|(_, call)| call.caller());
        awaited.for_each(|pending| self.unsent.push_front(pending));
        self.abandoned = 0;
        self.sweep();
    }

    /// Tells all of them.
    pub(super) fn refuse(&mut self, refusal: impl Fn() -> Refusal) {
        let unanswered = self.unanswered.drain().filter_map(|(_, call)| call.caller());
        for pending in unanswered.chain(self.unsent.drain(..)) {
            pending.tell(Err(refusal()));
        }
        self.abandoned = 0;
    }

    fn is_full(&mut self) -> bool {
        if !self.is_at_bound() {
            return false;
        }
        let now = Instant::now();
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.sweep();
        }
        self.is_at_bound()
    }

    fn is_at_bound(&self) -> bool {
        let waiting = self.unsent.len() + self.unanswered.len() - self.abandoned;
        waiting >= MOST || self.unanswered.len() >= MOST_UNANSWERED
    }

    /// Frees the places of callers that gave up.
    fn sweep(&mut self) {
        self.unsent.retain(|pending| !pending.is_given_up());
        let calls = self.unanswered.values_mut();
        self.abandoned += calls
            .map(Unanswered::abandon_if_given_up)
            .filter(|newly| *newly)
            .count();
    }
}

pub(super) fn overloaded() -> Refusal {
    Refusal::new(Reason::Overloaded, "too many calls wait for the vault; try again")
}
