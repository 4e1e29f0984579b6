//! Connections of each server as it is described now, shared with no other.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto::{Refusal, Uid};

use crate::{
    registry::server::Server,
    upstream::{Network, Upstream},
};

pub(super) struct Pools {
    network: Arc<Network>,
    upstreams: Mutex<HashMap<(Uid, u64), Arc<Upstream>>>,
}

impl Pools {
    pub(super) fn new(network: Arc<Network>) -> Self {
        Self {
            network,
            upstreams: Mutex::default(),
        }
    }

    pub(super) fn of(&self, server: &Server) -> Result<Arc<Upstream>, Refusal> {
        let key = (server.uid, server.revision);
        let age = self.network.limits.max_connection_age;
        let fresh = |upstream: &&Arc<Upstream>| !upstream.is_worn(age);
        if let Some(upstream) = self.lock().get(&key).filter(fresh) {
            return Ok(upstream.clone());
        }
        // Two calls at once may both make one; the first stays, and neither has dialled yet.
        let made = Arc::new(Upstream::new(server, &self.network)?);
        let mut upstreams = self.lock();
        if let Some(upstream) = upstreams.get(&key).filter(fresh) {
            return Ok(upstream.clone());
        }
        upstreams.insert(key, made.clone());
        Ok(made)
    }

    /// Drops those of servers that are not among these uids and revisions. Calls under way finish on their connections.
    pub(super) fn retain(&self, current: &HashSet<(Uid, u64)>) {
        self.lock().retain(|key, _| current.contains(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Uid, u64), Arc<Upstream>>> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
