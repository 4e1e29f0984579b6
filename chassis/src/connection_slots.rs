//! Slots limit the number of connections fairly: a peer with many connections cannot keep out a peer with few.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use proto::Principal;

/// Interval at which a waiting newcomer checks for an idle connection, because connections become idle without a signal.
const RETRY: Duration = Duration::from_millis(50);
/// Shortest time between two log lines about evictions.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The peer that a connection counts for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An IPv4 address, or the first 64 bits of an IPv6 address: a host chooses the other 64 as it likes.
    Network(IpAddr),
    /// An authenticated principal.
    Principal(Principal),
    /// A user of this machine, by its uid.
    User(u32),
}

impl Holder {
    /// The network that `peer` is in.
    pub fn network(peer: SocketAddr) -> Self {
        Self::Network(match peer.ip().to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
            ip @ IpAddr::V4(_) => ip,
        })
    }
}

/// The choice of the connection that loses its slot to a newcomer when all slots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// The oldest idle connection of the holder with the most slots. Without an idle one the newcomer waits.
    OldestIdle,
    /// The oldest connection, busy or not, of the holder with the most slots, provided that the newcomer's holder has
    /// fewer even with the newcomer. Otherwise the newcomer is refused: connections of one holder do not evict one
    /// another, because each would come back at once.
    FromLargerHolder,
}

/// A limit for connections of one kind. Clones share it.
#[derive(Clone)]
pub struct Slots(Arc<SharedSlots>);

struct SharedSlots {
    kind: &'static str,
    limit: usize,
    eviction: Eviction,
    table: Mutex<SlotTable>,
    freed: Notify,
}

#[derive(Default)]
struct SlotTable {
    next_id: u64,
    taken: usize,
    holders: HashMap<Holder, BTreeMap<Rank, Arc<SlotState>>>,
    evicted_since_log: usize,
    last_log: Option<Instant>,
}

/// The order in which the connections of one holder lose their slots: first those that never carried a call, because a
/// flood of idle connections consists of them, and the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    has_called: bool,
    /// Ids grow.
    id: u64,
}

struct SlotState {
    evicted: CancellationToken,
    /// True once the connection carried a call. `has_called` changes only while the table is locked.
    has_called: AtomicBool,
    /// Number of running calls, plus 1 until [`Slot::started`] is called.
    calls: AtomicUsize,
}

impl SlotState {
    fn rank(&self, id: u64) -> Rank {
        Rank {
            has_called: self.has_called.load(Relaxed),
            id,
        }
    }

    fn is_idle(&self) -> bool {
        self.calls.load(Relaxed) == 0
    }

    fn is_unused(&self) -> bool {
        self.is_idle() && !self.has_called.load(Relaxed)
    }
}

impl Slots {
    /// Makes slots for at most `limit` concurrent connections, which the log calls `kind`.
    pub fn new(kind: &'static str, limit: usize, eviction: Eviction) -> Self {
        Self(Arc::new(SharedSlots {
            kind,
            limit,
            eviction,
            table: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// Returns a slot for a connection of `holder` when a slot is free or another connection can be evicted.
    pub fn try_take(&self, holder: &Holder) -> Option<Slot> {
        self.try_take_with(holder, CancellationToken::new())
    }

    /// Returns a slot for the connection that has `slot`, whose client turned out to be `holder`. The eviction of either slot
    /// closes the connection.
    pub(crate) fn try_take_over(&self, holder: &Holder, slot: &Slot) -> Option<Slot> {
        self.try_take_with(holder, slot.evictor())
    }

    fn try_take_with(&self, holder: &Holder, evicted: CancellationToken) -> Option<Slot> {
        let shared = &self.0;
        let mut table = shared.table();
        if table.taken >= shared.limit {
            let (victim, rank) = table.victim(shared.eviction, holder)?;
            table.evict(shared, &victim, rank);
        }
        Some(table.add(shared, holder, evicted))
    }

    /// Evicts the oldest connection that never carried a call, of the holder with the most slots. A connection that is kept
    /// between two calls stays.
    pub(crate) fn evict_unused(&self) {
        let mut table = self.0.table();
        if let Some((holder, rank)) = table.oldest_of_most(0, SlotState::is_unused) {
            table.evict(&self.0, &holder, rank);
        }
    }

    /// Returns a slot as [`Slots::try_take`] does, and waits until one is available.
    pub async fn take(&self, holder: Holder) -> Slot {
        loop {
            if let Some(slot) = self.try_take(&holder) {
                return slot;
            }
            let _ = time::timeout(RETRY, self.0.freed.notified()).await;
        }
    }
}

impl SharedSlots {
    fn table(&self) -> MutexGuard<'_, SlotTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotTable {
    fn add(&mut self, shared: &Arc<SharedSlots>, holder: &Holder, evicted: CancellationToken) -> Slot {
        let (id, state) = (
            self.next_id,
            Arc::new(SlotState {
                evicted,
                has_called: AtomicBool::new(false),
                calls: AtomicUsize::new(1),
            }),
        );
        self.next_id += 1;
        self.taken += 1;
        let held = self.holders.entry(holder.clone()).or_default();
        held.insert(state.rank(id), state.clone());
        Slot {
            shared: shared.clone(),
            holder: holder.clone(),
            id,
            state,
        }
    }

    /// Evicts the connection of `holder` that has this `rank`.
    fn evict(&mut self, shared: &SharedSlots, holder: &Holder, rank: Rank) {
        if let Some(state) = self.remove(holder, rank) {
            state.evicted.cancel();
        }
        self.evicted_since_log += 1;
        if self.last_log.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(
                kind = shared.kind,
                limit = shared.limit,
                count = self.evicted_since_log,
                "connections were closed to make room for new ones"
            );
            self.last_log = Some(Instant::now());
            self.evicted_since_log = 0;
        }
    }

    /// Returns the connection to evict for a new connection of `newcomer`.
    fn victim(&self, eviction: Eviction, newcomer: &Holder) -> Option<(Holder, Rank)> {
        match eviction {
            Eviction::OldestIdle => self.oldest_of_most(0, SlotState::is_idle),
            Eviction::FromLargerHolder => {
                let its = self.holders.get(newcomer).map_or(0, BTreeMap::len);
                self.oldest_of_most(its + 2, |_| true)
            }
        }
    }

    /// Returns the first `evictable` connection, by [`Rank`], of the holder with the most slots. Only holders with an evictable
    /// connection and at least `least` slots are considered.
    fn oldest_of_most(&self, least: usize, evictable: impl Fn(&SlotState) -> bool) -> Option<(Holder, Rank)> {
        self.holders
            .iter()
            .filter(|(_, held)| held.len() >= least)
            .filter_map(|(holder, held)| {
                let (rank, _) = held.iter().find(|(_, state)| evictable(state))?;
                Some((held.len(), holder, *rank))
            })
            .max_by_key(|(held, _, _)| *held)
            .map(|(_, holder, rank)| (holder.clone(), rank))
    }

    /// Notes that a connection carries a call. Does nothing for one that was evicted.
    fn note_call(&mut self, holder: &Holder, id: u64) {
        let Some(held) = self.holders.get_mut(holder) else {
            return;
        };
        if let Some(state) = held.remove(&Rank {
            has_called: false,
            id,
        }) {
            state.has_called.store(true, Relaxed);
            held.insert(state.rank(id), state);
        }
    }

    fn remove(&mut self, holder: &Holder, rank: Rank) -> Option<Arc<SlotState>> {
        let held = self.holders.get_mut(holder)?;
        let state = held.remove(&rank)?;
        if held.is_empty() {
            self.holders.remove(holder);
        }
        self.taken -= 1;
        Some(state)
    }
}

/// A connection's slot, given back when dropped. The connection counts as busy until it [`started`](Slot::started).
pub struct Slot {
    shared: Arc<SharedSlots>,
    holder: Holder,
    id: u64,
    state: Arc<SlotState>,
}

impl Slot {
    /// Ends the start of the connection: from now on the connection is idle whenever no call is running on it. Must be
    /// called once at the most.
    pub fn started(&self) {
        self.call_ended();
        self.shared.freed.notify_one();
    }

    /// Notes that a call begins on the connection. The call runs until the returned value is dropped.
    #[must_use]
    pub fn begin_call(self: &Arc<Self>) -> SlotCall {
        self.call_began();
        SlotCall(self.clone())
    }

    /// Notes that a call begins on the connection.
    pub fn call_began(&self) {
        self.state.calls.fetch_add(1, Relaxed);
        if !self.state.has_called.load(Relaxed) {
            self.shared.table().note_call(&self.holder, self.id);
        }
    }

    /// Notes that a call has ended.
    pub fn call_ended(&self) {
        self.state.calls.fetch_sub(1, Relaxed);
    }

    /// Returns the peer that the connection counts for.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Returns true when no call is running and the connection has started.
    pub fn is_idle(&self) -> bool {
        self.state.is_idle()
    }

    /// Returns true when the connection was evicted.
    pub fn is_evicted(&self) -> bool {
        self.state.evicted.is_cancelled()
    }

    /// Completes when the connection is evicted; the caller must then close the connection.
    pub fn evicted(&self) -> WaitForCancellationFutureOwned {
        self.evictor().cancelled_owned()
    }

    /// Returns a token whose cancellation evicts the connection.
    pub(crate) fn evictor(&self) -> CancellationToken {
        self.state.evicted.clone()
    }
}

/// A running call, which keeps its connection from counting as idle.
pub struct SlotCall(Arc<Slot>);

impl Drop for SlotCall {
    fn drop(&mut self) {
        self.0.call_ended();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // `remove` returns `None` for an evicted connection, which gave its slot away before.
        let mut table = self.shared.table();
        drop(table.remove(&self.holder, self.state.rank(self.id)));
        drop(table);
        self.shared.freed.notify_one();
    }
}

#[cfg(test)]
mod tests;
