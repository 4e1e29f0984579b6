//! The watchdog of a downstream connection, which decides when the connection is closed because it makes no progress.
//!
//! One timer per connection enforces three limits: the idle time, the time for a head and the time for a write. The
//! timer is reset only when it fires, so a call costs no timer: calls, and the stream below them, only record times.

mod stream;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use chassis::connection_slots::Slot;
use proto::Refusal;
use tokio::time::Instant;

use crate::limits::Limits;

pub(super) use stream::WatchedStream;

/// The first bytes of an HTTP/2 connection, enough to tell it from HTTP/1.1.
const PREFACE: &[u8] = b"PRI ";
/// Value of `preface_len` for a connection that does not begin like HTTP/2.
const NOT_HTTP2: usize = usize::MAX;
const NEVER: u64 = 0;
/// Shortest time to the next check. Times have a resolution of one millisecond, so a shorter one would check in a loop.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// The state of a connection. Times are milliseconds since the connection was accepted, plus 1, because 0 is [`NEVER`].
pub(super) struct Watchdog {
    accepted: Instant,
    /// The connection's slot, which counts the active calls.
    slot: Slot,
    idle_since: AtomicU64,
    /// Time at which the first byte of a head arrived, until the head's call begins.
    head_since: AtomicU64,
    /// Time since which the peer accepts no bytes.
    blocked_since: AtomicU64,
    /// Number of bytes of [`PREFACE`] that have arrived, or [`NOT_HTTP2`].
    preface_len: AtomicUsize,
    is_http2: AtomicBool,
    /// True when a part of a request may still arrive after the last response.
    has_unread: AtomicBool,
    is_upgraded: AtomicBool,
    /// The refusal of a malformed head. Nothing is read after such a head.
    refusal: OnceLock<Refusal>,
}

/// The reason why the watchdog closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// The connection has had no call for its idle time, or has lost its slot to another connection.
    Idle,
    SlowHead,
    /// The peer accepts no bytes.
    Blocked,
}

impl Watchdog {
    pub(super) fn new(slot: Slot) -> Arc<Self> {
        slot.started();
        Arc::new(Self {
            accepted: Instant::now(),
            slot,
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(NEVER),
            blocked_since: AtomicU64::new(NEVER),
            preface_len: AtomicUsize::new(0),
            is_http2: AtomicBool::new(false),
            has_unread: AtomicBool::new(false),
            is_upgraded: AtomicBool::new(false),
            refusal: OnceLock::new(),
        })
    }

    pub(super) fn begin_call(self: &Arc<Self>) -> ActiveCall {
        self.slot.call_began();
        self.head_since.store(NEVER, Relaxed);
        ActiveCall(self.clone())
    }

    /// Returns the time until the next check, or the reason to close the connection.
    pub(super) fn check(&self, limits: &Limits) -> Result<Duration, CloseReason> {
        let now = self.now();
        let remaining = |since: &AtomicU64, limit: Duration, reason| match since.load(Relaxed) {
            NEVER => Ok(Duration::MAX),
            since => {
                let elapsed = Duration::from_millis(now.saturating_sub(since));
                let left = limit.checked_sub(elapsed).filter(|left| !left.is_zero());
                left.ok_or(reason)
            }
        };
        // Any of these times may begin right after this check.
        let mut next = limits.idle_timeout.min(limits.write_timeout);
        if !self.is_http2.load(Relaxed) {
            next = next.min(limits.head_timeout);
        }
        next = next.min(remaining(
            &self.blocked_since,
            limits.write_timeout,
            CloseReason::Blocked,
        )?);
        if self.slot.is_idle() {
            if self.slot.is_evicted() {
                return Err(CloseReason::Idle);
            }
            next = next.min(remaining(
                &self.head_since,
                limits.head_timeout,
                CloseReason::SlowHead,
            )?);
            next = next.min(remaining(
                &self.idle_since,
                limits.idle_timeout,
                CloseReason::Idle,
            )?);
        }
        Ok(next.max(MIN_CHECK_INTERVAL))
    }

    pub(super) fn upgrade(&self) {
        self.is_upgraded.store(true, Relaxed);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Relaxed)
    }

    pub(super) fn has_no_call(&self) -> bool {
        self.slot.is_idle()
    }

    /// Records the refusal of a malformed head, after which nothing is read.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.has_unread.store(true, Relaxed);
        // The cell is empty: nothing is read after a first refusal.
        let _ = self.refusal.set(refusal);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn record_read(&self, bytes: &[u8]) {
        if !self.slot.is_idle() || self.is_http2.load(Relaxed) {
            return;
        }
        if self.completes_preface(bytes) {
            self.is_http2.store(true, Relaxed);
            self.head_since.store(NEVER, Relaxed);
        } else if self.head_since.load(Relaxed) == NEVER {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    /// Returns true when `bytes` complete the preface of HTTP/2, which may arrive in pieces.
    fn completes_preface(&self, bytes: &[u8]) -> bool {
        let before = self.preface_len.load(Relaxed);
        let Some(rest) = PREFACE.get(before..) else {
            return false;
        };
        let new = rest.len().min(bytes.len());
        let length = match rest.starts_with(bytes) || bytes.starts_with(rest) {
            true => before + new,
            false => NOT_HTTP2,
        };
        self.preface_len.store(length, Relaxed);
        length == PREFACE.len()
    }

    fn record_write<T>(&self, written: Poll<T>) -> Poll<T> {
        match (&written, self.blocked_since.load(Relaxed)) {
            (Poll::Pending, NEVER) => self.blocked_since.store(self.now(), Relaxed),
            (Poll::Pending, _) | (Poll::Ready(_), NEVER) => {}
            (Poll::Ready(_), _) => self.blocked_since.store(NEVER, Relaxed),
        }
        written
    }
}

/// A call that has not ended. The connection is not idle as long as it has such a call.
pub(super) struct ActiveCall(Arc<Watchdog>);

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.slot.call_ended();
    }
}

impl ActiveCall {
    /// Records that the call's request has a body over HTTP/1.1.
    pub(super) fn begin_body(&self) -> UnreadBody {
        self.0.has_unread.store(true, Relaxed);
        UnreadBody(self.0.clone())
    }

    /// Returns the refusal of the connection's last head, if that head was malformed.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        self.0.refusal.get()
    }
}

/// A request's body of which a part may still arrive.
pub(super) struct UnreadBody(Arc<Watchdog>);

impl UnreadBody {
    pub(super) fn end(self) {
        self.0.has_unread.store(false, Relaxed);
    }
}
