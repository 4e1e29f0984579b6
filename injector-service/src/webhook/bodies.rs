//! The bodies of requests that the webhook holds in memory.
//!
//! Every pod of the cluster may send requests. A pod whose bodies do not arrive must not keep out the API of Kubernetes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chassis::connection_slots::{Eviction, Holder, Slot, Slots};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

/// Maximum number of bodies. All of them together must fit into the memory of the webhook, which is 256 MiB in the chart.
const MAX_BODIES: usize = 8;
/// Maximum number of bodies of one peer.
const MAX_BODIES_OF_PEER: usize = 2;
/// Time for which a request waits until its body may be received. The API waits for its answer for 10 seconds unless the
/// configuration says otherwise.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which a body that is being received cannot be evicted. A body of the API arrives within this time.
const PROMPT: Duration = Duration::from_millis(100);
/// Time for a body to arrive while no other request needs its place.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The limits for bodies of all requests.
pub(super) struct Bodies {
    slots: Slots,
    peers: Mutex<HashMap<Holder, Arc<Semaphore>>>,
}

/// The right to hold one body in memory.
pub(super) struct BodyPermit {
    slot: Slot,
    _of_peer: OwnedSemaphorePermit,
}

/// The body of a request was not received completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyRefusal {
    #[error("the body did not arrive in time")]
    Late,
    #[error("the body arrived too slowly, and another request took its place")]
    Evicted,
}

impl Bodies {
    pub(super) fn new() -> Self {
        Self {
            slots: Slots::new("webhook body", MAX_BODIES, Eviction::OldestIdle),
            peers: Mutex::default(),
        }
    }

    /// Returns the right to hold a body of `peer`, or `None` when the request has waited for too long.
    pub(super) async fn acquire(&self, peer: &Holder) -> Option<BodyPermit> {
        let of_peer = self.of_peer(peer);
        let acquired = async {
            Some(BodyPermit {
                _of_peer: of_peer.acquire_owned().await.ok()?,
                slot: self.slots.take(peer.clone()).await,
            })
        };
        time::timeout(TURN_TIMEOUT, acquired).await.ok()?
    }

    /// Returns the permits of one peer.
    fn of_peer(&self, peer: &Holder) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        // The map itself has one reference. Each body and each request that waits has another one.
        peers.retain(|_, permits| Arc::strong_count(permits) > 1);
        let permits = peers.entry(peer.clone());
        permits
            .or_insert_with(|| Arc::new(Semaphore::new(MAX_BODIES_OF_PEER)))
            .clone()
    }
}

impl BodyPermit {
    /// Receives `body`. A body that does not arrive within [`PROMPT`] can lose its place to another request. A body that has
    /// arrived keeps its place until the permit is dropped.
    pub(super) async fn receive<T>(&self, body: impl Future<Output = T>) -> Result<T, BodyRefusal> {
        let mut body = std::pin::pin!(body);
        if let Ok(received) = time::timeout(PROMPT, body.as_mut()).await {
            return Ok(received);
        }
        self.slot.started();
        tokio::select! {
            received = time::timeout(BODY_TIMEOUT.saturating_sub(PROMPT), body) => {
                self.slot.call_began();
                received.map_err(|_| BodyRefusal::Late)
            }
            () = self.slot.evicted() => Err(BodyRefusal::Evicted),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::{future::pending, net::Ipv4Addr};

    use super::*;

    fn peer(number: u8) -> Holder {
        Holder::Network(Ipv4Addr::new(10, 0, 0, number).into())
    }

    /// Receives bodies of a peer that never arrive.
    fn stall(bodies: &Arc<Bodies>, number: u8, count: usize) {
        for _ in 0..count {
            let bodies = bodies.clone();
            tokio::spawn(async move {
                if let Some(permit) = bodies.acquire(&peer(number)).await {
                    let _: Result<(), _> = permit.receive(pending()).await;
                }
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_whose_bodies_do_not_arrive_leaves_room_for_another() {
        let bodies = Arc::new(Bodies::new());
        stall(&bodies, 1, 200);
        tokio::task::yield_now().await;
        let began = time::Instant::now();
        let permit = bodies.acquire(&peer(2)).await.unwrap();
        assert_eq!(permit.receive(async { "body" }).await, Ok("body"));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn peers_that_hold_all_places_lose_one_to_a_newcomer() {
        let bodies = Bodies::new();
        let holders = (1..=4).flat_map(|number| [number; MAX_BODIES_OF_PEER]);
        for number in holders {
            let permit = bodies.acquire(&peer(number)).await.unwrap();
            tokio::spawn(async move { permit.receive(pending::<()>()).await });
        }
        let permit = bodies.acquire(&peer(100)).await.unwrap();
        assert_eq!(permit.receive(async { "body" }).await, Ok("body"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_a_second_for_its_turn() {
        let bodies = Bodies::new();
        let _held = (bodies.acquire(&peer(1)).await, bodies.acquire(&peer(1)).await);
        let began = time::Instant::now();
        assert!(bodies.acquire(&peer(1)).await.is_none());
        assert_eq!(began.elapsed(), TURN_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let bodies = Bodies::new();
        let permit = bodies.acquire(&peer(1)).await.unwrap();
        let began = time::Instant::now();
        assert_eq!(permit.receive(pending::<()>()).await, Err(BodyRefusal::Late));
        assert_eq!(began.elapsed(), BODY_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn peers_without_requests_take_no_memory() {
        let bodies = Bodies::new();
        for number in 0..100 {
            drop(bodies.acquire(&peer(number)).await);
        }
        drop(bodies.acquire(&peer(200)).await);
        assert_eq!(bodies.peers.lock().unwrap().len(), 1);
    }
}
