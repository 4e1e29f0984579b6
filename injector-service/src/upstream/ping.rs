//! The interval of PING frames to each HTTP/2 server.
//!
//! A gRPC server that receives more PING frames than it allows closes the connection with ENHANCE_YOUR_CALM. The interval
//! is then doubled for the connections that follow (gRFC A8).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::Uid;

/// Upper bound of a doubled interval, unless `--upstream-ping-interval` is longer. Without a bound, an overloaded upstream,
/// which may answer ENHANCE_YOUR_CALM as often as it likes, would never be sent a PING frame again.
const MAX_DOUBLED: Duration = Duration::from_secs(2 * 60 * 60);

/// The intervals for new connections, by server.
pub(crate) struct PingIntervals {
    configured: Duration,
    /// The intervals of the servers whose interval was doubled.
    doubled: Mutex<HashMap<Uid, Duration>>,
}

/// The interval for new connections to one server.
#[derive(Clone)]
pub(super) struct PingInterval {
    all: Arc<PingIntervals>,
    server: Uid,
}

/// The interval that one connection was made with.
pub(super) struct ConnectionPing {
    server: PingInterval,
    interval: Duration,
}

impl PingIntervals {
    pub(crate) fn new(configured: Duration) -> Arc<Self> {
        let doubled = Mutex::default();
        Arc::new(Self { configured, doubled })
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
        doubled.unwrap_or(self.all.configured)
    }

    pub(super) fn of_connection(&self) -> ConnectionPing {
        ConnectionPing {
            server: self.clone(),
            interval: self.get(),
        }
    }
}

impl ConnectionPing {
    /// Doubles the server's interval, because the server closed this connection with ENHANCE_YOUR_CALM. Has no effect when
    /// another connection with the same interval was closed before, since a server closes many connections at once.
    pub(super) fn double_interval(&self) {
        let PingInterval { all, server } = &self.server;
        let mut doubled = all.lock();
        let current = doubled.entry(*server).or_insert(all.configured);
        if *current == self.interval {
            *current = self
                .interval
                .saturating_mul(2)
                .min(MAX_DOUBLED.max(all.configured));
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
            connection.double_interval();
        }
        assert_eq!(interval.get(), Duration::from_secs(10));
        interval.of_connection().double_interval();
        assert_eq!(interval.get(), Duration::from_secs(20));
        assert_eq!(other.get(), Duration::from_secs(5));
    }

    #[test]
    fn the_interval_has_a_limit() {
        let all = PingIntervals::new(Duration::from_secs(360));
        let interval = PingInterval::new(&all, Uid::generate());
        for _ in 0..100 {
            interval.of_connection().double_interval();
        }
        assert_eq!(interval.get(), MAX_DOUBLED);
    }
}
