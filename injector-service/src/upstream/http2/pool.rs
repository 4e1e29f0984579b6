//! The open HTTP/2 connections to one server, and the streams that calls use on them.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Context,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::SizeHint;
use hyper::client::conn::http2::SendRequest;
use tokio::sync::Notify;

use crate::{
    limits::UpstreamLimits,
    upstream::{Body, BodyError, FramePoll},
};

/// Hands out streams on the open connections. The pool makes no connections: [`Http2Client`](super::Http2Client) does, and
/// calls [`Pool::add`].
pub(super) struct Pool {
    pub(super) limits: UpstreamLimits,
    connections: Mutex<Connections>,
    /// Number of calls that wait for a stream.
    waiting: AtomicUsize,
    /// Wakes one waiting call, because a stream may be free now.
    pub(super) changed: Notify,
    /// The server chose HTTP/1.1 when both versions were offered. It is not offered HTTP/2 again.
    pub(super) chose_http1: AtomicBool,
}

#[derive(Default)]
struct Connections {
    open: Vec<PooledConnection>,
    /// A connection is being made. Only one is made at a time, so that calls that arrive together share it.
    dialling: bool,
    /// A connection to one more of the host's addresses could not be made, so no further one is tried.
    spread_failed: bool,
}

/// A connection that accepts calls. When it is dropped, it accepts no more, and closes when its calls have ended.
struct PooledConnection {
    sender: SendRequest<SlotHoldingBody>,
    state: Arc<ConnectionState>,
}

/// The state that a connection, its calls and the pool share.
pub(super) struct ConnectionState {
    pool: Weak<Pool>,
    calls: AtomicUsize,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, and 0 until its SETTINGS frame has arrived.
    max_calls: AtomicUsize,
    /// A call was sent since the idle timeout was last checked.
    used: AtomicBool,
    /// Wakes the task that waits for the peer's SETTINGS frame.
    pub(super) settings: AtomicWaker,
}

/// One of the streams that the peer allows on a connection. Another call may use it when this is dropped.
pub(crate) struct StreamSlot(Arc<ConnectionState>);

/// The connection on which the server did not process a request.
pub(crate) struct RefusingConnection(Arc<ConnectionState>);

/// A stream for one call, and the sender of its connection.
pub(super) struct Lease {
    pub(super) sender: SendRequest<SlotHoldingBody>,
    pub(super) slot: Arc<StreamSlot>,
    /// Nothing was sent on the connection before.
    pub(super) is_first: bool,
}

/// The next step of a call that has no stream.
pub(super) enum PoolStep {
    Send(Lease),
    /// The call makes a connection while it holds the turn.
    Dial(DialTurn),
    /// A connection is being made, or the pool has as many as it may have.
    Wait,
    UseHttp1,
}

impl Pool {
    pub(super) fn new(limits: UpstreamLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            connections: Mutex::default(),
            waiting: AtomicUsize::new(0),
            changed: Notify::new(),
            chose_http1: AtomicBool::new(false),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Returns a stream that is free now, on another connection than `refusing`.
    pub(super) fn find(&self, refusing: &[RefusingConnection]) -> Option<Lease> {
        self.lock().find(refusing)
    }

    /// Decides how a call that found no free stream goes on. With `http2_only`, HTTP/1.1 is no way out.
    pub(super) fn next_step(self: &Arc<Self>, refusing: &[RefusingConnection], http2_only: bool) -> PoolStep {
        let mut connections = self.lock();
        let is_full = connections.open.len() >= self.limits.max_http2_connections;
        // A connection that refused the request has to do when no further connection may be made.
        let refusing = if is_full { &[] } else { refusing };
        if let Some(lease) = connections.find(refusing) {
            return PoolStep::Send(lease);
        }
        if !http2_only && self.chose_http1.load(Relaxed) {
            return PoolStep::UseHttp1;
        }
        if connections.dialling || is_full {
            return PoolStep::Wait;
        }
        connections.dialling = true;
        PoolStep::Dial(DialTurn {
            pool: self.clone(),
            is_spread: false,
        })
    }

    /// Returns the turn to make one more connection if the pool has fewer than `wanted`.
    pub(super) fn turn_to_spread(self: &Arc<Self>, wanted: usize) -> Option<DialTurn> {
        let wanted = wanted.min(self.limits.max_http2_connections);
        let mut connections = self.lock();
        if connections.open.len() >= wanted || connections.dialling || connections.spread_failed {
            return None;
        }
        connections.dialling = true;
        Some(DialTurn {
            pool: self.clone(),
            is_spread: true,
        })
    }

    pub(super) fn note_failed_spread(&self) {
        self.lock().spread_failed = true;
    }

    /// Adds a connection, and returns its first stream.
    pub(super) fn add(&self, sender: SendRequest<SlotHoldingBody>, state: Arc<ConnectionState>) -> Lease {
        let connection = PooledConnection { sender, state };
        let lease = connection.lease(true);
        self.lock().open.push(connection);
        lease
    }

    pub(super) fn retire(&self, state: &Arc<ConnectionState>) {
        self.lock().open.retain(|open| !Arc::ptr_eq(&open.state, state));
        self.wake();
    }

    /// Retires a connection that was not used since the last call of this function.
    pub(super) fn retire_if_unused(&self, state: &Arc<ConnectionState>) {
        let used = |open: &PooledConnection| state.used.swap(false, Relaxed) || !open.state.is_idle();
        self.lock()
            .open
            .retain(|open| !Arc::ptr_eq(&open.state, state) || used(open));
    }

    /// Returns a guard that counts a waiting call until it is dropped.
    pub(super) fn waiting(&self) -> WaitingCall<'_> {
        self.waiting.fetch_add(1, Relaxed);
        WaitingCall(self)
    }

    fn call_ended(&self, state: &Arc<ConnectionState>, is_idle: bool) {
        self.wake();
        if is_idle && self.limits.max_idle < self.limits.max_http2_connections {
            let mut connections = self.lock();
            let idle = connections.open.iter().filter(|open| open.state.is_idle());
            if idle.count() > self.limits.max_idle {
                connections.open.retain(|open| !Arc::ptr_eq(&open.state, state));
            }
        }
    }

    fn wake(&self) {
        if self.waiting.load(Relaxed) > 0 {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// Chooses the connection with the fewest calls, and the first of several, so that calls that arrive one by one share
    /// a connection, and the connections that were made for a burst of calls become idle after it.
    fn find(&mut self, refusing: &[RefusingConnection]) -> Option<Lease> {
        self.open.retain(|open| !open.sender.is_closed());
        let refused = |open: &PooledConnection| {
            refusing
                .iter()
                .any(|refusing| Arc::ptr_eq(&refusing.0, &open.state))
        };
        let open = self
            .open
            .iter()
            .filter(|open| !open.state.is_full() && !refused(open));
        let open = open.min_by_key(|open| open.state.calls.load(Relaxed))?;
        Some(open.lease(false))
    }
}

impl PooledConnection {
    /// Must be called under the pool's lock, or before the pool has the connection: otherwise two calls could take the
    /// last stream.
    fn lease(&self, is_first: bool) -> Lease {
        self.state.calls.fetch_add(1, Relaxed);
        self.state.used.store(true, Relaxed);
        Lease {
            sender: self.sender.clone(),
            slot: Arc::new(StreamSlot(self.state.clone())),
            is_first,
        }
    }
}

impl Lease {
    /// Returns true when other calls are under way on the connection.
    pub(super) fn is_shared(&self) -> bool {
        self.slot.0.calls.load(Relaxed) > 1
    }
}

impl ConnectionState {
    pub(super) fn new(pool: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self {
            pool: Arc::downgrade(pool),
            calls: AtomicUsize::new(0),
            max_calls: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            settings: AtomicWaker::new(),
        })
    }

    fn is_idle(&self) -> bool {
        self.calls.load(Relaxed) == 0
    }

    fn is_full(&self) -> bool {
        self.calls.load(Relaxed) >= self.max_calls.load(Relaxed)
    }

    /// Notes how many calls the peer allows, and wakes a waiting call when that is more than before.
    pub(super) fn set_max_calls(&self, max_calls: usize) {
        if self.max_calls.swap(max_calls, Relaxed) < max_calls
            && let Some(pool) = self.pool.upgrade()
        {
            pool.wake();
        }
    }

    /// Returns true once the peer's SETTINGS frame has arrived.
    pub(super) fn has_settings(&self) -> bool {
        self.max_calls.load(Relaxed) > 0
    }
}

impl StreamSlot {
    pub(super) fn refusing(&self) -> RefusingConnection {
        RefusingConnection(self.0.clone())
    }

    /// Takes the connection out of the pool. It is closed when its calls have ended.
    pub(in crate::upstream) fn retire(&self) {
        if let Some(pool) = self.0.pool.upgrade() {
            pool.retire(&self.0);
        }
    }

    /// Returns a guard that retires the connection when it is dropped.
    pub(super) fn retire_on_drop(&self) -> RetireOnDrop<'_> {
        RetireOnDrop(self)
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let before = self.0.calls.fetch_sub(1, Relaxed);
        if let Some(pool) = self.0.pool.upgrade() {
            pool.call_ended(&self.0, before == 1);
        }
    }
}

pub(super) struct RetireOnDrop<'s>(&'s StreamSlot);

impl Drop for RetireOnDrop<'_> {
    fn drop(&mut self) {
        self.0.retire();
    }
}

pub(super) struct WaitingCall<'p>(&'p Pool);

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// The right to make a connection. Another call gets it when this is dropped.
pub(super) struct DialTurn {
    pub(super) pool: Arc<Pool>,
    /// No call needs the connection: it spreads calls over one more of the host's addresses.
    pub(super) is_spread: bool,
}

impl Drop for DialTurn {
    fn drop(&mut self) {
        self.pool.lock().dialling = false;
        self.pool.wake();
    }
}

/// The body of a request, which keeps the call's slot: an HTTP/2 stream lasts until both of its bodies have ended.
pub(super) struct SlotHoldingBody {
    pub(super) body: Body,
    pub(super) _slot: Arc<StreamSlot>,
}

impl http_body::Body for SlotHoldingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
