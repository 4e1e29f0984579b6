//! Requests that wait for the vault, in bounded numbers.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use proto::{Reason, Refusal, vault::v1::DecryptCall};
use tokio::{sync::oneshot, time::Instant};

use super::{request::VaultRequest, seal_keys::OpenedAnswer};

/// Upper bound for the requests whose callers wait. Further requests are refused at once.
const MAX_AWAITED: usize = 8192;
/// Upper bound for the requests that were sent and have no answer, abandoned ones included. Without this bound, a vault
/// that reads requests and never answers would fill the memory with abandoned requests.
const MAX_SENT: usize = 4 * MAX_AWAITED;
/// Shortest interval between searches for abandoned requests, which would be slow at each request that finds no room.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// A request, and the channel to its caller.
pub(super) struct PendingRequest {
    pub(super) request: VaultRequest,
    pub(super) answer: oneshot::Sender<Result<OpenedAnswer, Refusal>>,
}

impl PendingRequest {
    /// Answers the caller. The answer is dropped, and so wiped, when the caller gave up.
    pub(super) fn complete(self, answer: Result<OpenedAnswer, Refusal>) {
        drop(self.answer.send(answer));
    }

    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }
}

/// A request that was sent to the vault and has no answer yet.
pub(super) enum SentRequest {
    Awaited(PendingRequest),
    /// The caller gave up. The vault's answers open only in the order in which they were sealed, each with the name of its
    /// server, so the name has to be kept until the answer has arrived.
    Abandoned {
        server: Box<str>,
    },
}

impl SentRequest {
    /// Returns the server that the answer is for, or an empty text when the request is about no server.
    pub(super) fn server(&self) -> &str {
        match self {
            Self::Awaited(pending) => pending.request.server(),
            Self::Abandoned { server } => server,
        }
    }

    /// Returns the caller, if the caller still waits.
    pub(super) fn caller(self) -> Option<PendingRequest> {
        match self {
            Self::Awaited(pending) => Some(pending),
            Self::Abandoned { server: _ } => None,
        }
    }

    /// Marks the request as abandoned when its caller gave up. Returns true when the request was not marked before.
    fn mark_if_abandoned(&mut self) -> bool {
        match self {
            Self::Awaited(pending) if pending.is_abandoned() => {
                let server = pending.request.server().into();
                *self = Self::Abandoned { server };
                true
            }
            Self::Awaited(_) | Self::Abandoned { server: _ } => false,
        }
    }
}

pub(super) struct PendingRequests {
    /// Requests that the driver has not sent yet.
    unsent: VecDeque<PendingRequest>,
    /// Requests that the driver has sent, by the id of their `DecryptCall`.
    sent: HashMap<u64, SentRequest>,
    /// The number of abandoned requests in `sent`.
    abandoned: usize,
    next_id: u64,
    next_sweep: Instant,
}

impl PendingRequests {
    pub(super) fn new() -> Self {
        Self {
            unsent: VecDeque::new(),
            sent: HashMap::new(),
            abandoned: 0,
            next_id: 0,
            next_sweep: Instant::now(),
        }
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Adds a request to the unsent ones, or refuses it when too many wait.
    pub(super) fn admit(&mut self, pending: PendingRequest) {
        if self.is_full() {
            pending.complete(Err(overloaded()));
        } else {
            self.unsent.push_back(pending);
        }
    }

    /// Returns true while a caller waits for the answer to a request that was sent.
    pub(super) fn awaits_answers(&self) -> bool {
        self.sent.len() > self.abandoned
    }

    pub(super) fn pop_unsent(&mut self) -> Option<PendingRequest> {
        self.unsent.pop_front()
    }

    /// Returns the message of a request that is sent now. Returns `None` when the caller gave up, or when too many wait.
    pub(super) fn send(&mut self, pending: PendingRequest) -> Option<DecryptCall> {
        if pending.is_abandoned() {
            return None;
        }
        if self.is_full() {
            pending.complete(Err(overloaded()));
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        let request = Some(pending.request.message());
        self.sent.insert(id, SentRequest::Awaited(pending));
        Some(DecryptCall { id, request })
    }

    /// Removes and returns the request `id`. Returns `None` for an id that was never given or was answered already.
    pub(super) fn take_sent(&mut self, id: u64) -> Option<SentRequest> {
        let sent = self.sent.remove(&id)?;
        if matches!(sent, SentRequest::Abandoned { server: _ }) {
            self.abandoned -= 1;
        }
        Some(sent)
    }

    /// Makes the sent requests unsent again, before the others, unless their callers gave up.
    pub(super) fn requeue_sent(&mut self) {
        let awaited = self.sent.drain().filter_map(|(_, sent)| sent.caller());
        awaited.for_each(|pending| self.unsent.push_front(pending));
        self.abandoned = 0;
        self.sweep();
    }

    pub(super) fn refuse_all(&mut self, refusal: impl Fn() -> Refusal) {
        let sent = self.sent.drain().filter_map(|(_, sent)| sent.caller());
        for pending in sent.chain(self.unsent.drain(..)) {
            pending.complete(Err(refusal()));
        }
        self.abandoned = 0;
    }

    fn is_full(&mut self) -> bool {
        if !self.is_at_limit() {
            return false;
        }
        let now = Instant::now();
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.sweep();
        }
        self.is_at_limit()
    }

    fn is_at_limit(&self) -> bool {
        let awaited = self.unsent.len() + self.sent.len() - self.abandoned;
        awaited >= MAX_AWAITED || self.sent.len() >= MAX_SENT
    }

    /// Makes room by finding the callers that gave up.
    fn sweep(&mut self) {
        self.unsent.retain(|pending| !pending.is_abandoned());
        let sent = self.sent.values_mut();
        self.abandoned += sent
            .map(SentRequest::mark_if_abandoned)
            .filter(|newly| *newly)
            .count();
    }
}

pub(super) fn overloaded() -> Refusal {
    Refusal::new(Reason::Overloaded, "too many calls wait for the vault; try again")
}
