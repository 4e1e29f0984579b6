//! The injector: a sidecar that has a server's secrets decrypted on every call, puts them into the request, forwards
//! it, and forgets them.

pub mod address;
pub mod authz;
pub mod catalog;
pub mod config;
pub mod inject;
mod metrics;
mod path;
pub mod placement;
pub mod proxy;
pub mod registry;
pub mod resolve;
mod service;
mod status;
pub mod upstream;
mod veil;

use std::{io, net::SocketAddr, sync::Arc};

use prometheus_client::registry::Registry as MetricsRegistry;
use proto::{
    injector::v1::{
        catalog_service_server::CatalogServiceServer, server_service_server::ServerServiceServer,
    },
    serve::{authz::Authz, grpc, probe},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use address::Own;
use config::Config;
use metrics::{Metrics, OfRegistry};
use proxy::{Door, Proxy, Serving};
use registry::Registry;
use resolve::Resolver;
use service::{CatalogEntries, Servers};
use upstream::Network;

/// The largest message that a client may send.
const MAX_REQUEST: usize = 256 * 1024;

/// The sockets that the injector serves.
pub struct Listeners {
    /// gRPC.
    pub grpc: TcpListener,
    /// The data plane.
    pub data_plane: TcpListener,
    /// The data plane, one server each.
    pub dedicated: Vec<(TcpListener, Door)>,
    /// Probes.
    pub metrics: TcpListener,
}

impl Listeners {
    /// Binds the addresses of `config`.
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address)
                .await
                .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
        };
        let mut dedicated = Vec::new();
        for (address, door) in &config.listen_server {
            dedicated.push((bind(*address).await?, door.clone()));
        }
        Ok(Self {
            grpc: bind(config.listen).await?,
            data_plane: bind(config.data_plane_listen).await?,
            dedicated,
            metrics: bind(config.metrics_listen).await?,
        })
    }

    fn own(&self) -> Own {
        let dedicated = self.dedicated.iter().map(|(listener, _)| listener);
        let all = [&self.grpc, &self.data_plane, &self.metrics]
            .into_iter()
            .chain(dedicated);
        Own::new(all.filter_map(|listener| listener.local_addr().ok()))
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
    /// The gRPC client or server failed.
    #[error("the gRPC server or the channel to the vault failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `shutdown` is cancelled; then finishes calls under way.
pub async fn run(config: Config, listeners: Listeners, shutdown: CancellationToken) -> Result<(), RunError> {
    let own = listeners.own();
    let registry = Registry::open(config.servers.clone(), own.clone()).await?;
    let channel = resolve::channel::channel(&config.vault, config.vault_tls.clone())?;
    // Calls under way at the end still need the vault, and probes are told of them: both are left when they are done.
    let after_calls = CancellationToken::new();
    let _leave = after_calls.clone().drop_guard();
    let resolver = Resolver::new(
        channel,
        config.vault_ends.clone(),
        config.vault_timeout,
        after_calls.clone(),
    );

    let mut metrics_registry = MetricsRegistry::default();
    let metrics = Metrics::register(&mut metrics_registry);
    metrics_registry.register_collector(Box::new(OfRegistry(registry.clone())));
    let probes = probes(metrics_registry, &resolver, &shutdown);
    tokio::spawn(probe::serve(listeners.metrics, probes, after_calls));

    let network = Arc::new(Network {
        roots: config.upstream_roots.clone(),
        own,
    });
    let proxy = Arc::new(Proxy::new(
        registry.clone(),
        resolver.clone(),
        network,
        config.hosts.clone(),
        metrics,
    ));
    tokio::spawn(background(registry.clone(), proxy.clone(), shutdown.clone()));
    let data_plane = TaskTracker::new();
    let serving = Serving {
        tls: config.data_plane_tls.clone(),
        max_connections: config.max_connections,
        grace: config.shutdown_grace,
    };
    log_addresses(&listeners.grpc, &listeners.data_plane);
    for (listener, door) in [(listeners.data_plane, Door::Any)]
        .into_iter()
        .chain(listeners.dedicated)
    {
        data_plane.spawn(
            proxy
                .clone()
                .serve(listener, door, serving.clone(), shutdown.clone()),
        );
    }
    data_plane.close();

    let routes = routes(&config, registry, resolver).await?;
    let authz = Authz::new(authz::TABLE, config.policy);
    grpc::serve(
        listeners.grpc,
        config.tls,
        routes,
        authz,
        shutdown,
        config.shutdown_grace,
    )
    .await?;
    data_plane.wait().await;
    Ok(())
}

async fn routes(config: &Config, registry: Registry, resolver: Resolver) -> Result<Routes, RunError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ServerServiceServer<Servers>>().await;
    health.set_serving::<CatalogServiceServer<CatalogEntries>>().await;
    let servers = ServerServiceServer::new(Servers::new(registry, resolver, config.catalog.clone()));
    let catalog = CatalogServiceServer::new(CatalogEntries::new(config.catalog.clone()));
    let mut routes = Routes::builder();
    routes
        .add_service(health_service)
        .add_service(servers.max_decoding_message_size(MAX_REQUEST))
        .add_service(catalog.max_decoding_message_size(MAX_REQUEST));
    if config.reflection {
        let services = ["injector.v1.ServerService", "injector.v1.CatalogService"];
        proto::serve::reflection::add(&mut routes, &services)?;
    }
    Ok(routes.routes())
}

fn probes(registry: MetricsRegistry, resolver: &Resolver, shutdown: &CancellationToken) -> probe::Probes {
    let (resolver, shutdown) = (resolver.clone(), shutdown.clone());
    probe::Probes {
        metrics: Arc::new(registry),
        ready: Arc::new(move || match (shutdown.is_cancelled(), resolver.is_connected()) {
            (true, _) => Err("shutting down"),
            (false, false) => Err("the vault does not answer"),
            (false, true) => Ok(()),
        }),
    }
}

/// What goes on beside the calls.
async fn background(registry: Registry, proxy: Arc<Proxy>, shutdown: CancellationToken) {
    tokio::select! {
        () = registry.watch(shutdown) => {}
        () = proxy.tidy() => {}
    }
}

fn log_addresses(grpc: &TcpListener, data_plane: &TcpListener) {
    if let (Ok(grpc), Ok(data_plane)) = (grpc.local_addr(), data_plane.local_addr()) {
        tracing::info!(address = %grpc, %data_plane, "injector-service is serving");
    }
}
