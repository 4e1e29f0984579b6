//! The settings of `injector-service webhook`.

use std::{
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use chassis::{
    args::ProcessArgs,
    expiry::OwnCertificates,
    kubernetes::{ApiClient, ObjectName, SERVICE_ACCOUNT_DIR},
    pki::only_certificates,
    settings::{self, Problems, path},
    tls::{Identity, Reloader, Reloading, ReloadingSender, ServerTls},
};
use clap::{Args, Parser};
use proto::Principal;

use super::{
    annotations,
    image_prefix::ImagePrefix,
    own_authority::OwnAuthority,
    sidecar::{DATA_PLANE_PORT, InjectionSettings, SidecarReadiness},
};

/// Life of the sidecars' tokens in seconds. Kubernetes issues no token for less than 10 minutes. The vault accepts a token until the
/// token expires, even when the pod of the token no longer exists: a long life is a risk.
const TOKEN_SECONDS: RangeInclusive<u64> = 600..=86_400;
/// Maximum size of the vault's CAs in bytes. All annotations of an object together have 256 KiB at most.
const MAX_AUTHORITIES: usize = 128 << 10;

/// The prefix of all environment variables of the webhook.
pub const ENVIRONMENT: &str = "AEROSTACK_WEBHOOK_";

/// The settings as a command of their own, for the names of their environment variables.
#[derive(Debug, Parser)]
pub struct WebhookCli {
    #[command(flatten)]
    settings: WebhookSettings,
}

/// The settings as text, before [`WebhookSettings::check`]. The elements of a list are separated by `;`.
#[derive(Debug, Clone, Args)]
#[command(mut_args(|arg| settings::with_variable(match arg.get_id().as_str() {
    "allow_debugging" => arg.help(
        "Let debuggers attach and cores be dumped; both reveal the memory, including private keys and the token for the API of Kubernetes",
    ),
    _ => arg,
}, ENVIRONMENT)))]
pub struct WebhookSettings {
    /// Address of the HTTPS listener (TLS 1.3) that the API of Kubernetes calls
    #[arg(long, default_value = "0.0.0.0:8443", value_name = "ADDRESS")]
    pub listen: String,
    /// Address of /metrics, /livez and /readyz (plain HTTP)
    #[arg(long, default_value = "0.0.0.0:9053", value_name = "ADDRESS")]
    pub metrics_listen: String,
    /// Image of the sidecars
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Prefix of the images that pods may choose by the annotation aerostack.dev/image; without this setting, a pod that
    /// chooses another image than --image is denied
    #[arg(long, value_delimiter = ';', value_name = "PREFIX")]
    pub allow_image: Vec<String>,
    /// The vault of the sidecars: HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    pub vault: Option<String>,
    /// The principal that the vault's certificate names: spiffe://… or dns:NAME
    #[arg(long, value_name = "PRINCIPAL")]
    pub vault_id: Option<String>,
    /// CAs of the vault's certificate, PEM. A change of the file applies to pods that are created later
    #[arg(long, value_name = "FILE")]
    pub vault_ca: Option<PathBuf>,
    /// Audience of the sidecars' tokens, which the vault's --jwt-issuer names
    #[arg(long, default_value = "aerostack-vault", value_name = "AUDIENCE")]
    pub token_audience: String,
    /// Life of the tokens of sidecars, from 10m to 24h; the kubelet renews a token after 80 % of its life
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub token_expiration: String,
    #[allow(rustdoc::broken_intra_doc_links, reason = "an IPv6 address has brackets")]
    /// Address of /metrics, /livez, /readyz and /startupz of the sidecars (plain HTTP); [::]:9052 in a cluster with IPv6
    #[arg(long, default_value = "0.0.0.0:9052", value_name = "ADDRESS")]
    pub sidecar_metrics_listen: String,
    /// Condition for the readiness of a pod with a sidecar: the sidecar can use its vault (vault), or the sidecar runs (live)
    #[arg(long, default_value = "vault", value_enum, value_name = "STATE")]
    pub sidecar_readiness: SidecarReadiness,
    /// A namespace whose pods get no sidecar: a pod there that asks for one is denied
    #[arg(long, value_delimiter = ';', value_name = "NAMESPACE")]
    pub exclude_namespace: Vec<String>,
    /// Processor time of a sidecar: REQUEST or REQUEST,LIMIT
    #[arg(long, default_value = "20m", value_name = "QUANTITY")]
    pub cpu: String,
    /// Memory of a sidecar: REQUEST or REQUEST,LIMIT; half of a limit is the sidecar's --max-buffered-total
    #[arg(long, default_value = "64Mi,128Mi", value_name = "QUANTITY")]
    pub memory: String,
    /// Certificate chain of the HTTPS listener, PEM; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate of --tls-cert, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Instead of --tls-cert: the webhook issues its certificate by an authority of its own, which it keeps in this Secret and
    /// renews
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub self_signed_secret: Option<String>,
    /// With --self-signed-secret: the MutatingWebhookConfiguration whose caBundle the webhook keeps up to date
    #[arg(long, value_name = "NAME")]
    pub webhook_configuration: Option<String>,
    /// With --self-signed-secret: the Service of the webhook, in the Secret's namespace
    #[arg(long, value_name = "NAME")]
    pub service_name: Option<String>,
    /// Directory with the token and the ca.crt for the API of Kubernetes
    #[arg(long, default_value = SERVICE_ACCOUNT_DIR, value_name = "DIR")]
    pub service_account_dir: PathBuf,
    /// Time after SIGTERM for which new connections are still accepted, because Kubernetes goes on sending them for a moment
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    pub shutdown_delay: String,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The settings after [`WebhookSettings::check`].
pub struct WebhookConfig {
    pub(super) listen: SocketAddr,
    pub(super) metrics_listen: SocketAddr,
    pub(super) injection: InjectionSettings,
    /// The CAs of the vault, PEM.
    pub(super) vault_ca: Reloading<String>,
    pub(super) tls: ServerTls,
    /// The source of the certificate, unless it comes from files.
    pub(super) own_authority: Option<OwnAuthority>,
    /// The certificate of the HTTPS listener, for the metrics of its expiry.
    pub(super) certificates: OwnCertificates,
    /// Reads the files of the certificate and of the CAs again when they change.
    pub(super) reloader: Reloader,
    pub(super) shutdown_delay: Duration,
    pub(super) shutdown_grace: Duration,
}

impl WebhookSettings {
    /// Parses and checks all settings. An error lists every mistake.
    ///
    /// # Errors
    /// [`Problems`] with every mistake.
    pub fn check(self) -> Result<WebhookConfig, Problems> {
        let mut problems = Problems::default();
        let p = &mut problems;
        let listen = p.address("--listen", &self.listen);
        let metrics_listen = p.address("--metrics-listen", &self.metrics_listen);
        let injection = self.injection(p);
        let vault_ca = self.vault_ca(p);
        let certificate = self.certificate(p);
        let shutdown_delay = p.duration("--shutdown-delay", &self.shutdown_delay);
        let shutdown_grace = self.process.shutdown_grace(p);
        let certificates = problems.own_certificates();
        let reloader = problems.take_reloader();
        let config = (|| {
            let (tls, own_authority) = certificate?;
            Some(WebhookConfig {
                listen: listen?,
                metrics_listen: metrics_listen?,
                injection: injection?,
                vault_ca: vault_ca?,
                tls,
                own_authority,
                certificates,
                reloader,
                shutdown_delay: shutdown_delay?,
                shutdown_grace: shutdown_grace?,
            })
        })();
        problems.finish(config)
    }

    fn injection(&self, problems: &mut Problems) -> Option<InjectionSettings> {
        let image = problems.required("--image", self.image.as_deref());
        let image = image.and_then(|image| problems.take("--image", annotations::image(image)));
        let vault = problems.required("--vault", self.vault.as_deref());
        let vault = vault.and_then(|vault| problems.parse("--vault", vault));
        let vault_id = problems.required("--vault-id", self.vault_id.as_deref());
        let vault_id = vault_id.and_then(|id| problems.take("--vault-id", Principal::parse(id)));
        let cpu = problems.take("--cpu", annotations::cpu(&self.cpu));
        let memory = problems.take("--memory", annotations::memory(&self.memory));
        if self.token_audience.is_empty() {
            problems.add("--token-audience", "is empty");
        }
        let token_seconds = self.token_seconds(problems);
        let metrics_listen = self.sidecar_metrics_listen(problems);
        let allowed = self.allow_image.iter();
        let allowed_images = allowed
            .filter_map(|prefix| problems.take("--allow-image", ImagePrefix::parse(prefix)))
            .collect();
        let excluded = self.exclude_namespace.iter();
        let excluded_namespaces = excluded
            .filter_map(|name| problems.take("--exclude-namespace", ObjectName::parse(name)))
            .collect();
        Some(InjectionSettings {
            image: image?,
            allowed_images,
            vault: vault?,
            vault_id: vault_id?,
            token_audience: self.token_audience.clone(),
            token_seconds: token_seconds?,
            metrics_listen: metrics_listen?,
            readiness: self.sidecar_readiness,
            cpu: cpu?,
            memory: memory?,
            excluded_namespaces,
        })
    }

    fn token_seconds(&self, problems: &mut Problems) -> Option<u64> {
        let seconds = problems
            .duration("--token-expiration", &self.token_expiration)?
            .as_secs();
        if !TOKEN_SECONDS.contains(&seconds) {
            let text = &self.token_expiration;
            problems.add(
                "--token-expiration",
                format!("{text:?} is not between 10m and 24h"),
            );
            return None;
        }
        Some(seconds)
    }

    fn sidecar_metrics_listen(&self, problems: &mut Problems) -> Option<SocketAddr> {
        const SETTING: &str = "--sidecar-metrics-listen";
        let address = problems.address(SETTING, &self.sidecar_metrics_listen)?;
        match address.port() {
            0 => problems.add(SETTING, "needs a port that is not 0"),
            DATA_PLANE_PORT => problems.add(SETTING, "has the port of the data plane"),
            _ => return Some(address),
        }
        None
    }

    fn vault_ca(&self, problems: &mut Problems) -> Option<Reloading<String>> {
        let file = problems.required("--vault-ca", path(&self.vault_ca))?.to_owned();
        problems.reloading(
            "--vault-ca",
            vec![file.clone()],
            move || read_authorities(&file),
            |_, _| Ok(()),
            |pem| format!("{} CAs for new pods", pem.matches("-----BEGIN ").count()),
        )
    }

    /// Returns the TLS of the HTTPS listener, and the own authority that its certificate comes from.
    fn certificate(&self, problems: &mut Problems) -> Option<(ServerTls, Option<OwnAuthority>)> {
        let (certificate, key) = (path(&self.tls_cert), path(&self.tls_key));
        match &self.self_signed_secret {
            None => {
                if certificate.is_none() && key.is_none() {
                    problems.add(
                        "--tls-cert",
                        "is required, and --tls-key too, unless --self-signed-secret is given",
                    );
                    return None;
                }
                let identity = problems.identity(("--tls-cert", certificate), ("--tls-key", key))?;
                let tls = ServerTls::http(identity, None);
                problems.check_tls("--tls-cert", tls.config())?;
                Some((tls, None))
            }
            Some(secret) => {
                if certificate.is_some() || key.is_some() {
                    problems.add(
                        "--self-signed-secret",
                        "replaces --tls-cert and --tls-key; give one of both",
                    );
                }
                let (sender, identity) = ReloadingSender::new(None);
                problems.add_own_certificate("--self-signed-secret", &identity);
                let own = self.own_authority(secret, sender, problems)?;
                Some((ServerTls::http(identity, None), Some(own)))
            }
        }
    }

    fn own_authority(
        &self,
        secret: &str,
        certificate: ReloadingSender<Identity>,
        problems: &mut Problems,
    ) -> Option<OwnAuthority> {
        let secret = problems.parse("--self-signed-secret", secret);
        let configuration =
            problems.required("--webhook-configuration", self.webhook_configuration.as_deref());
        let configuration = configuration.and_then(|name| problems.parse("--webhook-configuration", name));
        let service = problems.required("--service-name", self.service_name.as_deref());
        let service = service.and_then(|name| problems.parse("--service-name", name));
        let api = problems.take(
            "--self-signed-secret",
            ApiClient::in_cluster(&self.service_account_dir),
        );
        Some(OwnAuthority {
            api: api?,
            secret: secret?,
            configuration: configuration?,
            service: service?,
            certificate,
        })
    }
}

/// Reads the certificates of a file. Other content, such as a key, is left out, because pods get the text.
fn read_authorities(file: &Path) -> Result<String, String> {
    let fault = |fault: String| format!("{}: {fault}", file.display());
    let text = fs::read_to_string(file).map_err(|error| fault(error.to_string()))?;
    let certificates =
        only_certificates(&text).ok_or_else(|| fault("no certificate in PEM form was found".to_owned()))?;
    match certificates.len() {
        length if length > MAX_AUTHORITIES => Err(fault(format!(
            "the certificates have {length} bytes, and an annotation of each pod has to hold them: {MAX_AUTHORITIES} at most"
        ))),
        _ => Ok(certificates),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
pub(super) mod tests {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _, time::SystemTime};

    use chassis::{
        args::defaults,
        pki::{Ca, CaSpec, Leaf, issue},
    };
    use tempfile::TempDir;

    use super::*;

    /// Returns valid settings except for the source of the certificate.
    fn settings() -> (TempDir, WebhookSettings) {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("ca.pem");
        let ca = Ca::generate(&CaSpec::for_any_name(SystemTime::now())).unwrap();
        fs::write(&file, format!("{}{}", *ca.key_pem(), ca.cert_pem())).unwrap();
        let settings = WebhookSettings {
            image: Some("registry.example.org/injector:1".to_owned()),
            vault: Some("vault:7150".to_owned()),
            vault_id: Some("dns:vault".to_owned()),
            vault_ca: Some(file),
            ..defaults()
        };
        (folder, settings)
    }

    /// Writes a certificate and its key, and returns the files.
    fn write_certificate(folder: &Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        let now = SystemTime::now();
        let ca = Ca::generate(&CaSpec::for_any_name(now)).unwrap();
        let issued = issue(&ca, &Leaf::server("webhook", now)).unwrap();
        fs::write(&cert, &issued.cert_pem).unwrap();
        let mut private = fs::OpenOptions::new();
        let private = private.write(true).create_new(true).mode(0o600).open(&key);
        private.unwrap().write_all(issued.key_pem.as_bytes()).unwrap();
        (cert, key)
    }

    /// Returns checked settings with a certificate in files.
    pub(in crate::webhook) fn config() -> (TempDir, WebhookConfig) {
        let (folder, settings) = settings();
        let (cert, key) = write_certificate(folder.path());
        let settings = WebhookSettings {
            tls_cert: Some(cert),
            tls_key: Some(key),
            ..settings
        };
        let config = settings.check().map_err(|problems| problems.to_string());
        (folder, config.unwrap())
    }

    fn mistakes(settings: WebhookSettings) -> String {
        settings.check().err().unwrap().to_string()
    }

    #[test]
    fn a_key_in_the_file_of_the_vaults_authorities_does_not_reach_pods() {
        let (_folder, config) = config();
        let authorities = config.vault_ca.current().unwrap();
        assert!(authorities.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(!authorities.contains("PRIVATE KEY"));
    }

    #[test]
    fn authorities_that_no_annotation_can_hold_are_refused() {
        let (_folder, settings) = settings();
        let file = settings.vault_ca.clone().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.repeat(MAX_AUTHORITIES / 512)).unwrap();
        assert!(mistakes(settings).contains("an annotation of each pod has to hold them"));
    }

    #[test]
    fn the_token_and_the_metrics_of_sidecars_are_settings() {
        let (_folder, settings) = settings();
        let wrong = WebhookSettings {
            token_expiration: "5m".to_owned(),
            sidecar_metrics_listen: "[::]:7100".to_owned(),
            ..settings
        };
        let said = mistakes(wrong);
        for part in [
            "\"5m\" is not between 10m and 24h",
            "has the port of the data plane",
        ] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }

    #[test]
    fn the_certificate_comes_from_files_or_from_an_own_authority_and_not_from_both() {
        let (_folder, settings) = settings();
        assert!(mistakes(settings.clone()).contains("--tls-cert: is required"));
        let half = WebhookSettings {
            tls_cert: Some("cert.pem".into()),
            ..settings.clone()
        };
        assert!(mistakes(half).contains("--tls-key: is required"));
        let both = WebhookSettings {
            tls_cert: Some("cert.pem".into()),
            self_signed_secret: Some("aerostack".to_owned()),
            ..settings
        };
        let said = mistakes(both);
        for part in [
            "replaces --tls-cert and --tls-key",
            "\"aerostack\" is not NAMESPACE/NAME",
            "--webhook-configuration: is required",
            "--service-name: is required",
        ] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
}
