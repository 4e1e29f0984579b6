//! The command line and the settings of `injector-service`.

mod callers;
mod data_plane;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use chassis::{
    args::{JwtArgs, ProcessArgs, RoleArgs, TlsArgs},
    authz::Policy,
    channel::ServiceAddress,
    expiry::OwnCertificates,
    jwt::{Issuers, TokenFile},
    settings::{self, Problems},
    telemetry::chain,
    tls::{ClientTls, Identity, Reloader, Reloading, ServerTls},
};
use clap::{Args, Parser, Subcommand};
use proto::Principal;

use data_plane::DataPlaneSettings;

use crate::{
    callers::{CallerPolicy, Callers},
    catalog::Catalog,
    limits::{LimitSettings, Limits},
    resolve::{InjectorIdentity, VaultCredentials},
    upstream::TrustedRoots,
    webhook::WebhookSettings,
};

pub use callers::CallerArgs;
pub use data_plane::DataPlaneConfig;

/// The prefix of all environment variables of this service.
pub const ENVIRONMENT: &str = "AEROSTACK_INJECTOR_";

#[derive(Debug, Parser)]
#[command(name = "injector-service", version, about = "Puts secrets into requests, decrypted anew for each call",
    long_about = None, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
}

/// The subcommands. Without one, the binary serves.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the injector that runs here whether it is ready: exit code 0 when it is ready, else exit code 1 and the reason
    Healthcheck {
        /// Address of the service's /readyz, as in --metrics-listen
        #[arg(long, default_value = "127.0.0.1:9052", value_name = "ADDRESS")]
        metrics_listen: String,
        /// Ask /startupz instead: exit code 0 once the secrets of every server could be decrypted
        #[arg(long)]
        startup: bool,
        /// Ask /livez instead: exit code 0 when the injector answers
        #[arg(long, conflicts_with = "startup")]
        live: bool,
    },
    /// Run the admission webhook that adds the injector to pods of Kubernetes as a sidecar
    Webhook(Box<WebhookSettings>),
}

/// The settings as text, before [`Settings::check`]. Each one is a flag and an environment variable that begins with
/// [`ENVIRONMENT`]. The elements of a list are separated by `;`.
#[derive(Debug, Clone, Args)]
#[command(mut_args(|arg| match arg.get_id().as_str() {
    "editor" => arg.help("Editors of servers: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*"),
    "viewer" => arg.help("Viewers of servers: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*"),
    _ => arg,
}))]
pub struct Settings {
    /// Address of the gRPC listener (TLS 1.3)
    #[arg(long, default_value = "127.0.0.1:7151", value_name = "ADDRESS")]
    pub listen: String,
    /// Do not serve gRPC: servers are changed in their file only, and --listen, the TLS of gRPC and the roles are not used
    #[arg(long)]
    pub no_admin: bool,
    /// Address of the data plane (HTTP/1.1 and HTTP/2); `none` leaves only the Unix socket of --listen-unix and the
    /// listeners of --listen-server
    #[arg(long, default_value = "127.0.0.1:7100", value_name = "ADDRESS")]
    pub data_plane_listen: String,
    /// A further listener that leads to one server alone: ADDRESS=WORKSPACE/SERVER
    #[arg(long, value_delimiter = ';', value_name = "ADDRESS=SERVER")]
    pub listen_server: Vec<String>,
    /// Address of /metrics, /livez, /readyz and /startupz (plain HTTP)
    #[arg(long, default_value = "127.0.0.1:9052", value_name = "ADDRESS")]
    pub metrics_listen: String,
    /// YAML file with the servers; read again when it changes. A missing file means no servers. Without write permission,
    /// change the servers by editing the file
    #[arg(long, value_name = "FILE")]
    pub servers: Option<PathBuf>,
    /// YAML file with a catalog: servers that can be added by a name like @scope/name. Read again whenever it is used
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
    /// The vault: HOST:PORT
    #[arg(long, default_value = "127.0.0.1:7150", value_name = "HOST:PORT")]
    pub vault: String,
    /// CAs that issue the vault's certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub vault_ca: Option<PathBuf>,
    /// The principal that the vault's certificate names: spiffe://… or dns:NAME
    #[arg(long, value_name = "PRINCIPAL")]
    pub vault_id: Option<String>,
    /// Certificate chain that the vault knows this injector by, PEM; optional with --vault-token-file
    #[arg(long, value_name = "FILE")]
    pub vault_cert: Option<PathBuf>,
    /// Private key of the certificate of --vault-cert, PEM
    #[arg(long, value_name = "FILE")]
    pub vault_key: Option<PathBuf>,
    /// File with the JSON Web Token that the vault knows this injector by; read again when it is renewed
    ///
    /// The vault needs a --jwt-issuer for the token's issuer. With a token, the certificate of --vault-cert does not count.
    #[arg(long, value_name = "FILE")]
    pub vault_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub jwt: JwtArgs,
    #[command(flatten)]
    pub roles: RoleArgs,
    /// Certificate chain of the data plane, PEM; without it the data plane is cleartext
    #[arg(long, value_name = "FILE")]
    pub data_plane_tls_cert: Option<PathBuf>,
    /// Private key of the certificate of --data-plane-tls-cert, PEM
    #[arg(long, value_name = "FILE")]
    pub data_plane_tls_key: Option<PathBuf>,
    /// Serve the data plane in cleartext on an address that other machines reach
    #[arg(long)]
    pub data_plane_insecure_plaintext: bool,
    #[command(flatten)]
    pub callers: CallerArgs,
    /// A further host name under which the data plane answers
    #[arg(long, value_delimiter = ';', value_name = "NAME")]
    pub host: Vec<String>,
    /// Suffix of host names that name a server: SERVER.WORKSPACE.SUFFIX
    #[arg(long, default_value = "localhost", value_name = "NAME")]
    pub host_suffix: String,
    /// Further CAs, in PEM, that the injector trusts for upstreams like the system's CAs
    #[arg(long, value_delimiter = ';', value_name = "FILE")]
    pub upstream_ca: Vec<PathBuf>,
    /// Refuse every call that would go out without one of its server's secrets, as if every server required all of them
    #[arg(long)]
    pub require_all_secrets: bool,
    /// Do not serve gRPC reflection
    #[arg(long)]
    pub no_reflection: bool,
    #[command(flatten)]
    pub process: ProcessArgs,
    #[command(flatten)]
    pub limits: LimitSettings,
}

/// The settings after [`Settings::check`].
pub struct Config {
    /// The gRPC listener; `None` with `--no-admin`.
    pub admin: Option<AdminConfig>,
    pub data_plane: DataPlaneConfig,
    /// Address of `/metrics`, `/livez` and `/readyz`.
    pub metrics_listen: SocketAddr,
    pub servers: PathBuf,
    pub catalog: Option<Catalog>,
    pub vault: ServiceAddress,
    pub vault_tls: ClientTls,
    pub vault_credentials: VaultCredentials,
    /// The certificates that this injector presents, for the metrics of their expiry.
    pub certificates: OwnCertificates,
    /// Reads the files of TLS again when they change.
    pub reloader: Reloader,
    /// The issuers whose tokens identify clients and callers.
    pub issuers: Issuers,
    /// The CAs of the system and of `--upstream-ca`.
    pub upstream_roots: Reloading<TrustedRoots>,
    pub limits: Limits,
    /// Requires every secret of every server.
    pub require_all_secrets: bool,
    /// Time for running calls to finish after a signal to stop.
    pub shutdown_grace: Duration,
}

/// The settings of the gRPC listener.
pub struct AdminConfig {
    pub listen: SocketAddr,
    pub tls: ServerTls,
    pub policy: Arc<Policy>,
    pub reflection: bool,
}

impl Settings {
    /// Parses and checks all settings. An error lists every mistake.
    pub fn check(self) -> Result<Config, Problems> {
        let mut problems = Problems::default();
        let p = &mut problems;
        let metrics_listen = p.address("--metrics-listen", &self.metrics_listen);
        let servers = p
            .required("--servers", settings::path(&self.servers))
            .map(PathBuf::from);
        let catalog = self.catalog(p);
        let vault = p.parse("--vault", &self.vault);
        self.tls.workload_api(p);
        let vault_tls = self.vault_tls(p);
        let issuers = self.jwt.check(p).unwrap_or_default();
        let admin = match self.no_admin {
            true => Some(None),
            false => self.admin(p, &issuers).map(Some),
        };
        let data_plane = self.data_plane().check(p, &issuers, |p, callers| {
            if let Some(admin) = &admin {
                check_issuers(p, &issuers, admin.as_ref(), callers);
            }
        });
        let upstream_roots = self.upstream_roots(p);
        let limits = self.limits.check(p);
        let shutdown_grace = self.process.shutdown_grace(p);
        let certificates = problems.own_certificates();
        let reloader = problems.take_reloader();
        let config = (|| {
            let (vault_tls, vault_credentials) = vault_tls?;
            Some(Config {
                admin: admin?,
                data_plane: data_plane?,
                metrics_listen: metrics_listen?,
                servers: servers?,
                catalog,
                vault: vault?,
                vault_tls,
                vault_credentials,
                certificates,
                reloader,
                issuers,
                upstream_roots: upstream_roots?,
                limits: limits?,
                require_all_secrets: self.require_all_secrets,
                shutdown_grace: shutdown_grace?,
            })
        })();
        problems.finish(config)
    }

    fn data_plane(&self) -> DataPlaneSettings<'_> {
        DataPlaneSettings {
            data_plane_listen: &self.data_plane_listen,
            listen_server: &self.listen_server,
            data_plane_tls_cert: settings::path(&self.data_plane_tls_cert),
            data_plane_tls_key: settings::path(&self.data_plane_tls_key),
            data_plane_insecure_plaintext: self.data_plane_insecure_plaintext,
            callers: &self.callers,
            host: &self.host,
            host_suffix: &self.host_suffix,
        }
    }

    fn admin(&self, problems: &mut Problems, issuers: &Issuers) -> Option<AdminConfig> {
        let listen = problems.address("--listen", &self.listen);
        let tls = self.tls.server(problems, listen, issuers);
        let bindings = self.roles.check(problems, issuers);
        let policy = problems.policy("--admin", bindings)?;
        self.tls.check_roles(problems, &policy);
        Some(AdminConfig {
            listen: listen?,
            tls: tls?,
            policy: Arc::new(policy),
            reflection: !self.no_reflection,
        })
    }

    fn catalog(&self, problems: &mut Problems) -> Option<Catalog> {
        let path = settings::path(&self.catalog)?;
        let invalid = |error| format!("{}: {}", path.display(), chain(&error));
        problems.take("--catalog", Catalog::open(path).map_err(invalid))
    }

    fn upstream_roots(&self, problems: &mut Problems) -> Option<Reloading<TrustedRoots>> {
        let given = self.upstream_ca.iter();
        // `AEROSTACK_INJECTOR_UPSTREAM_CA=""` parses as one empty path.
        let files: Vec<_> = given
            .filter(|path| !path.as_os_str().is_empty())
            .cloned()
            .collect();
        let load = {
            let files = files.clone();
            move || TrustedRoots::load(&files)
        };
        let roots = problems.reloading(
            "--upstream-ca",
            files,
            load,
            TrustedRoots::check_replacement,
            TrustedRoots::describe,
        )?;
        let current = roots.current();
        if let Some(error) = current.as_ref().and_then(|roots| roots.system_error()) {
            tracing::warn!(error, "some of the system's CAs were not read");
        }
        Some(roots)
    }

    fn vault_tls(&self, problems: &mut Problems) -> Option<(ClientTls, VaultCredentials)> {
        let authorities = problems.authorities("--vault-ca", settings::path(&self.vault_ca), None);
        let id = problems.required("--vault-id", self.vault_id.as_deref());
        let vault = id.and_then(|id| problems.take("--vault-id", Principal::parse(id)));
        let (identity, injector) = self.own_identity(problems)?;
        let vault = vault?;
        let tls = ClientTls::grpc(identity, authorities?, vault.clone());
        problems.check_tls("--vault-cert", tls.config())?;
        Some((tls, VaultCredentials { vault, injector }))
    }

    /// Reads the certificate that this injector presents to the vault, and the identity by which the vault knows it. The
    /// certificate may be missing when there is a token.
    fn own_identity(
        &self,
        problems: &mut Problems,
    ) -> Option<(Option<Reloading<Identity>>, InjectorIdentity)> {
        let cert = ("--vault-cert", settings::path(&self.vault_cert));
        let key = ("--vault-key", settings::path(&self.vault_key));
        let Some(token) = settings::path(&self.vault_token_file) else {
            let identity = problems.principal_identity(cert, key)?;
            return Some((Some(identity.clone()), InjectorIdentity::Certificate(identity)));
        };
        let identity = match (cert, key) {
            ((_, None), (_, None)) => None,
            (cert, key) => Some(problems.identity(cert, key)?),
        };
        Some((
            identity,
            InjectorIdentity::Token(TokenFile::open("--vault-token-file", token)),
        ))
    }
}

/// Refuses issuers whose tokens identify nobody: the operator may believe that the injector requires such tokens.
fn check_issuers(problems: &mut Problems, issuers: &Issuers, admin: Option<&AdminConfig>, callers: &Callers) {
    let with_roles = admin.into_iter().flat_map(|admin| admin.policy.principals());
    let of_callers = callers.policy.iter().flat_map(CallerPolicy::principals);
    let mut all = with_roles.chain(of_callers);
    if !issuers.is_empty() && !all.any(|principal| matches!(principal, Principal::Jwt(_))) {
        problems.add(
            "--jwt-issuer",
            "is of no use: no --caller and no role names a principal with a token",
        );
    }
}
