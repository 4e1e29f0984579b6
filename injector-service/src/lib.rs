//! The injector: a sidecar that has the vault decrypt a server's secrets on every call, puts them into the request,
//! forwards it, and forgets them.

mod address;
mod authz;
mod body_calls;
mod catalog;
pub mod config;
mod data_plane;
pub mod description;
mod dialect;
mod header_rules;
pub mod inject;
mod json_pointer;
mod keepalive;
pub mod limits;
mod metrics;
mod path;
mod placeholder;
mod placement;
mod proxy;
mod registry;
mod resolve;
mod run_error;
mod same_place;
pub mod scrub;
mod service;
mod status;
mod template;
mod upstream;
mod value_totals;

use std::{io, mem, sync::Arc, time::SystemTime};

use chassis::{
    authz::AuthzLayer,
    expiry::OwnCertificates,
    grpc,
    health::GrpcHealth,
    listen, probe, process_metrics,
    rpc_metrics::RpcMetrics,
    signal::ServiceSignals,
    tls::ClientTlsChanges,
    worker_threads::{TaskMetrics, ThreadCount},
};
use prometheus_client::registry::Registry as MetricsRegistry;
use proto::injector::v1::{
    catalog_service_server::CatalogServiceServer, server_service_server::ServerServiceServer,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};
use tower::Layer as _;

use address::OwnListeners;
use catalog::Catalog;
use config::Config;
use data_plane::DataPlane;
use metrics::Metrics;
use proxy::{BufferBudget, ListenerRoute};
use registry::Registry;
use resolve::{Identities, Resolver, VaultCondition};
use service::{CatalogEntries, Servers};
use upstream::{DialContext, PingIntervals};

pub use run_error::RunError;

/// The largest gRPC message that a client may send, in bytes.
const MAX_REQUEST: usize = 256 * 1024;

pub struct Listeners {
    pub grpc: TcpListener,
    pub data_plane: TcpListener,
    /// The listeners of `--listen-server`, each of which leads to one server.
    pub dedicated: Vec<(TcpListener, ListenerRoute)>,
    pub metrics: TcpListener,
}

impl Listeners {
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let bind = |address| listen::bind(address, config.limits.keepalive.tcp_timeout);
        let dedicated = config.listen_server.iter();
        let dedicated = dedicated.map(|(address, route)| Ok((bind(*address)?, route.clone())));
        Ok(Self {
            grpc: bind(config.listen)?,
            data_plane: bind(config.data_plane_listen)?,
            dedicated: dedicated.collect::<io::Result<_>>()?,
            metrics: bind(config.metrics_listen)?,
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

/// Serves until a shutdown is requested, and then until the calls under way have ended.
pub async fn run(mut config: Config, listeners: Listeners, signals: ServiceSignals) -> Result<(), RunError> {
    let ServiceSignals { shutdown, reload } = signals;
    // The stream to the vault and the probes outlive the shutdown, because the last calls still need them.
    let after_calls = CancellationToken::new();
    let _after_calls = after_calls.clone().drop_guard();
    let mut metrics_registry = MetricsRegistry::default();
    let reloader = mem::take(&mut config.reloader);
    reloader.register(&mut metrics_registry);
    spawn_until(&after_calls, reloader.run(reload.subscribe()));
    let Some(identities) = identities(&config, &shutdown).await else {
        return Ok(());
    };
    let own = listeners.own();
    let registry = Registry::open(config.servers.clone(), own.clone(), config.limits.quota).await?;
    let metrics = register_metrics(&mut metrics_registry, &config, &registry);
    let rpc_metrics = RpcMetrics::register(&mut metrics_registry, &authz::TABLE);
    let condition = VaultCondition::new(&config.vault, &identities);
    let new_resolver = |_| {
        Resolver::new(
            identities.clone(),
            config.limits.vault_timeout,
            config.require_all_secrets,
            metrics.decrypt_seconds.clone(),
        )
    };
    let (resolvers, drivers): (Vec<_>, Vec<_>) =
        (0..ThreadCount::PerProcessor.count()).map(new_resolver).unzip();
    let Some(resolver) = resolvers.first().cloned() else {
        return Err(RunError::ThreadEnded);
    };

    spawn_until(&shutdown, config.certificates.clone().watch());
    spawn_until(
        &shutdown,
        reload_files(registry.clone(), config.catalog.clone(), reload.subscribe()),
    );
    tokio::spawn(registry.clone().watch(shutdown.clone()));
    let probes = probes(
        metrics_registry,
        &resolvers,
        &condition,
        &config.certificates,
        &shutdown,
    );
    let ready = probes.ready.clone();
    tokio::spawn(probe::serve(listeners.metrics, probes, after_calls.clone()));
    let addresses = (listeners.grpc.local_addr(), listeners.data_plane.local_addr());
    let credentials = watch::Sender::new(());
    spawn_until(
        &after_calls,
        tell_of_changes(config.vault_tls.changes(), credentials.clone()),
    );

    let data_plane = DataPlane {
        config: &config,
        registry: &registry,
        metrics: &metrics,
        dial_context: Arc::new(DialContext {
            roots: config.upstream_roots.clone(),
            own,
            limits: config.limits.upstream,
            keepalive: config.limits.keepalive,
            ping_intervals: PingIntervals::new(config.limits.keepalive.upstream_ping.interval),
        }),
        budget: BufferBudget::new(config.limits.max_buffered_total),
        condition,
        credentials,
        shutdown: &shutdown,
        after_calls,
    };
    let data_plane = data_plane.start(
        resolvers.into_iter().zip(drivers),
        listeners.data_plane,
        listeners.dedicated,
    )?;

    let health = GrpcHealth::start(ready, shutdown.clone()).await;
    let routes = routes(&config, registry, resolver, &health).await?;
    let authz = AuthzLayer::new(&authz::TABLE, config.policy);
    let server = grpc::start(
        config.tls,
        rpc_metrics.layer(authz.layer(routes.prepare())),
        authz,
        grpc::Options {
            threads: ThreadCount::One,
            ping: config.limits.keepalive.ping,
            grace: config.shutdown_grace,
        },
        shutdown,
    )?;
    if let (Ok(address), Ok(data_plane)) = addresses {
        tracing::info!(%address, %data_plane, "injector-service is serving");
    }
    server.serve(listeners.grpc).await?;
    data_plane.await.unwrap_or(Err(RunError::ThreadEnded))
}

fn spawn_until(shutdown: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(task));
}

/// Returns the principals of the stream to the vault, when the injector has a certificate. Returns `None` at a shutdown.
async fn identities(config: &Config, shutdown: &CancellationToken) -> Option<Identities> {
    if config.vault_identity.current().is_none() {
        tracing::info!("waiting for a certificate from the workload api before serving");
    }
    let injector = config.vault_identity.principal();
    Some(Identities {
        vault: config.vault_id.clone(),
        injector: shutdown.run_until_cancelled(injector).await?,
    })
}

/// Changes `credentials` at each change of the certificate and the CAs for the vault. Does not return.
async fn tell_of_changes(mut changes: ClientTlsChanges, credentials: watch::Sender<()>) {
    loop {
        changes.changed().await;
        credentials.send_replace(());
    }
}

fn register_metrics(into: &mut MetricsRegistry, config: &Config, registry: &Registry) -> Metrics {
    let metrics = Metrics::register(into, registry.clone());
    into.register_collector(Box::new(TaskMetrics));
    process_metrics::register(into, env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    into.register_collector(Box::new(config.certificates.clone()));
    metrics
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

/// Reads the servers file and the catalog again at each `reload`.
async fn reload_files(registry: Registry, catalog: Option<Catalog>, mut reload: watch::Receiver<()>) {
    while reload.changed().await.is_ok() {
        // `refresh` and `entries` log a file that is not valid, and keep the last valid one.
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
