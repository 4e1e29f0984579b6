//! The certificate of the HTTPS listener. It is replaced while the webhook runs: new connections get the new one.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use chassis::{
    blocking::blocking,
    kubernetes::{
        ApiClient, CertificatesError, NamespacedName, ObjectName, RenewedCertificates, in_one_secret,
        set_ca_bundle,
    },
    pki::RenewalPlan,
    tls::{self, Identity, TlsError},
};
use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// Life of the webhook's own authority.
const AUTHORITY_LIFE: Duration = Duration::from_hours(365 * 24);
/// Life of a certificate of the webhook's own authority.
const LEAF_LIFE: Duration = Duration::from_hours(30 * 24);

/// The place that certificates come from.
#[derive(Debug, Clone)]
pub(super) enum CertificateSource {
    /// Files, which for example cert-manager renews.
    Files { certificate: PathBuf, key: PathBuf },
    /// An authority of the webhook's own.
    OwnAuthority(OwnAuthority),
}

/// An authority in a Secret, which all replicas of the webhook share.
#[derive(Debug, Clone)]
pub(super) struct OwnAuthority {
    pub(super) api: ApiClient,
    pub(super) secret: NamespacedName,
    /// The configuration that has to name the authority as its `caBundle`.
    pub(super) configuration: ObjectName,
    /// The Service of the webhook, in the namespace of the Secret.
    pub(super) service: ObjectName,
}

/// The certificate could not be read or renewed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebhookCertificateError {
    #[error("{path}: the file cannot be read", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Files(#[from] TlsError),
    #[error("the certificate or its key is not in PEM form")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("the certificate and its key cannot be used")]
    Unusable(#[from] rustls::Error),
    #[error("the certificate cannot be read")]
    NotX509,
    #[error(transparent)]
    Kubernetes(#[from] CertificatesError),
}

/// The certificate that new connections get. Clones share it.
#[derive(Clone, Default)]
pub(super) struct CurrentCertificate(Arc<ArcSwapOption<UsableCertificate>>);

struct UsableCertificate {
    key: Arc<CertifiedKey>,
    not_after: SystemTime,
}

/// rustls demands it of resolvers. Keys have no `Debug`.
impl fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentCertificate")
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|current| current.key.clone())
    }
}

impl CurrentCertificate {
    /// Returns the configuration of a listener that presents this certificate: TLS 1.3, HTTP/2 and HTTP/1.1. The API presents
    /// no certificate of its own, unless an administrator configures one.
    pub(super) fn server_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Replaces the certificate. Returns the time at which the new one expires.
    fn set(&self, certificate: &[u8], key: &[u8]) -> Result<SystemTime, WebhookCertificateError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>()?;
        let not_after = not_after(&chain)?;
        let key = CertifiedKey::from_der(chain, PrivateKeyDer::from_pem_slice(key)?, &tls::provider())?;
        let usable = UsableCertificate {
            key: Arc::new(key),
            not_after,
        };
        self.0.store(Some(Arc::new(usable)));
        Ok(not_after)
    }

    /// Returns true once there is a certificate.
    pub(super) fn is_set(&self) -> bool {
        self.0.load().is_some()
    }

    /// Returns an error while no connection can succeed.
    pub(super) fn check(&self, now: SystemTime) -> Result<(), &'static str> {
        match &*self.0.load() {
            None => Err("there is no certificate yet; the log says why"),
            Some(current) if current.not_after < now => Err("the certificate has expired; the log says why"),
            Some(_) => Ok(()),
        }
    }
}

/// Returns the time at which a certificate of the chain expires first.
fn not_after(chain: &[CertificateDer<'_>]) -> Result<SystemTime, WebhookCertificateError> {
    let of_one = |der: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    };
    let expiries: Option<Vec<_>> = chain.iter().map(of_one).collect();
    let first = expiries.and_then(|expiries| expiries.into_iter().min());
    first.ok_or(WebhookCertificateError::NotX509)
}

impl CertificateSource {
    /// Returns the name of the setting that chose this source, without the dashes before it.
    pub(super) fn setting(&self) -> &'static str {
        match self {
            Self::Files { .. } => "tls-cert",
            Self::OwnAuthority(_) => "self-signed-secret",
        }
    }

    /// Reads or renews the certificate, and makes `current` present it. Returns the time at which it expires. After an error
    /// the last certificate stays.
    pub(super) async fn renew(
        &self,
        current: &CurrentCertificate,
    ) -> Result<SystemTime, WebhookCertificateError> {
        match self {
            Self::Files { certificate, key } => {
                let (certificate, key) = (certificate.clone(), key.clone());
                let (certificate, key) = blocking(move || read_pair(&certificate, &key)).await?;
                current.set(&certificate, &key)
            }
            Self::OwnAuthority(own) => {
                let renewed = own.renew().await?;
                current.set(renewed.certificate_pem.as_bytes(), renewed.key_pem.as_bytes())
            }
        }
    }
}

impl OwnAuthority {
    /// Renews the certificate, and makes the API trust its authority. The API has to trust the authority before a connection
    /// presents the certificate, whichever replica issued it.
    async fn renew(&self) -> Result<RenewedCertificates, CertificatesError> {
        let renewed = in_one_secret(&self.api, &self.secret, &self.plan(), SystemTime::now()).await?;
        if renewed.authorities_changed || renewed.leaf_made {
            let (authorities, leaf) = (renewed.authorities_changed, renewed.leaf_made);
            tracing::info!(secret = %self.secret, authorities, leaf, "certificates renewed");
        }
        if set_ca_bundle(&self.api, &self.configuration, &renewed.authorities_pem).await? {
            tracing::info!(configuration = %self.configuration, "caBundle written");
        }
        Ok(renewed)
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

/// Reads a certificate and its key. Refuses, as for all listeners, a key that others may read.
fn read_pair(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), WebhookCertificateError> {
    Identity::load(certificate, key)?;
    Ok((read(certificate)?, read(key)?.into()))
}

fn read(path: &Path) -> Result<Vec<u8>, WebhookCertificateError> {
    fs::read(path).map_err(|source| WebhookCertificateError::Read {
        path: path.to_owned(),
        source,
    })
}
