//! The command line and the settings of `injector-service`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use chassis::{
    args::{ProcessArgs, RoleArgs, TlsArgs},
    authz::Policy,
    channel::ServiceAddress,
    expiry::OwnCertificates,
    settings::{self, Problems},
    telemetry::chain,
    tls::{ClientTls, Identity, Reloader, Reloading, ServerTls, TlsError},
};
use clap::{Args, Parser, Subcommand};
use proto::{Principal, ServerName, WorkspaceName};

use crate::{
    catalog::Catalog,
    limits::{LimitSettings, Limits},
    proxy::{Hosts, ListenerRoute},
    upstream::TrustedRoots,
};

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
    /// Ask the injector that runs here whether it is ready: exit code 0, or 1 and why
    Healthcheck {
        /// Address of its /readyz
        #[arg(long, default_value = "127.0.0.1:9052", value_name = "ADDRESS")]
        metrics_listen: String,
    },
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
    /// Address of the data plane (HTTP/1.1 and HTTP/2)
    #[arg(long, default_value = "127.0.0.1:7100", value_name = "ADDRESS")]
    pub data_plane_listen: String,
    /// A further listener that leads to one server alone: ADDRESS=WORKSPACE/SERVER
    #[arg(long, value_delimiter = ';', value_name = "ADDRESS=SERVER")]
    pub listen_server: Vec<String>,
    /// Address of /metrics, /livez and /readyz (plain HTTP)
    #[arg(long, default_value = "127.0.0.1:9052", value_name = "ADDRESS")]
    pub metrics_listen: String,
    /// YAML file with the servers; read again when it changes. Missing is empty; without write permission, servers
    /// are changed by changing the file
    #[arg(long, value_name = "FILE")]
    pub servers: Option<PathBuf>,
    /// YAML file with a catalog: servers that can be added by a name like @scope/name. Read again whenever it is used
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
    /// The vault: HOST:PORT
    #[arg(long, default_value = "127.0.0.1:7150", value_name = "HOST:PORT")]
    pub vault: String,
    /// CAs that the vault's certificate comes from, PEM
    #[arg(long, value_name = "FILE")]
    pub vault_ca: Option<PathBuf>,
    /// The principal that the vault's certificate names: spiffe://… or dns:NAME
    #[arg(long, value_name = "PRINCIPAL")]
    pub vault_id: Option<String>,
    /// Certificate chain that the vault knows this injector by, PEM
    #[arg(long, value_name = "FILE")]
    pub vault_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE")]
    pub vault_key: Option<PathBuf>,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub roles: RoleArgs,
    /// Certificate chain of the data plane, PEM; without it the data plane is cleartext
    #[arg(long, value_name = "FILE")]
    pub data_plane_tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE")]
    pub data_plane_tls_key: Option<PathBuf>,
    /// Serve the data plane in cleartext on an address that other machines reach
    #[arg(long)]
    pub data_plane_insecure_plaintext: bool,
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
    /// Address of the gRPC listener.
    pub listen: SocketAddr,
    pub data_plane_listen: SocketAddr,
    /// Listeners of the data plane that lead to one server each.
    pub listen_server: Vec<(SocketAddr, ListenerRoute)>,
    /// Address of `/metrics`, `/livez` and `/readyz`.
    pub metrics_listen: SocketAddr,
    pub servers: PathBuf,
    pub catalog: Option<Catalog>,
    pub vault: ServiceAddress,
    pub vault_tls: ClientTls,
    /// The principal of the vault.
    pub vault_id: Principal,
    /// The certificate that the vault knows this injector by.
    pub vault_identity: Reloading<Identity>,
    /// The certificates that this injector presents, for the metrics of their expiry.
    pub certificates: OwnCertificates,
    /// Reads the files of TLS again when they change.
    pub reloader: Reloader,
    /// TLS of the gRPC listener.
    pub tls: ServerTls,
    pub policy: Arc<Policy>,
    /// TLS of the data plane; `None` for cleartext.
    pub data_plane_tls: Option<ServerTls>,
    pub hosts: Hosts,
    /// The CAs of the system and of `--upstream-ca`.
    pub upstream_roots: Reloading<TrustedRoots>,
    pub limits: Limits,
    /// Requires every secret of every server.
    pub require_all_secrets: bool,
    pub reflection: bool,
    /// Time for running calls to finish after a signal to stop.
    pub shutdown_grace: Duration,
}

impl Settings {
    /// Parses and checks all settings. An error lists every mistake.
    pub fn check(self) -> Result<Config, Problems> {
        let mut problems = Problems::default();
        let p = &mut problems;
        let listen = p.address("--listen", &self.listen);
        let data_plane_listen = p.address("--data-plane-listen", &self.data_plane_listen);
        let listen_server = self.listen_server(p);
        let metrics_listen = p.address("--metrics-listen", &self.metrics_listen);
        let servers = p
            .required("--servers", settings::path(&self.servers))
            .map(PathBuf::from);
        let catalog = self.catalog(p);
        let vault = p.parse("--vault", &self.vault);
        self.tls.workload_api(p);
        let vault_tls = self.vault_tls(p);
        let tls = self.tls.server(p, listen);
        let bindings = self.roles.check(p);
        let policy = p.policy("--admin", bindings);
        let data_plane_tls = self.data_plane_tls(p, data_plane_listen, &listen_server);
        let hosts = self.hosts(p, matches!(data_plane_tls, Some(Some(_))));
        let upstream_roots = self.upstream_roots(p);
        let limits = self.limits.check(p);
        let shutdown_grace = self.process.shutdown_grace(p);
        let certificates = problems.own_certificates();
        let reloader = problems.take_reloader();
        let config = (|| {
            let (vault_tls, vault_id, vault_identity) = vault_tls?;
            Some(Config {
                listen: listen?,
                data_plane_listen: data_plane_listen?,
                listen_server,
                metrics_listen: metrics_listen?,
                servers: servers?,
                catalog,
                vault: vault?,
                vault_tls,
                vault_id,
                vault_identity,
                certificates,
                reloader,
                tls: tls?,
                policy: Arc::new(policy?),
                data_plane_tls: data_plane_tls?,
                hosts: hosts?,
                upstream_roots: upstream_roots?,
                limits: limits?,
                require_all_secrets: self.require_all_secrets,
                reflection: !self.no_reflection,
                shutdown_grace: shutdown_grace?,
            })
        })();
        problems.finish(config)
    }

    fn listen_server(&self, problems: &mut Problems) -> Vec<(SocketAddr, ListenerRoute)> {
        let parse = |text: &String| {
            let (address, server) = text.split_once('=')?;
            let (workspace, server) = server.split_once('/')?;
            let route = ListenerRoute::Only(
                WorkspaceName::parse(workspace).ok()?,
                ServerName::parse(server).ok()?,
            );
            Some((address.parse().ok()?, route))
        };
        let invalid = |text: &String| {
            format!("{text:?} is not ADDRESS=WORKSPACE/SERVER, such as 127.0.0.1:7101=dev/github")
        };
        let listeners = self.listen_server.iter();
        listeners
            .filter_map(|text| problems.take("--listen-server", parse(text).ok_or_else(|| invalid(text))))
            .collect()
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
        problems.reloading("--upstream-ca", files, load, TrustedRoots::describe)
    }

    fn vault_tls(&self, problems: &mut Problems) -> Option<(ClientTls, Principal, Reloading<Identity>)> {
        let authorities = problems.authorities("--vault-ca", settings::path(&self.vault_ca), None);
        let id = problems.required("--vault-id", self.vault_id.as_deref());
        let vault = id.and_then(|id| problems.take("--vault-id", Principal::parse(id)));
        let identity = problems.principal_identity(
            ("--vault-cert", settings::path(&self.vault_cert)),
            ("--vault-key", settings::path(&self.vault_key)),
        )?;
        let vault = vault?;
        let tls = ClientTls::grpc(Some(identity.clone()), authorities?, vault.clone());
        match tls.config() {
            // The certificate of a Workload API arrives later.
            Ok(_) | Err(TlsError::NotYet) => Some((tls, vault, identity)),
            Err(error) => {
                problems.add("--vault-cert", error);
                None
            }
        }
    }

    /// Returns the TLS of the data plane. Cleartext is refused for addresses that other machines can reach, unless
    /// `--data-plane-insecure-plaintext` allows it.
    #[expect(
        clippy::option_option,
        reason = "the outer option is None for a mistake in the settings, the inner one without TLS"
    )]
    fn data_plane_tls(
        &self,
        problems: &mut Problems,
        shared: Option<SocketAddr>,
        dedicated: &[(SocketAddr, ListenerRoute)],
    ) -> Option<Option<ServerTls>> {
        let (cert, key) = (
            settings::path(&self.data_plane_tls_cert),
            settings::path(&self.data_plane_tls_key),
        );
        if cert.is_some() || key.is_some() {
            let identity =
                problems.identity(("--data-plane-tls-cert", cert), ("--data-plane-tls-key", key))?;
            let tls = ServerTls::http(identity, None);
            problems.take("--data-plane-tls-cert", tls.config())?;
            return Some(Some(tls));
        }
        let mut addresses = shared.iter().chain(dedicated.iter().map(|(address, _)| address));
        let exposed = addresses.find(|address| !address.ip().is_loopback());
        if let (Some(address), false) = (exposed, self.data_plane_insecure_plaintext) {
            problems.add(
                "--data-plane-listen",
                format!(
                    "{address} is reached from other machines and would be cleartext; give --data-plane-tls-cert and \
                     --data-plane-tls-key, or accept it with --data-plane-insecure-plaintext"
                ),
            );
            return None;
        }
        Some(None)
    }

    fn hosts(&self, problems: &mut Problems, tls: bool) -> Option<Hosts> {
        let read = |problems: &mut Problems, setting: &str, text: &str| {
            let lower = text.to_ascii_lowercase();
            let named = Principal::parse(&format!("dns:{lower}")).map(|_| lower);
            problems.take(setting, named.map_err(|_| format!("{text:?} is not a host name")))
        };
        let names = self
            .host
            .iter()
            .filter_map(|name| read(problems, "--host", name))
            .collect();
        let suffix = read(problems, "--host-suffix", &self.host_suffix)?;
        Some(Hosts {
            names,
            suffix,
            scheme: if tls { "https" } else { "http" },
        })
    }
}
