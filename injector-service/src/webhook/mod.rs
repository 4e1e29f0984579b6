//! `injector-service webhook`: a mutating admission webhook of Kubernetes that adds the injector to pods as a sidecar.
//!
//! [`inject`] is pure: a pod and settings go in, a JSON Patch or a denial comes out. The rest of this module serves it over HTTPS
//! (`server`, `review`) and renews the listener's certificate unless files have it (`own_authority`).

mod annotations;
mod bodies;
mod conflicts;
mod denial;
mod image_prefix;
mod inject;
mod mesh;
mod metrics;
mod own_authority;
mod pod;
mod quantity;
mod review;
mod reviewer;
mod server;
mod settings;
mod sidecar;

use std::{io, sync::Arc, time::SystemTime};

use chassis::{
    expiry::OwnCertificates, keepalive::TcpTimeout, listen, probe, process_metrics, signal::ServiceSignals,
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::Mutex, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::spawn_until;
use bodies::Bodies;
use metrics::WebhookMetrics;
use reviewer::Reviewer;

pub use settings::{ENVIRONMENT, WebhookCli, WebhookConfig, WebhookSettings};

/// The listeners of the webhook.
pub struct WebhookListeners {
    https: TcpListener,
    metrics: TcpListener,
}

impl WebhookListeners {
    /// Binds both listeners.
    ///
    /// # Errors
    /// The error names the address.
    pub async fn bind(config: &WebhookConfig) -> io::Result<Self> {
        let bind = |address| listen::bind(address, TcpTimeout::default());
        Ok(Self {
            https: bind(config.listen)?,
            metrics: bind(config.metrics_listen)?,
        })
    }
}

/// Serves until a shutdown is requested, and then until the running reviews have ended.
pub async fn run(config: WebhookConfig, listeners: WebhookListeners, signals: ServiceSignals) {
    let ServiceSignals { shutdown, reload } = signals;
    let mut registry = Registry::default();
    let metrics = WebhookMetrics::register(&mut registry);
    process_metrics::register(&mut registry, env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    registry.register_collector(Box::new(config.certificates.clone()));
    config.reloader.register(&mut registry);

    let probes_stop = CancellationToken::new();
    let _probes_stop = probes_stop.clone().drop_guard();
    let probes = probes(registry, config.certificates.clone(), shutdown.clone());
    let addresses = (listeners.https.local_addr(), listeners.metrics.local_addr());
    tokio::spawn(probe::serve(listeners.metrics, probes, probes_stop));
    spawn_until(&shutdown, config.certificates.watch());
    spawn_until(&shutdown, config.reloader.run(reload.subscribe()));
    if let Some(own) = config.own_authority {
        spawn_until(&shutdown, own.run(metrics.clone(), reload.subscribe()));
    }
    let reviewer = Arc::new(Reviewer {
        injection: config.injection,
        vault_ca: config.vault_ca,
        metrics,
        bodies: Bodies::new(),
        one_at_a_time: Mutex::new(()),
    });
    if let (Ok(address), Ok(metrics)) = addresses {
        tracing::info!(%address, %metrics, "webhook is serving");
    }
    let closing = CancellationToken::new();
    let close = closing.clone();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        sleep(config.shutdown_delay).await;
        close.cancel();
    });
    server::serve(
        listeners.https,
        config.tls,
        reviewer,
        closing,
        config.shutdown_grace,
    )
    .await;
}

fn probes(registry: Registry, certificates: OwnCertificates, shutdown: CancellationToken) -> probe::Probes {
    probe::Probes {
        metrics: Arc::new(registry),
        ready: Arc::new(move || {
            if shutdown.is_cancelled() {
                return Err("shutting down".into());
            }
            certificates.check(SystemTime::now())
        }),
        started: None,
    }
}
