//! The connection pools of the servers: one for each server and revision, which no other server shares.

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
    context: Arc<DialContext>,
    upstreams: Mutex<HashMap<(Uid, u64), Arc<Upstream>>>,
}

impl Pools {
    pub(super) fn new(context: Arc<DialContext>) -> Self {
        Self {
            context,
            upstreams: Mutex::default(),
        }
    }

    /// Returns the pool of a server, and replaces a pool that is stale. New connections get the client certificate of the server through `resolver`.
    pub(super) fn of(&self, entry: &Arc<Entry>, resolver: &Resolver) -> Result<Arc<Upstream>, Refusal> {
        let server = &entry.server;
        let key = (server.uid, server.revision);
        let is_fresh = |upstream: &&Arc<Upstream>| !upstream.is_stale(&self.context);
        if let Some(upstream) = self.lock().get(&key).filter(is_fresh) {
            return Ok(upstream.clone());
        }
        let certificate = client_certificate_source(entry, resolver);
        let new = Arc::new(Upstream::new(server, &self.context, certificate.as_ref())?);
        let mut upstreams = self.lock();
        // Two calls at the same time may both make a pool. The first one stays; neither has a connection yet.
        if let Some(upstream) = upstreams.get(&key).filter(is_fresh) {
            return Ok(upstream.clone());
        }
        upstreams.insert(key, new.clone());
        Ok(new)
    }

    /// Drops the pools of servers whose uid and revision are not in `current`. Calls under way finish on their
    /// connections.
    pub(super) fn retain(&self, current: &HashSet<(Uid, u64)>) {
        self.lock().retain(|key, _| current.contains(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Uid, u64), Arc<Upstream>>> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a function that has the vault decrypt the server's client certificate for one handshake, or None for a
/// server without a client certificate.
fn client_certificate_source(entry: &Arc<Entry>, resolver: &Resolver) -> Option<ClientCertificateSource> {
    entry.server.spec.client_certificate()?;
    let entry = entry.clone();
    let resolver = resolver.clone();
    Some(Arc::new(move || {
        let (entry, resolver) = (entry.clone(), resolver.clone());
        Box::pin(async move {
            let secrets = Vec::from_iter(entry.server.spec.client_certificate());
            // Several calls may share the connection, so the handshake has an id of its own in the vault's audit log.
            let call_id = CallId::generate();
            let resolved = resolver.resolve(&entry, &secrets, &call_id, None).await?;
            let found = resolved
                .iter()
                .find_map(|resolved| Some((resolved.name, resolved.value.as_ref()?)));
            let Some((name, value)) = found else {
                let missing = "the server's client certificate does not exist; nothing was sent";
                return Err(Refusal::new(Reason::SecretRequiredMissing, missing));
            };
            inject::client_certificate(name, value, &provider())
        })
    }))
}
