//! The data plane: worker threads that serve the connections of all its listeners.

use std::{io, iter, sync::Arc};

use chassis::{
    channel::{Channels, ServiceAddress},
    connection_slots::{Eviction, Slots},
    keepalive::TcpTimeout,
    listen,
    tls::ClientTls,
    worker_threads::{self, AcceptedConnection, WorkerThreads},
};
use futures_util::future::join_all;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    RunError,
    config::Config,
    metrics::Metrics,
    proxy::{BufferBudget, IncomingConnection, ListenerRoute, ListenerSettings, Proxy},
    registry::Registry,
    resolve::{ConnectionFault, Resolver, VaultCondition, VaultDriver, VaultLink},
    upstream::DialContext,
};

/// Settings and state that the worker threads share.
pub(crate) struct DataPlane<'r> {
    pub(crate) config: &'r Config,
    pub(crate) registry: &'r Registry,
    pub(crate) metrics: &'r Metrics,
    pub(crate) dial_context: Arc<DialContext>,
    pub(crate) budget: BufferBudget,
    pub(crate) condition: VaultCondition,
    /// Changed when the credentials of the connections to the vault were replaced.
    pub(crate) credentials: watch::Sender<()>,
    pub(crate) shutdown: &'r CancellationToken,
    pub(crate) after_calls: CancellationToken,
}

/// The state of one worker thread, which has pools and a stream to the vault of its own.
struct DataPlaneWorker {
    proxy: Proxy,
    driver: VaultDriver,
    vault: (ServiceAddress, ClientTls),
    credentials: watch::Receiver<()>,
    condition: VaultCondition,
    tcp_timeout: TcpTimeout,
    settings: ListenerSettings,
    shutdown: CancellationToken,
    after_calls: CancellationToken,
}

impl DataPlane<'_> {
    /// Starts a worker thread for each resolver, and serves the listeners until the shutdown. The task ends when the
    /// calls under way have ended.
    pub(crate) fn start(
        self,
        resolvers: impl Iterator<Item = (Resolver, VaultDriver)>,
        shared: TcpListener,
        dedicated: Vec<(TcpListener, ListenerRoute)>,
    ) -> io::Result<JoinHandle<Result<(), RunError>>> {
        let workers = resolvers.map(|(resolver, driver)| self.worker(resolver, driver));
        let workers = worker_threads::start(workers.map(|worker| move |accepted| worker.run(accepted)))?;
        Ok(tokio::spawn(serve(
            iter::once((shared, ListenerRoute::Any))
                .chain(dedicated)
                .collect(),
            workers,
            self.config.limits.max_connections,
            self.config.data_plane_tls.is_some(),
            self.shutdown.clone(),
        )))
    }

    fn worker(&self, resolver: Resolver, driver: VaultDriver) -> DataPlaneWorker {
        let config = self.config;
        DataPlaneWorker {
            proxy: Proxy::new(
                self.registry.clone(),
                resolver,
                self.dial_context.clone(),
                config.hosts.clone(),
                config.limits.clone(),
                self.budget.clone(),
                self.metrics.clone(),
            ),
            driver,
            vault: (config.vault.clone(), config.vault_tls.clone()),
            credentials: self.credentials.subscribe(),
            condition: self.condition.clone(),
            tcp_timeout: config.limits.keepalive.tcp_timeout,
            settings: ListenerSettings {
                tls: config.data_plane_tls.clone(),
                grace: config.shutdown_grace,
            },
            shutdown: self.shutdown.clone(),
            after_calls: self.after_calls.clone(),
        }
    }
}

impl DataPlaneWorker {
    async fn run(
        self,
        accepted: mpsc::UnboundedReceiver<AcceptedConnection<IncomingConnection>>,
    ) -> Result<(), RunError> {
        let Self {
            proxy,
            driver,
            vault: (address, tls),
            credentials,
            condition,
            tcp_timeout,
            settings,
            shutdown,
            after_calls,
        } = self;
        let fault = ConnectionFault::default();
        let observed = fault.clone();
        let observer = Arc::new(move |error: &io::Error| observed.note(error));
        let channels = Channels::new(&address, tls, tcp_timeout, observer)?;
        let link = VaultLink::new(move || channels.open(), credentials);
        tokio::spawn(driver.run(link, fault, condition, after_calls));
        let proxy = Arc::new(proxy);
        let pools = proxy.clone();
        tokio::spawn(async move { pools.close_stale_connections().await });
        proxy.serve(accepted, settings, shutdown).await;
        Ok(())
    }
}

/// Hands the connections of all listeners to the worker threads, and then waits for these threads.
async fn serve(
    listeners: Vec<(TcpListener, ListenerRoute)>,
    workers: WorkerThreads<IncomingConnection, Result<(), RunError>>,
    max_connections: usize,
    tls: bool,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    join_all(listeners.into_iter().map(|(listener, route)| {
        let (workers, route) = (&workers, Arc::new(route));
        let connections = Slots::new("data plane", max_connections, Eviction::OldestIdle);
        // A TLS connection takes one of the `connections` after its handshake.
        let first_slots = match tls {
            true => listen::handshake_slots(),
            false => connections.clone(),
        };
        listen::accept(
            listener,
            first_slots,
            shutdown.clone(),
            move |stream, peer, slot| {
                let connection = IncomingConnection {
                    peer,
                    slot,
                    connections: connections.clone(),
                    route: route.clone(),
                };
                workers.dispatch(stream, connection);
            },
        )
    }))
    .await;
    let mut results = workers.join().await.into_iter();
    results.try_for_each(|result| result.unwrap_or(Err(RunError::ThreadEnded)))
}
