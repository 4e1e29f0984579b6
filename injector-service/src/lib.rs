//! The injector: a sidecar that has a server's secrets decrypted on every call, puts them into the request, forwards
//! it, and forgets them.

pub mod address;
pub mod authz;
mod body_calls;
pub mod catalog;
pub mod config;
pub mod dialect;
mod header_rules;
pub mod inject;
pub mod keepalive;
pub mod limits;
mod metrics;
mod path;
mod placeholder;
pub mod placement;
pub mod proxy;
pub mod registry;
pub mod resolve;
mod service;
mod status;
pub mod upstream;

use std::{io, sync::Arc, time::SystemTime};

use chassis::{
    authz::AuthzLayer,
    channel::ServiceAddress,
    connection_slots::{Eviction, Slots},
    expiry::OwnCertificates,
    grpc,
    health::GrpcHealth,
    keepalive::TcpTimeout,
    listen, probe, process_metrics,
    rpc_metrics::RpcMetrics,
    signal::ServiceSignals,
    worker_threads::{self, AcceptedConnection, TaskMetrics, ThreadCount, WorkerThreads},
};
use futures_util::future::join_all;
use prometheus_client::registry::Registry as MetricsRegistry;
use proto::injector::v1::{
    catalog_service_server::CatalogServiceServer, server_service_server::ServerServiceServer,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};
use tower::Layer as _;

use address::OwnListeners;
use catalog::Catalog;
use config::Config;
use metrics::Metrics;
use proxy::{BufferBudget, IncomingConnection, ListenerRoute, ListenerSettings, Proxy};
use registry::Registry;
use resolve::{ConnectionFault, Resolver, VaultCondition, VaultDriver};
use service::{CatalogEntries, Servers};
use upstream::{DialContext, PingIntervals};

/// The largest message that a client may send.
const MAX_REQUEST: usize = 256 * 1024;

/// The sockets that the injector serves.
pub struct Listeners {
    /// gRPC.
    pub grpc: TcpListener,
    /// The data plane.
    pub data_plane: TcpListener,
    /// The data plane, one server each.
    pub dedicated: Vec<(TcpListener, ListenerRoute)>,
    /// Probes.
    pub metrics: TcpListener,
}

impl Listeners {
    /// Binds the addresses of `config`.
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let mut dedicated = Vec::new();
        let tcp_timeout = config.limits.keepalive.tcp_timeout;
        for (address, route) in &config.listen_server {
            dedicated.push((listen::bind(*address, tcp_timeout)?, route.clone()));
        }
        Ok(Self {
            grpc: listen::bind(config.listen, tcp_timeout)?,
            data_plane: listen::bind(config.data_plane_listen, tcp_timeout)?,
            dedicated,
            metrics: listen::bind(config.metrics_listen, tcp_timeout)?,
        })
    }

    fn own(&self) -> OwnListeners {
        let dedicated = self.dedicated.iter().map(|(listener, _)| listener);
        let all = [&self.grpc, &self.data_plane, &self.metrics]
            .into_iter()
            .chain(dedicated);
        OwnListeners::new(all.filter_map(|listener| listener.local_addr().ok()))
    }
}

/// Why the injector stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file with the servers is wrong.
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    /// Reflection could not be set up.
    #[error("reflection could not be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The channel to the vault could not be set up.
    #[error("the channel to the vault could not be set up")]
    Transport(#[from] tonic::transport::Error),
    /// The data plane's threads were not started.
    #[error("the threads of the data plane did not start")]
    Threads(#[from] io::Error),
    /// One of them ended.
    #[error("a thread of the data plane ended unexpectedly")]
    Lane,
    /// The gRPC server failed.
    #[error(transparent)]
    Serve(#[from] grpc::ServeError),
}

/// Serves until the shutdown is asked for; then finishes calls under way.
pub async fn run(config: Config, listeners: Listeners, asked: ServiceSignals) -> Result<(), RunError> {
    let ServiceSignals { shutdown, reload } = asked;
    let own = listeners.own();
    let registry = Registry::open(config.servers.clone(), own.clone(), config.limits.quota).await?;
    // Calls under way at the end still need the vault, and probes are told of them: both are left when they are done.
    let after_calls = CancellationToken::new();
    let _leave = after_calls.clone().drop_guard();
    let condition = VaultCondition::new(&config.vault, &config.vault_identities);
    let mut metrics_registry = MetricsRegistry::default();
    let metrics = Metrics::register(&mut metrics_registry, registry.clone());
    metrics_registry.register_collector(Box::new(TaskMetrics));
    process_metrics::register(
        &mut metrics_registry,
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
    );
    let rpc_metrics = RpcMetrics::register(&mut metrics_registry, &authz::TABLE);
    let new_resolver = |_| resolver(&config, &metrics);
    let (resolvers, links): (Vec<_>, Vec<_>) =
        (0..ThreadCount::PerProcessor.count()).map(new_resolver).unzip();
    metrics_registry.register_collector(Box::new(config.certificates.clone()));
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(config.certificates.clone().watch()),
    );
    let probes = probes(
        metrics_registry,
        &resolvers,
        &condition,
        &config.certificates,
        &shutdown,
    );
    tokio::spawn(probe::serve(listeners.metrics, probes, after_calls.clone()));

    let network = Arc::new(DialContext {
        roots: config.upstream_roots.clone(),
        own,
        limits: config.limits.upstream,
        keepalive: config.limits.keepalive,
        ping_intervals: PingIntervals::new(config.limits.keepalive.upstream_ping.interval),
    });
    tokio::spawn(registry.clone().watch(shutdown.clone()));
    let reloading = reloading(registry.clone(), config.catalog.clone(), reload);
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(reloading));
    log_addresses(&listeners.grpc, &listeners.data_plane);
    let budget = BufferBudget::new(config.limits.max_buffered_total);
    let lane = |(resolver, link): (&Resolver, VaultDriver)| Lane {
        proxy: Proxy::new(
            registry.clone(),
            resolver.clone(),
            network.clone(),
            config.hosts.clone(),
            config.limits.clone(),
            budget.clone(),
            metrics.clone(),
        ),
        link,
        vault: (config.vault.clone(), config.vault_tls.clone()),
        condition: condition.clone(),
        tcp_timeout: config.limits.keepalive.tcp_timeout,
        serving: ListenerSettings {
            tls: config.data_plane_tls.clone(),
            grace: config.shutdown_grace,
        },
        shutdown: shutdown.clone(),
        after_calls: after_calls.clone(),
    };
    let lanes = resolvers.iter().zip(links).map(lane);
    let data_plane = worker_threads::start(lanes.map(|lane| move |accepted| lane.run(accepted)))?;
    let data_plane = tokio::spawn(accept(
        listeners.data_plane,
        listeners.dedicated,
        data_plane,
        config.limits.max_connections,
        config.data_plane_tls.is_some(),
        shutdown.clone(),
    ));

    let [resolver, ..] = resolvers.as_slice() else {
        return Err(RunError::Lane);
    };
    let health = GrpcHealth::new(shutdown.clone());
    let routes = routes(&config, registry, resolver.clone(), &health).await?;
    let authz = AuthzLayer::new(&authz::TABLE, config.policy);
    grpc::serve(
        listeners.grpc,
        config.tls,
        rpc_metrics.layer(authz.layer(routes.prepare())),
        authz,
        grpc::Options {
            threads: ThreadCount::One,
            ping: config.limits.keepalive.ping,
            grace: config.shutdown_grace,
        },
        shutdown,
    )
    .await?;
    match data_plane.await {
        Ok(ended) => ended,
        Err(_panicked) => Err(RunError::Lane),
    }
}

fn resolver(config: &Config, metrics: &Metrics) -> (Resolver, VaultDriver) {
    let (ends, budget) = (config.vault_identities.clone(), config.limits.vault_timeout);
    let (resolver, link) = Resolver::new(ends, budget, metrics.decrypt_seconds.clone());
    match config.require_all_secrets {
        true => (resolver.requiring_all(), link),
        false => (resolver, link),
    }
}

/// What one thread of the data plane serves with: pools and a stream to the vault of its own.
struct Lane {
    proxy: Proxy,
    link: VaultDriver,
    vault: (ServiceAddress, Arc<rustls::ClientConfig>),
    condition: VaultCondition,
    tcp_timeout: TcpTimeout,
    serving: ListenerSettings,
    shutdown: CancellationToken,
    after_calls: CancellationToken,
}

impl Lane {
    async fn run(
        self,
        accepted: mpsc::UnboundedReceiver<AcceptedConnection<IncomingConnection>>,
    ) -> Result<(), RunError> {
        let Self {
            proxy,
            link,
            vault: (address, tls),
            condition,
            tcp_timeout,
            serving,
            shutdown,
            after_calls,
        } = self;
        let fault = ConnectionFault::default();
        let observed = fault.clone();
        let observer = Arc::new(move |error: &std::io::Error| observed.note(error));
        let channel = chassis::channel::observed_channel(&address, tls, tcp_timeout, observer)?;
        tokio::spawn(link.keep(channel, fault, condition, after_calls));
        let proxy = Arc::new(proxy);
        let tidying = proxy.clone();
        tokio::spawn(async move { tidying.close_stale_connections().await });
        proxy.serve(accepted, serving, shutdown).await;
        Ok(())
    }
}

/// Gives the connections of all listeners of the data plane to its lanes; then waits for those.
async fn accept(
    shared: TcpListener,
    dedicated: Vec<(TcpListener, ListenerRoute)>,
    lanes: WorkerThreads<IncomingConnection, Result<(), RunError>>,
    limit: usize,
    tls: bool,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let listeners = std::iter::once((shared, ListenerRoute::Any)).chain(dedicated);
    join_all(listeners.map(|(listener, route)| {
        let (lanes, route) = (&lanes, Arc::new(route));
        let connections = Slots::new("data plane", limit, Eviction::OldestIdle);
        let at_first = if tls {
            listen::handshake_slots()
        } else {
            connections.clone()
        };
        listen::accept(listener, at_first, shutdown.clone(), move |stream, peer, slot| {
            let (route, connections) = (route.clone(), connections.clone());
            let arrival = IncomingConnection {
                peer,
                slot,
                connections,
                route,
            };
            lanes.dispatch(stream, arrival);
        })
    }))
    .await;
    let mut ended = lanes.join().await.into_iter();
    ended.try_for_each(|one| one.unwrap_or(Err(RunError::Lane)))
}

async fn routes(
    config: &Config,
    registry: Registry,
    resolver: Resolver,
    health: &GrpcHealth,
) -> Result<Routes, RunError> {
    let services = [
        <ServerServiceServer<Servers> as NamedService>::NAME,
        <CatalogServiceServer<CatalogEntries> as NamedService>::NAME,
    ];
    for service in services {
        health.set(service, true).await;
    }
    let servers = ServerServiceServer::new(Servers::new(registry, resolver, config.catalog.clone()));
    let catalog = CatalogServiceServer::new(CatalogEntries::new(config.catalog.clone()));
    let mut routes = Routes::builder();
    routes
        .add_service(servers.max_decoding_message_size(MAX_REQUEST))
        .add_service(catalog.max_decoding_message_size(MAX_REQUEST));
    health.serve(&mut routes, config.reflection.then_some(services.as_slice()))?;
    Ok(routes.routes())
}

/// Reads the files of servers and of the catalog again whenever `reload` is notified. Does not return.
async fn reloading(registry: Registry, catalog: Option<Catalog>, reload: Arc<Notify>) {
    loop {
        reload.notified().await;
        // A file that is not valid has been logged, and changes nothing.
        if registry.refresh().await.is_ok() {
            let servers = registry.status().servers;
            tracing::info!(servers, "SIGHUP: the servers file was read again");
        }
        if let Some(catalog) = &catalog
            && let Ok(entries) = catalog.entries().await
        {
            tracing::info!(entries = entries.len(), "SIGHUP: the catalog was read again");
        }
    }
}

fn probes(
    registry: MetricsRegistry,
    resolvers: &[Resolver],
    condition: &VaultCondition,
    certificates: &OwnCertificates,
    shutdown: &CancellationToken,
) -> probe::Probes {
    let (resolvers, shutdown) = (resolvers.to_vec(), shutdown.clone());
    let (condition, certificates) = (condition.clone(), certificates.clone());
    probe::Probes {
        metrics: Arc::new(registry),
        ready: Arc::new(move || {
            if shutdown.is_cancelled() {
                return Err("shutting down".into());
            }
            certificates.check(SystemTime::now())?;
            if resolvers.iter().all(Resolver::is_connected) {
                Ok(())
            } else {
                Err(condition.problem().into())
            }
        }),
    }
}

fn log_addresses(grpc: &TcpListener, data_plane: &TcpListener) {
    if let (Ok(grpc), Ok(data_plane)) = (grpc.local_addr(), data_plane.local_addr()) {
        tracing::info!(address = %grpc, %data_plane, "injector-service is serving");
    }
}
