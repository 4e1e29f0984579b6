//! The webhook's own authority, which issues the certificate of the HTTPS listener when no file has one.

use std::time::{Duration, SystemTime};

use chassis::{
    kubernetes::{
        ApiClient, CertificatesError, NamespacedName, ObjectName, renew_in_one_secret, set_ca_bundle,
    },
    pki::RenewalPlan,
    telemetry::chain,
    tls::{Identity, ReloadingSender, TlsError},
};
use tokio::{sync::watch, time::timeout};

use super::metrics::WebhookMetrics;

/// Life of the authority.
const AUTHORITY_LIFE: Duration = Duration::from_hours(365 * 24);
/// Life of a certificate that the authority issues.
const LEAF_LIFE: Duration = Duration::from_hours(30 * 24);
/// Interval between two checks of the certificate. SIGHUP starts a check at once.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Interval between two checks while there is no certificate.
const FIRST_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// An authority in a Secret, which all replicas of the webhook share.
pub(super) struct OwnAuthority {
    pub(super) api: ApiClient,
    pub(super) secret: NamespacedName,
    /// The configuration that has to name the authority as its `caBundle`.
    pub(super) configuration: ObjectName,
    /// The Service of the webhook, in the namespace of the Secret.
    pub(super) service: ObjectName,
    /// The certificate of the HTTPS listener.
    pub(super) certificate: ReloadingSender<Identity>,
}

#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error(transparent)]
    Kubernetes(#[from] CertificatesError),
    #[error(transparent)]
    Unusable(#[from] TlsError),
}

impl OwnAuthority {
    /// Renews the certificate before it expires. Checks it again and again, and at once at each `reload`. After an error the last
    /// certificate stays in use. Does not return.
    pub(super) async fn run(self, metrics: WebhookMetrics, mut reload: watch::Receiver<()>) {
        loop {
            if let Err(error) = self.renew().await {
                metrics.count_renewal_failure();
                tracing::warn!(
                    error = chain(&error),
                    "certificate not renewed; the last one stays in use"
                );
            }
            let interval = match self.certificate.current() {
                Some(_) => CHECK_INTERVAL,
                None => FIRST_CHECK_INTERVAL,
            };
            // The error means that the interval has passed.
            let _ = timeout(interval, reload.changed()).await;
        }
    }

    /// Renews the certificate, and makes the API trust its authority. The API has to trust the authority before a connection
    /// presents the certificate, whichever replica issued it.
    async fn renew(&self) -> Result<(), RenewalError> {
        let renewed = renew_in_one_secret(&self.api, &self.secret, &self.plan(), SystemTime::now()).await?;
        if renewed.authorities_changed || renewed.leaf_made {
            let (authorities, leaf) = (renewed.authorities_changed, renewed.leaf_made);
            tracing::info!(secret = %self.secret, authorities, leaf, "certificates renewed");
        }
        if set_ca_bundle(&self.api, &self.configuration, &renewed.authorities_pem).await? {
            tracing::info!(configuration = %self.configuration, "caBundle written");
        }
        let (origin, key) = (format!("the Secret {}", self.secret), &renewed.key_pem);
        let identity = Identity::from_pem(&origin, renewed.certificate_pem.as_bytes(), key.as_bytes())?;
        self.certificate.replace(identity);
        Ok(())
    }

    fn plan(&self) -> RenewalPlan {
        let host = format!("{}.{}.svc", self.service, self.secret.namespace);
        RenewalPlan {
            holder: "webhook".to_owned(),
            dns: vec![host],
            uris: Vec::new(),
            authority_life: AUTHORITY_LIFE,
            leaf_life: LEAF_LIFE,
        }
    }
}
