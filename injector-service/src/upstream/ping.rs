//! How often one HTTP/2 server is sent a PING frame.
//!
//! A gRPC server that gets more of them than it allows closes the connection with ENHANCE_YOUR_CALM. The interval is then
//! doubled for the connections that follow (gRFC A8).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::Uid;

/// The longest interval that doubling leads to, unless `--upstream-ping-interval` is longer. An upstream that is overloaded
/// answers ENHANCE_YOUR_CALM, too, and as often as it likes.
const MOST: Duration = Duration::from_secs(2 * 60 * 60);

/// The intervals for new connections to all servers.
pub struct PingIntervals {
    first: Duration,
    /// The intervals that are not the first one any more.
    doubled: Mutex<HashMap<Uid, Duration>>,
}

/// The interval for new connections to one server.
#[derive(Clone)]
pub(super) struct PingInterval {
    all: Arc<PingIntervals>,
    server: Uid,
}

/// The interval of one connection.
pub(super) struct ConnectionPing {
    of_server: PingInterval,
    interval: Duration,
}

impl PingIntervals {
    /// Begins with `first` for each server.
    pub fn new(first: Duration) -> Arc<Self> {
        let doubled = Mutex::default();
        Arc::new(Self { first, doubled })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uid, Duration>> {
        self.doubled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PingInterval {
    pub(super) fn new(all: &Arc<PingIntervals>, server: Uid) -> Self {
        let all = all.clone();
        Self { all, server }
    }

    pub(super) fn get(&self) -> Duration {
        let doubled = self.all.lock().get(&self.server).copied();
        doubled.unwrap_or(self.all.first)
    }

    pub(super) fn of_connection(&self) -> ConnectionPing {
        ConnectionPing {
            of_server: self.clone(),
            interval: self.get(),
        }
    }
}

impl ConnectionPing {
    /// Doubles the server's interval, because the server closed this connection with ENHANCE_YOUR_CALM. Has no effect when
    /// another connection with the same interval was closed before: many are closed at once.
    pub(super) fn was_too_often(&self) {
        let PingInterval { all, server } = &self.of_server;
        let mut doubled = all.lock();
        let current = doubled.entry(*server).or_insert(all.first);
        if *current == self.interval {
            *current = self.interval.saturating_mul(2).min(MOST.max(all.first));
            tracing::info!(
                interval = ?*current,
                "an upstream answered ENHANCE_YOUR_CALM; the interval of PING frames to it is doubled"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_are_closed_together_double_the_interval_once() {
        let all = PingIntervals::new(Duration::from_secs(5));
        let (interval, other) = (
            PingInterval::new(&all, Uid::generate()),
            PingInterval::new(&all, Uid::generate()),
        );
        let together = [interval.of_connection(), interval.of_connection()];
        for connection in &together {
            connection.was_too_often();
        }
        assert_eq!(interval.get(), Duration::from_secs(10));
        interval.of_connection().was_too_often();
        assert_eq!(interval.get(), Duration::from_secs(20));
        assert_eq!(other.get(), Duration::from_secs(5));
    }

    #[test]
    fn the_interval_has_a_limit() {
        let all = PingIntervals::new(Duration::from_secs(360));
        let interval = PingInterval::new(&all, Uid::generate());
        for _ in 0..100 {
            interval.of_connection().was_too_often();
        }
        assert_eq!(interval.get(), MOST);
    }
}
