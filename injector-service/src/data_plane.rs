//! The data plane: worker threads that serve the connections of all its listeners.

use std::{io, sync::Arc};

use chassis::{
    channel::{Channels, ServiceAddress},
    connection_slots::{Eviction, Slots},
    keepalive::TcpTimeout,
    listen,
    tls::ClientTls,
    unix_socket::UnixSocketListener,
    worker_threads::{self, Detached, WorkerThreads},
};
use futures_util::future::{join, join_all};
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
    proxy::{
        BufferBudget, CallSettings, IncomingConnection, IncomingTcp, ListenerRoute, ListenerSettings, Proxy,
    },
    registry::Registry,
    resolve::{ConnectionFault, Resolver, VaultCondition, VaultCredentials, VaultDriver, VaultLink},
    upstream::DialContext,
};

/// The sockets on which programs call.
pub(crate) struct DataPlaneListeners {
    pub(crate) tcp: Vec<(TcpListener, ListenerRoute)>,
    pub(crate) unix: Option<UnixSocketListener>,
}

/// Settings and state that the worker threads share.
pub(crate) struct DataPlane<'r> {
    pub(crate) config: &'r Config,
    pub(crate) registry: &'r Registry,
    pub(crate) metrics: &'r Metrics,
    pub(crate) dial_context: Arc<DialContext>,
    pub(crate) budget: BufferBudget,
    pub(crate) condition: VaultCondition,
    /// Notified when the injector's certificate or the CAs for the vault were replaced.
    pub(crate) tls_changes: watch::Sender<()>,
    pub(crate) shutdown: &'r CancellationToken,
    pub(crate) after_calls: CancellationToken,
}

/// The state of one worker thread, which has pools and a stream to the vault of its own.
struct DataPlaneWorker {
    proxy: Proxy,
    driver: VaultDriver,
    vault: (ServiceAddress, ClientTls),
    credentials: VaultCredentials,
    tls_changes: watch::Receiver<()>,
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
        listeners: DataPlaneListeners,
    ) -> io::Result<JoinHandle<Result<(), RunError>>> {
        let workers = resolvers.map(|(resolver, driver)| self.worker(resolver, driver));
        let workers = worker_threads::start(workers.map(|worker| move |accepted| worker.run(accepted)))?;
        Ok(tokio::spawn(serve(
            listeners,
            workers,
            self.config.limits.max_connections,
            self.config.data_plane.tls.is_some(),
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
                CallSettings {
                    hosts: config.data_plane.hosts.clone(),
                    callers: config.data_plane.callers.clone(),
                    limits: config.limits.clone(),
                },
                self.budget.clone(),
                self.metrics.clone(),
            ),
            driver,
            vault: (config.vault.clone(), config.vault_tls.clone()),
            credentials: config.vault_credentials.clone(),
            tls_changes: self.tls_changes.subscribe(),
            condition: self.condition.clone(),
            tcp_timeout: config.limits.keepalive.tcp_timeout,
            settings: ListenerSettings {
                tls: config.data_plane.tls.clone(),
                grace: config.shutdown_grace,
            },
            shutdown: self.shutdown.clone(),
            after_calls: self.after_calls.clone(),
        }
    }
}

impl DataPlaneWorker {
    async fn run(self, accepted: mpsc::UnboundedReceiver<IncomingConnection>) -> Result<(), RunError> {
        let Self {
            proxy,
            driver,
            vault: (address, tls),
            credentials,
            tls_changes,
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
        let link = VaultLink::new(move || channels.open(), credentials, tls_changes);
        tokio::spawn(driver.run(link, fault, condition, after_calls));
        let proxy = Arc::new(proxy);
        let pools = proxy.clone();
        tokio::spawn(async move { pools.close_stale_connections().await });
        proxy.serve(accepted, settings, shutdown).await;
        Ok(())
    }
}

/// The worker threads, which get the connections of all listeners.
type Workers = WorkerThreads<IncomingConnection, Result<(), RunError>>;

/// Hands the connections of all listeners to the worker threads, and then waits for these threads.
async fn serve(
    listeners: DataPlaneListeners,
    workers: Workers,
    max_connections: usize,
    tls: bool,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let DataPlaneListeners { tcp, unix } = listeners;
    let slots = || Slots::new("data plane", max_connections, Eviction::OldestIdle);
    let tcp = tcp
        .into_iter()
        .map(|(listener, route)| accept_tcp(listener, route, slots(), tls, &workers, shutdown.clone()));
    let unix = async {
        if let Some(listener) = unix {
            accept_unix(listener, slots(), &workers, shutdown.clone()).await;
        }
    };
    join(join_all(tcp), unix).await;
    let mut results = workers.join().await.into_iter();
    results.try_for_each(|result| result.unwrap_or(Err(RunError::ThreadEnded)))
}

async fn accept_tcp(
    listener: TcpListener,
    route: ListenerRoute,
    connections: Slots,
    tls: bool,
    workers: &Workers,
    shutdown: CancellationToken,
) {
    let route = Arc::new(route);
    // A TLS connection takes one of the `connections` after its handshake.
    let first_slots = match tls {
        true => listen::handshake_slots(),
        false => connections.clone(),
    };
    listen::accept(listener, first_slots, shutdown, |stream, peer, slot| {
        if let Some(stream) = Detached::new(stream) {
            workers.dispatch(IncomingConnection::Tcp(IncomingTcp {
                stream,
                peer,
                slot,
                connections: connections.clone(),
                route: route.clone(),
            }));
        }
    })
    .await;
}

async fn accept_unix(
    listener: UnixSocketListener,
    connections: Slots,
    workers: &Workers,
    shutdown: CancellationToken,
) {
    listen::accept(listener, connections, shutdown, |stream, uid, slot| {
        if let Some(stream) = Detached::new(stream) {
            workers.dispatch(IncomingConnection::Unix(stream, uid, slot));
        }
    })
    .await;
}
