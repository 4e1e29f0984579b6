//! The injector: a sidecar that has the vault decrypt a server's secrets on every call, puts them into the request,
//! forwards it, and forgets them.

mod address;
mod admin;
mod authz;
mod body_calls;
mod callers;
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
mod startup_check;
mod status;
mod template;
mod upstream;
mod value_totals;
pub mod webhook;
#[cfg(test)]
mod work_growth;

use std::{io, mem, net::SocketAddr, path::PathBuf, sync::Arc, time::SystemTime};

use chassis::{
    grpc,
    jwt::TokenExpiry,
    listen, probe, process_metrics,
    rpc_metrics::RpcMetrics,
    signal::ServiceSignals,
    tls::Reloader,
    unix_socket::UnixSocketListener,
    worker_threads::{TaskMetrics, ThreadCount},
};
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use address::OwnListeners;
use admin::AdminServices;
use catalog::Catalog;
use config::Config;
use data_plane::{DataPlane, DataPlaneListeners};
use metrics::Metrics;
use proxy::{BufferBudget, ListenerRoute};
use registry::Registry;
use resolve::{Resolver, VaultCondition, VaultDriver};
use startup_check::{StartupCheck, StartupContext};
use upstream::{DialContext, PingIntervals};

pub use run_error::RunError;

pub struct Listeners {
    /// `None` with `--no-admin`.
    pub grpc: Option<TcpListener>,
    /// `None` with `--data-plane-listen none`.
    pub data_plane: Option<TcpListener>,
    pub unix: Option<UnixSocketListener>,
    /// The listeners of `--listen-server`, each of which leads to one server.
    pub dedicated: Vec<(TcpListener, ListenerRoute)>,
    pub metrics: TcpListener,
}

impl Listeners {
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let bind = |address| listen::bind(address, config.limits.keepalive.tcp_timeout);
        let dedicated = config.data_plane.listen_server.iter();
        let dedicated = dedicated.map(|(address, route)| Ok((bind(*address)?, route.clone())));
        Ok(Self {
            grpc: config
                .admin
                .as_ref()
                .map(|admin| bind(admin.listen))
                .transpose()?,
            data_plane: config.data_plane.listen.map(bind).transpose()?,
            unix: match &config.data_plane.listen_unix {
                Some(path) => Some(UnixSocketListener::bind(path).await?),
                None => None,
            },
            dedicated: dedicated.collect::<io::Result<_>>()?,
            metrics: bind(config.metrics_listen)?,
        })
    }

    fn own(&self) -> OwnListeners {
        let dedicated = self.dedicated.iter().map(|(listener, _)| listener);
        let shared = self.grpc.iter().chain(&self.data_plane);
        let all = shared.chain([&self.metrics]).chain(dedicated);
        OwnListeners::new(all.filter_map(|listener| listener.local_addr().ok()))
    }
}

/// Serves until a shutdown is requested, and then until the calls under way have ended.
pub async fn run(mut config: Config, listeners: Listeners, signals: ServiceSignals) -> Result<(), RunError> {
    let ServiceSignals { shutdown, reload } = signals;
    let own = listeners.own();
    let addresses = ListenerAddresses::of(&listeners);
    let registry = Registry::open(config.servers.clone(), own.clone(), config.limits.quota).await?;
    if config.admin.is_none() {
        // An injector with an administration API may get its servers later.
        registry.warn_if_empty();
    }
    // The stream to the vault and the probes outlive the shutdown, because the last calls still need them.
    let after_calls = CancellationToken::new();
    let _after_calls = after_calls.clone().drop_guard();

    let mut metrics_registry = MetricsRegistry::default();
    let metrics = register_metrics(&mut metrics_registry, &config, &registry);
    let rpc_metrics = config
        .admin
        .is_some()
        .then(|| RpcMetrics::register(&mut metrics_registry, &authz::TABLE));
    let condition = VaultCondition::new(&config.vault, &config.vault_credentials);
    let workers = resolvers(&config, &metrics);
    let resolvers: Vec<_> = workers.iter().map(|(resolver, _)| resolver.clone()).collect();
    let resolver = resolvers.first().cloned().ok_or(RunError::ThreadEnded)?;

    let reloader = mem::take(&mut config.reloader);
    let background = Background {
        config: &config,
        registry: &registry,
        reload: &reload,
        shutdown: &shutdown,
        after_calls: &after_calls,
    };
    background.follow_files(reloader);
    let probes = background.probes(metrics_registry, resolvers, &condition, &resolver);
    let ready = probes.ready.clone();
    tokio::spawn(probe::serve(listeners.metrics, probes, after_calls.clone()));

    let data_plane = DataPlane {
        config: &config,
        registry: &registry,
        metrics: &metrics,
        dial_context: Arc::new(dial_context(&config, own)),
        budget: BufferBudget::new(config.limits.max_buffered_total),
        condition,
        tls_changes: background.vault_tls_changes(),
        shutdown: &shutdown,
        after_calls: after_calls.clone(),
    };
    let shared = listeners
        .data_plane
        .map(|listener| (listener, ListenerRoute::Any));
    let sockets = DataPlaneListeners {
        tcp: shared.into_iter().chain(listeners.dedicated).collect(),
        unix: listeners.unix,
    };
    let data_plane = data_plane.start(workers.into_iter(), sockets)?;
    addresses.log();
    if let (Some(admin), Some(listener), Some(rpc_metrics)) = (config.admin, listeners.grpc, rpc_metrics) {
        let services = AdminServices {
            registry,
            resolver,
            catalog: config.catalog,
            issuers: config.issuers,
            ready,
        };
        let options = grpc::Options {
            threads: ThreadCount::One,
            ping: config.limits.keepalive.ping,
            grace: config.shutdown_grace,
        };
        services
            .serve(admin, listener, rpc_metrics, options, shutdown)
            .await?;
    }
    data_plane.await.unwrap_or(Err(RunError::ThreadEnded))
}

/// Returns a resolver, with the driver of its stream to the vault, for each worker thread.
fn resolvers(config: &Config, metrics: &Metrics) -> Vec<(Resolver, VaultDriver)> {
    let resolver = |_| {
        Resolver::new(
            config.limits.vault_timeout,
            config.require_all_secrets,
            metrics.decrypt_seconds.clone(),
        )
    };
    (0..config.limits.worker_threads).map(resolver).collect()
}

fn dial_context(config: &Config, own: OwnListeners) -> DialContext {
    DialContext {
        roots: config.upstream_roots.clone(),
        own,
        limits: config.limits.upstream,
        keepalive: config.limits.keepalive,
        ping_intervals: PingIntervals::new(config.limits.keepalive.upstream_ping.interval),
    }
}

/// The tasks that run beside the listeners.
struct Background<'r> {
    config: &'r Config,
    registry: &'r Registry,
    reload: &'r watch::Sender<()>,
    shutdown: &'r CancellationToken,
    after_calls: &'r CancellationToken,
}

impl Background<'_> {
    /// Reads the files and keys of the settings again when they change. Tasks that the last calls need go on after the
    /// shutdown.
    fn follow_files(&self, reloader: Reloader) {
        let Self {
            config,
            registry,
            reload,
            shutdown,
            after_calls,
        } = self;
        spawn_until(after_calls, reloader.run(reload.subscribe()));
        if let Some(file) = config.vault_credentials.token_file() {
            spawn_until(after_calls, file.clone().watch());
        }
        spawn_until(shutdown, config.certificates.clone().watch());
        spawn_until(shutdown, config.issuers.clone().keep_fresh());
        spawn_until(shutdown, config.data_plane.callers.tokens.clone().watch());
        tokio::spawn(Registry::clone(registry).watch(CancellationToken::clone(shutdown)));
        spawn_until(
            shutdown,
            reload_files(
                Registry::clone(registry),
                config.catalog.clone(),
                reload.subscribe(),
            ),
        );
    }

    /// Returns the probes, and starts the check behind `/startupz`.
    fn probes(
        &self,
        metrics: MetricsRegistry,
        resolvers: Vec<Resolver>,
        condition: &VaultCondition,
        resolver: &Resolver,
    ) -> probe::Probes {
        let startup_check = StartupCheck::new();
        spawn_until(
            self.shutdown,
            startup_check.clone().run(StartupContext {
                registry: self.registry.clone(),
                resolver: resolver.clone(),
                condition: condition.clone(),
            }),
        );
        let (condition, certificates) = (condition.clone(), self.config.certificates.clone());
        let shutdown = self.shutdown.clone();
        probe::Probes {
            metrics: Arc::new(metrics),
            ready: Arc::new(move || {
                if shutdown.is_cancelled() {
                    return Err("shutting down".into());
                }
                certificates.check(SystemTime::now())?;
                if resolvers.iter().all(Resolver::is_connected) {
                    Ok(())
                } else {
                    Err(condition.problem())
                }
            }),
            started: Some(Arc::new(move || startup_check.result())),
        }
    }

    /// Returns a sender that is notified when the injector's certificate or the CAs for the vault were replaced.
    fn vault_tls_changes(&self) -> watch::Sender<()> {
        let notified = watch::Sender::new(());
        let (sender, mut changes) = (notified.clone(), self.config.vault_tls.changes());
        spawn_until(self.after_calls, async move {
            loop {
                changes.changed().await;
                sender.send_replace(());
            }
        });
        notified
    }
}

/// The addresses in the log line of the start.
struct ListenerAddresses {
    grpc: Option<SocketAddr>,
    data_plane: Option<SocketAddr>,
    unix: Option<PathBuf>,
}

impl ListenerAddresses {
    fn of(listeners: &Listeners) -> Self {
        let address = |listener: &Option<TcpListener>| listener.as_ref()?.local_addr().ok();
        Self {
            grpc: address(&listeners.grpc),
            data_plane: address(&listeners.data_plane),
            unix: listeners.unix.as_ref().map(|unix| unix.path().to_owned()),
        }
    }

    fn log(&self) {
        tracing::info!(
            address = self.grpc.map(display),
            data_plane = self.data_plane.map(display),
            unix = self.unix.as_ref().map(|path| display(path.display())),
            "injector-service is serving"
        );
    }
}

fn spawn_until(shutdown: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(task));
}

fn register_metrics(into: &mut MetricsRegistry, config: &Config, registry: &Registry) -> Metrics {
    let metrics = Metrics::register(into, registry.clone());
    into.register_collector(Box::new(TaskMetrics));
    process_metrics::register(into, env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    into.register_collector(Box::new(config.certificates.clone()));
    config.reloader.register(into);
    config.issuers.register(into);
    into.register_collector(Box::new(TokenExpiry(
        config.vault_credentials.token_file().cloned(),
    )));
    metrics
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
