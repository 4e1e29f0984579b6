//! `injector-service webhook`: a mutating admission webhook of Kubernetes that adds the injector to pods as a sidecar.
//!
//! [`inject`] is pure: a pod and settings go in, a JSON Patch or a denial comes out. The rest of this module serves it over HTTPS
//! (`server`, `review`) and keeps the listener's certificate valid (`certificate`).

mod annotations;
mod certificate;
mod conflicts;
mod denial;
mod image_prefix;
mod inject;
mod mesh;
mod metrics;
mod pod;
mod quantity;
mod review;
mod reviewer;
mod server;
mod settings;
mod sidecar;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use chassis::{
    blocking::blocking, keepalive::TcpTimeout, listen, probe, process_metrics, signal::ServiceSignals,
    telemetry::chain,
};
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use certificate::{CertificateSource, CurrentCertificate};
use metrics::WebhookMetrics;
use reviewer::Reviewer;

pub use settings::{ENVIRONMENT, WebhookCli, WebhookConfig, WebhookSettings};

/// Interval between two checks of the certificate and of the vault's CAs. SIGHUP starts a check at once.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The same while there is no certificate.
const FIRST_CHECK_INTERVAL: Duration = Duration::from_secs(1);

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

/// The files and the Secret that the webhook reads again and again.
struct Renewal {
    source: CertificateSource,
    certificate: CurrentCertificate,
    vault_ca_file: PathBuf,
    vault_ca: Arc<ArcSwap<String>>,
    metrics: WebhookMetrics,
}

/// Serves until a shutdown is requested, and then until the running reviews have ended.
///
/// # Errors
/// An error of rustls, which does not accept its own configuration.
pub async fn run(
    config: WebhookConfig,
    listeners: WebhookListeners,
    signals: ServiceSignals,
) -> Result<(), rustls::Error> {
    let ServiceSignals { shutdown, reload } = signals;
    let mut registry = Registry::default();
    let metrics = WebhookMetrics::register(&mut registry);
    process_metrics::register(&mut registry, env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let certificate = CurrentCertificate::default();
    let tls = certificate.server_config()?;
    let (vault_ca_file, vault_ca) = config.vault_ca;
    let vault_ca = Arc::new(ArcSwap::from_pointee(vault_ca));

    let probes_stop = CancellationToken::new();
    let _probes_stop = probes_stop.clone().drop_guard();
    let probes = probes(registry, certificate.clone(), shutdown.clone());
    let addresses = (listeners.https.local_addr(), listeners.metrics.local_addr());
    tokio::spawn(probe::serve(listeners.metrics, probes, probes_stop));
    let renewal = Renewal {
        source: config.source,
        certificate,
        vault_ca_file,
        vault_ca: vault_ca.clone(),
        metrics: metrics.clone(),
    };
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(renewal.run(reload.subscribe())),
    );
    let reviewer = Arc::new(Reviewer {
        injection: config.injection,
        vault_ca,
        metrics,
        bodies: Semaphore::new(server::MAX_BODIES),
        review: Mutex::new(()),
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
    server::serve(listeners.https, tls, reviewer, closing, config.shutdown_grace).await;
    Ok(())
}

fn probes(registry: Registry, certificate: CurrentCertificate, shutdown: CancellationToken) -> probe::Probes {
    probe::Probes {
        metrics: Arc::new(registry),
        ready: Arc::new(move || {
            if shutdown.is_cancelled() {
                return Err("shutting down".into());
            }
            Ok(certificate.check(SystemTime::now())?)
        }),
        started: None,
    }
}

impl Renewal {
    /// Checks the certificate and the vault's CAs again and again, and at once at each `reload`. Does not return.
    async fn run(self, mut reload: watch::Receiver<()>) {
        loop {
            self.check_certificate().await;
            self.check_vault_ca().await;
            let interval = match self.certificate.is_set() {
                true => CHECK_INTERVAL,
                false => FIRST_CHECK_INTERVAL,
            };
            // The error means that the interval has passed.
            let _ = timeout(interval, reload.changed()).await;
        }
    }

    async fn check_certificate(&self) {
        match self.source.renew(&self.certificate).await {
            Ok(not_after) => self.metrics.set_expiry(self.source.setting(), not_after),
            Err(error) => {
                self.metrics.count_renewal_failure();
                tracing::warn!(
                    error = chain(&error),
                    "certificate not renewed; the last one stays in use"
                );
            }
        }
    }

    async fn check_vault_ca(&self) {
        let file = self.vault_ca_file.clone();
        match blocking(move || settings::read_authorities(&file)).await {
            Ok(found) if found != **self.vault_ca.load() => {
                tracing::info!("the CAs of the vault have changed; new pods get the new ones");
                self.vault_ca.store(Arc::new(found));
            }
            Ok(_) => {}
            Err(error) => {
                self.metrics.count_renewal_failure();
                tracing::warn!(
                    error,
                    "the CAs of the vault were not read; new pods get the last ones"
                );
            }
        }
    }
}
