//! Settings of vault-service.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chassis::{
    authz::{Policy, Role},
    expiry::OwnCertificates,
    keepalive::{Ping, TcpTimeout},
    process::{Logging, Memory},
    settings::{self, Problems},
    signal::Hangup,
    telemetry::{LogFilter, LogFormat},
    tls,
};
use clap::{Args, Parser, Subcommand, builder::BoolishValueParser};
use proto::Principal;

use crate::{
    audit_log::{Mode, Output},
    crypto::{RootKey, root_key_file},
    root::{Provider, ProviderKind, Providers, RootKeyWrapper, kms::Kms},
    vault::Plan,
};

/// Minimum of `--erase-after`. With a shorter time the vault would rotate keys without pause.
const SHORTEST_ERASE_AFTER: Duration = Duration::from_secs(1);

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "vault-service", version, about = "Keeps secrets, encrypted and write-only", long_about = None,
    args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Another thing to do than to serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub settings: Settings,
}

/// What else the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a root key: a new file with 32 random bytes in base64, readable by its owner only
    Keygen {
        /// The file to make; an existing one is never overwritten
        path: PathBuf,
    },
    /// Ask the vault that runs here whether it is ready: exit code 0, or 1 and why
    Healthcheck {
        /// Address of its /readyz
        #[arg(
            long,
            env = "AEROSTACK_VAULT_METRICS_LISTEN",
            default_value = "127.0.0.1:9051",
            value_name = "ADDRESS"
        )]
        metrics_listen: String,
    },
    /// Back up a store that no vault has open. The backup is sealed: restoring it takes the root key
    ///
    /// While the vault serves, ask it instead: `aerostack backup`, or BackupService/ExportBackup.
    Backup {
        /// The store, and its root keys
        #[command(flatten)]
        store: StoreArgs,
        /// The file to make, readable by its owner only and never overwritten; `-` is standard output
        #[arg(long, default_value = "-", value_name = "FILE")]
        output: PathBuf,
        /// The audit log, where `-` is standard error.
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Restore a backup into a store that does not exist yet, or is empty
    Restore {
        /// The store to make, and the root keys that the backup needs
        #[command(flatten)]
        store: StoreArgs,
        /// The backup; `-` is standard input
        #[arg(long, default_value = "-", value_name = "FILE")]
        input: PathBuf,
        /// The audit log, where `-` is standard error.
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Copy a store that no vault has open into a fresh one, which replaces it and is as small as possible
    ///
    /// The command makes the copy beside the store, whose directory may not be a mount point, and compares the two. A
    /// command that is stopped at any moment leaves a whole store.
    Compact {
        /// Directory of the store
        #[arg(long, env = "AEROSTACK_VAULT_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        /// The audit log, where `-` is standard error.
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Read a whole store that no vault has open, and name what is damaged
    ///
    /// The command changes nothing in the store and shows no value. Exit code 0: no damage. 1: the store could not be
    /// read. 2: something is damaged, or the vault would not start.
    Verify {
        /// The store, and its root keys
        #[command(flatten)]
        store: StoreArgs,
        /// Directory for a copy, as large as the store, on which to try whether the vault would start; the directory of
        /// temporary files if not given
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
        /// The audit log, where `-` is standard error.
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Copy all readable data of a damaged store into a new one, and name what is lost or older than acknowledged
    ///
    /// The command changes nothing in the damaged store and shows no value. Run a stopped repair again, with the same
    /// `--to`; until the repair is finished the vault does not open the new store. Exit code 0: nothing is lost. 1:
    /// there is no new store.
    /// 2: the new store is finished, and something is lost, older than acknowledged or in doubt.
    Repair {
        /// The damaged store, and its root keys
        #[command(flatten)]
        store: StoreArgs,
        /// Directory of the new store; it must be missing, be empty, or hold a stopped repair
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Also keep secrets that may have been deleted; without this flag the command names them and leaves them out
        #[arg(long)]
        include_deleted: bool,
        /// The audit log, where `-` is standard error.
        #[command(flatten)]
        audit: AuditArgs,
    },
}

/// Where a store is, and its root keys.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Directory of the store
    #[arg(long, env = "AEROSTACK_VAULT_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the root keys come from.
    #[command(flatten)]
    pub root: RootArgs,
}

impl StoreArgs {
    /// What gives the root keys.
    pub fn providers(&self) -> Result<Providers, Problems> {
        let mut problems = Problems::default();
        let root = self.root.check(&mut problems);
        problems.finish(root)
    }
}

/// Where the root keys come from.
#[derive(Debug, Clone, Args)]
pub struct RootArgs {
    /// File with a root key: 32 bytes, raw or in base64, which others may not read (make one with `keygen`)
    ///
    /// The first file holds the active root key. Further files, given again or after a `;`, hold earlier root keys. To
    /// rotate the root key, put a new file before the old one and restart, and remove the old file when the key status
    /// shows that no workspace needs it.
    #[arg(
        long,
        env = "AEROSTACK_VAULT_ROOT_KEY_FILE",
        value_delimiter = ';',
        value_name = "FILE"
    )]
    pub root_key_file: Vec<PathBuf>,
    /// File with a passphrase, which others may not read: the store holds the root key, wrapped with it (Argon2id)
    #[arg(long, env = "AEROSTACK_VAULT_ROOT_PASSPHRASE_FILE", value_name = "FILE")]
    pub root_passphrase_file: Option<PathBuf>,
    /// Unix socket of a Kubernetes KMS v2 plugin: the store holds the root key, encrypted by it
    ///
    /// Until the plugin answers, the vault is sealed: it serves, but does not decrypt.
    #[arg(long, env = "AEROSTACK_VAULT_ROOT_KMS_SOCKET", value_name = "SOCKET")]
    pub root_kms_socket: Option<PathBuf>,
    /// Which root key is active, when more than one kind is given: what the others wrapped is moved to it
    #[arg(long, env = "AEROSTACK_VAULT_ROOT_ACTIVE", value_enum, value_name = "KIND")]
    pub root_active: Option<ProviderKind>,
}

/// The audit log.
#[derive(Debug, Clone, Default, Args)]
pub struct AuditArgs {
    /// File that gets one JSON line for each decision about a secret or a key; `-` is standard output (of a command,
    /// standard error)
    ///
    /// The vault appends to the file, creates it readable for its owner only, and creates a new file within a second
    /// after a rename. While the file cannot be written, the vault refuses calls. Without this setting the vault writes
    /// no audit log.
    #[arg(long, env = "AEROSTACK_VAULT_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Serve calls also while the audit log cannot be written, and without waiting for their lines
    #[arg(long, env = "AEROSTACK_VAULT_AUDIT_BEST_EFFORT", value_parser = BoolishValueParser::new())]
    pub audit_best_effort: bool,
}

impl AuditArgs {
    /// Opens the log for a command on the store in `data_dir`; returns `None` when no log is configured.
    pub fn open_for_command(&self, data_dir: &Path) -> Result<Option<Output>, Problems> {
        let mut problems = Problems::default();
        let output = self.check(&mut problems, Some(data_dir), Output::open_for_command);
        problems.finish(Some(output))
    }

    /// Opens the log when the settings name one.
    fn check(
        &self,
        problems: &mut Problems,
        data_dir: Option<&Path>,
        open: impl FnOnce(&Path, Mode) -> io::Result<Output>,
    ) -> Option<Output> {
        const SETTING: &str = "--audit-log";
        let Some(path) = settings::path(&self.audit_log) else {
            if self.audit_best_effort {
                problems.add("--audit-best-effort", "there is no --audit-log");
            }
            return None;
        };
        if data_dir.is_some_and(|dir| path.starts_with(dir)) {
            problems.add(SETTING, "is in --data-dir, which is the store's alone");
            return None;
        }
        let mode = match self.audit_best_effort {
            true => Mode::BestEffort,
            false => Mode::Required,
        };
        problems.take(SETTING, open(path, mode))
    }
}

const PING_INTERVAL: &str = "5m";
const PING_TIMEOUT: &str = "2m";
const TCP_TIMEOUT: &str = "50s";

/// How dead peers are noticed.
#[derive(Debug, Clone, Args)]
pub struct KeepaliveArgs {
    /// Time without a frame after which an HTTP/2 client is sent a PING
    #[arg(
        long,
        env = "AEROSTACK_VAULT_PING_INTERVAL",
        default_value = PING_INTERVAL,
        value_name = "DURATION"
    )]
    pub ping_interval: String,
    /// Time that the client has to answer a PING before its connection is closed
    #[arg(
        long,
        env = "AEROSTACK_VAULT_PING_TIMEOUT",
        default_value = PING_TIMEOUT,
        value_name = "DURATION"
    )]
    pub ping_timeout: String,
    /// Time after which a connection whose peer acknowledges nothing is closed: TCP keepalive and TCP_USER_TIMEOUT. A peer
    /// that reads nothing while its receive buffer is full counts as dead, too
    #[arg(
        long,
        env = "AEROSTACK_VAULT_TCP_TIMEOUT",
        default_value = TCP_TIMEOUT,
        value_name = "DURATION"
    )]
    pub tcp_timeout: String,
}

/// The default values.
impl Default for KeepaliveArgs {
    fn default() -> Self {
        Self {
            ping_interval: PING_INTERVAL.to_owned(),
            ping_timeout: PING_TIMEOUT.to_owned(),
            tcp_timeout: TCP_TIMEOUT.to_owned(),
        }
    }
}

impl KeepaliveArgs {
    fn check(&self, problems: &mut Problems) -> Option<(Ping, TcpTimeout)> {
        let interval = ("--ping-interval", self.ping_interval.as_str());
        let timeout = ("--ping-timeout", self.ping_timeout.as_str());
        let ping = Ping::check(problems, interval, timeout);
        let tcp_timeout = TcpTimeout::check(problems, "--tcp-timeout", &self.tcp_timeout);
        Some((ping?, tcp_timeout?))
    }
}

/// Settings as they are given; every one is a flag and an environment variable. Lists are separated by `;`.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Address of the gRPC listener (TLS 1.3)
    #[arg(
        long,
        env = "AEROSTACK_VAULT_LISTEN",
        default_value = "127.0.0.1:7150",
        value_name = "ADDRESS"
    )]
    pub listen: String,
    /// Address of /metrics, /livez and /readyz (plain HTTP)
    #[arg(
        long,
        env = "AEROSTACK_VAULT_METRICS_LISTEN",
        default_value = "127.0.0.1:9051",
        value_name = "ADDRESS"
    )]
    pub metrics_listen: String,
    /// Directory of the store; made when it is not there. Nothing else may be in it
    #[arg(long, env = "AEROSTACK_VAULT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Memory that the store may use as its cache, in MiB
    #[arg(
        long,
        env = "AEROSTACK_VAULT_CACHE_MIB",
        default_value = "64",
        value_name = "MIB"
    )]
    pub cache_mib: String,
    /// Where the root keys come from.
    #[command(flatten)]
    pub root: RootArgs,
    /// Certificate chain of the gRPC listener, PEM
    #[arg(long, env = "AEROSTACK_VAULT_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, env = "AEROSTACK_VAULT_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// CAs that clients' certificates come from, PEM
    #[arg(long, env = "AEROSTACK_VAULT_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Who administers: PRINCIPAL for all workspaces, or PRINCIPAL=WORKSPACE,…
    ///
    /// A principal is the one URI SAN of a client certificate (spiffe://…) or, without one, its one DNS SAN (dns:NAME).
    #[arg(
        long,
        env = "AEROSTACK_VAULT_ADMIN",
        value_delimiter = ';',
        value_name = "PRINCIPAL"
    )]
    pub admin: Vec<String>,
    /// Who edits secrets: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*
    #[arg(
        long,
        env = "AEROSTACK_VAULT_EDITOR",
        value_delimiter = ';',
        value_name = "PRINCIPAL=WORKSPACES"
    )]
    pub editor: Vec<String>,
    /// Who sees names and metadata: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*
    #[arg(
        long,
        env = "AEROSTACK_VAULT_VIEWER",
        value_delimiter = ';',
        value_name = "PRINCIPAL=WORKSPACES"
    )]
    pub viewer: Vec<String>,
    /// Who has secrets decrypted: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*; never also one of the above
    #[arg(
        long,
        env = "AEROSTACK_VAULT_INJECTOR",
        value_delimiter = ';',
        value_name = "PRINCIPAL=WORKSPACES"
    )]
    pub injector: Vec<String>,
    /// How dead peers are noticed.
    #[command(flatten)]
    pub keepalive: KeepaliveArgs,
    /// The audit log.
    #[command(flatten)]
    pub audit: AuditArgs,
    /// Give no value in clear, not even inside TLS: only sealed to a key that the injector names
    #[arg(long, env = "AEROSTACK_VAULT_REQUIRE_SEALED", value_parser = BoolishValueParser::new())]
    pub require_sealed: bool,
    /// Plan of a workspace that is created without one
    #[arg(
        long,
        env = "AEROSTACK_VAULT_DEFAULT_PLAN",
        default_value = "free",
        value_enum,
        value_name = "PLAN"
    )]
    pub default_plan: Plan,
    /// Do not serve gRPC reflection
    #[arg(long, env = "AEROSTACK_VAULT_NO_REFLECTION", value_parser = BoolishValueParser::new())]
    pub no_reflection: bool,
    /// Time after a delete until the vault begins to destroy the keys that can still decrypt the deleted data
    ///
    /// The vault handles all deletes of that time together: it rotates the keys of every workspace with a delete. At
    /// least 1s.
    #[arg(
        long,
        env = "AEROSTACK_VAULT_ERASE_AFTER",
        default_value = "1h",
        value_name = "DURATION"
    )]
    pub erase_after: String,
    /// Let debuggers attach and cores be dumped: both show what is in memory, decrypted values too
    #[arg(long, env = "AEROSTACK_VAULT_ALLOW_DEBUGGING", value_parser = BoolishValueParser::new())]
    pub allow_debugging: bool,
    /// How long calls under way may take after SIGTERM
    #[arg(
        long,
        env = "AEROSTACK_VAULT_SHUTDOWN_GRACE",
        default_value = "10s",
        value_name = "DURATION"
    )]
    pub shutdown_grace: String,
    /// What is logged: a level, or a filter such as info,vault_service=debug
    #[arg(
        long,
        env = "AEROSTACK_VAULT_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log: String,
    /// File with a filter that is used instead of --log; read again on SIGHUP
    #[arg(long, env = "AEROSTACK_VAULT_LOG_FILTER_FILE", value_name = "FILE")]
    pub log_filter_file: Option<PathBuf>,
    /// How it is logged
    #[arg(
        long,
        env = "AEROSTACK_VAULT_LOG_FORMAT",
        default_value = "text",
        value_enum,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// Settings that were found right.
pub struct Config {
    /// Address of the gRPC listener.
    pub listen: SocketAddr,
    /// Address of the probes.
    pub metrics_listen: SocketAddr,
    /// Directory of the store.
    pub data_dir: PathBuf,
    /// Bytes that the store may cache.
    pub cache_bytes: u64,
    /// What gives the root keys.
    pub root: Providers,
    /// TLS of the gRPC listener.
    pub tls: Arc<rustls::ServerConfig>,
    /// Who this vault is: what its certificate names.
    pub id: Principal,
    /// The certificate that this vault presents.
    pub certificates: OwnCertificates,
    /// Whether values are given sealed or not at all.
    pub require_sealed: bool,
    /// Who may what.
    pub policy: Arc<Policy>,
    /// PING frames to clients.
    pub ping: Ping,
    /// The timeout of TCP connections.
    pub tcp_timeout: TcpTimeout,
    /// The opened audit log; `None` when no log is configured.
    pub audit_log: Option<Output>,
    /// Plan of a workspace that is created without one.
    pub default_plan: Plan,
    /// Whether reflection is served.
    pub reflection: bool,
    /// How long calls under way may take at the end.
    pub shutdown_grace: Duration,
    /// Time from a delete until the vault begins to erase the deleted data.
    pub erase_after: Duration,
}

impl Settings {
    /// What is logged, and how.
    pub fn logging(&self) -> Logging<'_> {
        Logging {
            filter: LogFilter {
                text: self.log.as_str().into(),
                file: settings::path(&self.log_filter_file).map(Into::into),
            },
            format: self.log_format,
            hangup: Hangup::Reloads,
        }
    }

    /// Who may look into this process's memory.
    pub fn memory(&self) -> Memory {
        if self.allow_debugging {
            Memory::Debuggable
        } else {
            Memory::Private
        }
    }

    /// Checks everything, and reports everything that is wrong.
    pub fn check(self) -> Result<Config, Problems> {
        let mut problems = Problems::default();
        let listen = problems.parse("--listen", &self.listen);
        let metrics_listen = problems.parse("--metrics-listen", &self.metrics_listen);
        let data_dir = problems
            .required("--data-dir", settings::path(&self.data_dir))
            .map(PathBuf::from);
        let cache_mib = problems.parse::<u64>("--cache-mib", &self.cache_mib);
        let root = self.root.check(&mut problems);
        let identity = problems.identity(
            ("--tls-cert", settings::path(&self.tls_cert)),
            ("--tls-key", settings::path(&self.tls_key)),
        );
        let clients = problems.authorities("--client-ca", settings::path(&self.client_ca), listen);
        let id = identity
            .as_ref()
            .and_then(|identity| problems.principal("--tls-cert", identity));
        let tls = identity.zip(clients).and_then(|(identity, clients)| {
            problems.take("--tls-cert", tls::grpc_server(identity, &clients))
        });
        let policy = self.policy(&mut problems);
        let keepalive = self.keepalive.check(&mut problems);
        let shutdown_grace = problems.duration("--shutdown-grace", &self.shutdown_grace);
        let erase_after = problems.duration("--erase-after", &self.erase_after);
        if erase_after.is_some_and(|after| after < SHORTEST_ERASE_AFTER) {
            problems.add("--erase-after", "is at least 1s");
        }
        let audit_log = self.audit.check(&mut problems, data_dir.as_deref(), Output::open);
        let certificates = problems.own_certificates();
        let config = (|| {
            let (ping, tcp_timeout) = keepalive?;
            Some(Config {
                listen: listen?,
                metrics_listen: metrics_listen?,
                data_dir: data_dir?,
                cache_bytes: cache_mib?.saturating_mul(1024 * 1024),
                root: root?,
                tls: tls?,
                id: id?,
                certificates,
                require_sealed: self.require_sealed,
                policy: Arc::new(policy?),
                ping,
                tcp_timeout,
                audit_log,
                default_plan: self.default_plan,
                reflection: !self.no_reflection,
                shutdown_grace: shutdown_grace?,
                erase_after: erase_after?,
            })
        })();
        problems.finish(config)
    }

    fn policy(&self, problems: &mut Problems) -> Option<Policy> {
        let mut bindings = problems.bindings("--admin", Role::Admin, &self.admin);
        bindings.extend(problems.bindings("--editor", Role::Editor, &self.editor));
        bindings.extend(problems.bindings("--viewer", Role::Viewer, &self.viewer));
        bindings.extend(problems.bindings("--injector", Role::Injector, &self.injector));
        problems.policy("--injector", bindings)
    }
}

impl RootArgs {
    /// All that give root keys, the active one first.
    fn check(&self, problems: &mut Problems) -> Option<Providers> {
        let mut given = self.files(problems)?;
        if let Some(path) = settings::path(&self.root_passphrase_file) {
            problems.take("--root-passphrase-file", root_key_file::read_passphrase(path))?;
            given.push((
                ProviderKind::Passphrase,
                Provider::Wrapper(RootKeyWrapper::Passphrase(path.to_owned())),
            ));
        }
        if let Some(socket) = settings::path(&self.root_kms_socket) {
            given.push((
                ProviderKind::Kms,
                Provider::Wrapper(RootKeyWrapper::Kms(Kms::at(socket))),
            ));
        }
        let active = self.root_active.or_else(|| {
            let (first, _) = given.first()?;
            given.iter().all(|(kind, _)| kind == first).then_some(*first)
        });
        let position = active.and_then(|active| given.iter().position(|(kind, _)| *kind == active));
        match position {
            Some(position) => {
                let (_, active) = given.remove(position);
                let others = given.into_iter().map(|(_, provider)| provider).collect();
                Some(Providers::new(active, others))
            }
            None if given.is_empty() => {
                problems.add(
                    "--root-key-file",
                    "is required, or --root-passphrase-file or --root-kms-socket",
                );
                None
            }
            None => {
                problems.add(
                    "--root-active",
                    "say which of the kinds of root key that are given",
                );
                None
            }
        }
    }

    /// None when one of them is wrong.
    fn files(&self, problems: &mut Problems) -> Option<Vec<(ProviderKind, Provider)>> {
        let paths = self
            .root_key_file
            .iter()
            .filter(|path| !path.as_os_str().is_empty());
        let keys: Vec<_> = paths
            .map(|path| problems.take("--root-key-file", root_key_file::read(path)))
            .collect();
        let keys: Vec<_> = keys.into_iter().collect::<Option<_>>()?;
        let mut ids: Vec<_> = keys.iter().map(RootKey::id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() < keys.len() {
            problems.add("--root-key-file", "two of the files hold the same key");
            return None;
        }
        let provider = |key| (ProviderKind::File, Provider::File(Arc::new(key)));
        Some(keys.into_iter().map(provider).collect())
    }
}
