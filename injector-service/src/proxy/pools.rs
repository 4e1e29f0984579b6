//! Connections of each server as it is described now, shared with no other.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chassis::tls::provider;
use proto::{CallId, Reason, Refusal, Uid};

use crate::{
    inject,
    registry::Entry,
    resolve::Resolver,
    upstream::{ClientCertificateSource, DialContext, Upstream},
};

pub(super) struct Pools {
    network: Arc<DialContext>,
    upstreams: Mutex<HashMap<(Uid, u64), Arc<Upstream>>>,
}

impl Pools {
    pub(super) fn new(network: Arc<DialContext>) -> Self {
        Self {
            network,
            upstreams: Mutex::default(),
        }
    }

    /// The connections to a server. `resolver` asks for its client certificate when one is made.
    pub(super) fn of(&self, entry: &Entry, resolver: &Resolver) -> Result<Arc<Upstream>, Refusal> {
        let server = &entry.server;
        let key = (server.uid, server.revision);
        let age = self.network.limits.max_connection_age;
        let fresh = |upstream: &&Arc<Upstream>| !upstream.is_older_than(age);
        if let Some(upstream) = self.lock().get(&key).filter(fresh) {
            return Ok(upstream.clone());
        }
        // Two calls at once may both make one; the first stays, and neither has dialled yet.
        let identify = identify(entry, resolver);
        let made = Arc::new(Upstream::new(server, &self.network, identify.as_ref())?);
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

/// Has the vault decrypt the server's client certificate, each time that it is called. None for a server without one.
fn identify(entry: &Entry, resolver: &Resolver) -> Option<ClientCertificateSource> {
    let entry = Arc::new(entry.for_client_certificate()?);
    let resolver = resolver.clone();
    Some(Arc::new(move || {
        let (entry, resolver) = (entry.clone(), resolver.clone());
        Box::pin(async move {
            // A handshake may be for several calls, so it has an id of its own in the vault's audit log.
            let resolved = resolver.resolve(&entry, &CallId::generate(), None).await?;
            let found = resolved
                .iter()
                .find_map(|resolved| Some((resolved.secret, resolved.value.as_ref()?)));
            let Some((name, value)) = found else {
                let missing = "the server's client certificate does not exist; nothing was sent";
                return Err(Refusal::new(Reason::SecretRequiredMissing, missing));
            };
            inject::client_certificate(name, value, &provider())
        })
    }))
}
