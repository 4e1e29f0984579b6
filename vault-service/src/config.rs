//! Settings of vault-service.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chassis::{
    args::{JwtArgs, KeepaliveArgs, ProcessArgs, RoleArgs, TlsArgs},
    authz::{Policy, Role},
    expiry::OwnCertificates,
    jwt::Issuers,
    keepalive::{Ping, TcpTimeout},
    settings::{self, Problems},
    tls::{Identity, Reloader, Reloading, ServerTls},
};
use clap::{Args, Parser, Subcommand};

use crate::{
    audit_log::{AuditMode, AuditOutput},
    crypto::{RootKey, root_key_file},
    root::{Provider, ProviderKind, Providers, RootKeyWrapper, kms::Kms},
    vault::Plan,
};

/// First part of the names of all environment variables of this service.
pub const ENVIRONMENT: &str = "AEROSTACK_VAULT_";
/// Minimum of `--erase-after`. With a shorter time the vault would rotate keys without pause.
const SHORTEST_ERASE_AFTER: Duration = Duration::from_secs(1);

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "vault-service", version, about = "Keeps secrets, encrypted and write-only", long_about = None,
    args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// The command to run. Without one, the vault serves.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
}

/// Commands other than serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a root key: a new file with 32 random bytes in base64, readable by its owner only
    Keygen {
        /// The file to make; an existing one is never overwritten
        path: PathBuf,
    },
    /// Ask the vault that runs here whether it is ready: exit code 0 when it is ready, else exit code 1 and the reason
    Healthcheck {
        /// Address of the service's /readyz, as in --metrics-listen
        #[arg(long, default_value = "127.0.0.1:9051", value_name = "ADDRESS")]
        metrics_listen: String,
        /// Ask /livez instead: exit code 0 when the vault answers
        #[arg(long)]
        live: bool,
    },
    /// Back up a store that no vault has open. The backup is encrypted: restoring it takes the root key
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
    /// Compact a store that no vault has open: copy it into a new store, which is as small as possible and replaces it
    ///
    /// The command makes the copy beside the store, whose directory may not be a mount point, and compares the two. A
    /// command that is stopped at any moment leaves a whole store.
    Compact {
        /// Directory of the store
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// The audit log, where `-` is standard error.
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Read a whole store that no vault has open, and list the damage
    ///
    /// The command changes nothing in the store and shows no value. Exit code 0: no damage. 1: the store could not be
    /// read. 2: something is damaged, or the vault would not start.
    Verify {
        /// The store, and its root keys
        #[command(flatten)]
        store: StoreArgs,
        /// Directory for a copy of the store, on which the command tries whether the vault would start; by default the
        /// directory of temporary files. The copy is as large as the store
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
        /// The audit log, where `-` is standard error.
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Copy all readable data of a damaged store into a new one, and list the data that are lost or older than acknowledged
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

/// The directory of a store and the providers of its root keys.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Directory of the store
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The providers of the root keys.
    #[command(flatten)]
    pub root: RootArgs,
}

impl StoreArgs {
    /// Returns the providers of the root keys.
    pub fn providers(&self) -> Result<Providers, Problems> {
        let mut problems = Problems::default();
        let root = self.root.check(&mut problems);
        problems.finish(root)
    }
}

/// Providers of root keys.
#[derive(Debug, Clone, Args)]
pub struct RootArgs {
    /// File with a root key: 32 bytes, raw or in base64, which others may not read (make one with `keygen`)
    ///
    /// The first file holds the active root key. Further files, given again or after a `;`, hold earlier root keys. To
    /// rotate the root key, put a new file before the old one and restart, and remove the old file when the key status
    /// shows that no workspace needs it.
    #[arg(long, value_delimiter = ';', value_name = "FILE")]
    pub root_key_file: Vec<PathBuf>,
    /// File with a passphrase, which others may not read: the store holds the root key, wrapped with it (Argon2id)
    #[arg(long, value_name = "FILE")]
    pub root_passphrase_file: Option<PathBuf>,
    /// Unix socket of a Kubernetes KMS v2 plugin: the store holds the root key, encrypted by it
    ///
    /// Until the plugin answers, the vault is locked: it serves, but does not decrypt.
    #[arg(long, value_name = "SOCKET")]
    pub root_kms_socket: Option<PathBuf>,
    /// Kind of the active root key, required when several kinds are given; the vault wraps again with it
    /// what the other keys wrapped
    #[arg(long, value_enum, value_name = "KIND")]
    pub root_active: Option<ProviderKind>,
}

/// The audit log.
#[derive(Debug, Clone, Default, Args)]
pub struct AuditArgs {
    /// File that gets one JSON line for each decision about a secret or a key; `-` is standard output (of a command,
    /// standard error)
    ///
    /// The vault appends to the file, creates it readable for its owner only, and creates a new file when the file was
    /// renamed or removed. While the file cannot be written, the vault refuses calls. Without this setting the vault writes
    /// no audit log.
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Answer calls before their audit lines are written, and also while the log cannot be written
    #[arg(long)]
    pub audit_best_effort: bool,
}

impl AuditArgs {
    /// Opens the log for a command on the store in `data_dir`; returns `None` when no log is configured.
    pub fn open_for_command(&self, data_dir: &Path) -> Result<Option<AuditOutput>, Problems> {
        let mut problems = Problems::default();
        let output = self.check(&mut problems, Some(data_dir), AuditOutput::open_for_command);
        problems.finish(Some(output))
    }

    /// Opens the log when the settings name one.
    fn check(
        &self,
        problems: &mut Problems,
        data_dir: Option<&Path>,
        open: impl FnOnce(&Path, AuditMode) -> io::Result<AuditOutput>,
    ) -> Option<AuditOutput> {
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
            true => AuditMode::BestEffort,
            false => AuditMode::Required,
        };
        problems.take(SETTING, open(path, mode))
    }
}

/// The settings as text, before [`Settings::check`]. Each one is a flag and an environment variable that begins with
/// [`ENVIRONMENT`]. The elements of a list are separated by `;`.
#[derive(Debug, Clone, Args)]
#[command(mut_args(|arg| match arg.get_id().as_str() {
    "editor" => arg.help("Editors of secrets: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*"),
    "viewer" => arg.help("Viewers of names and metadata: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*"),
    _ => arg,
}))]
pub struct Settings {
    /// Address of the gRPC listener (TLS 1.3)
    #[arg(long, default_value = "127.0.0.1:7150", value_name = "ADDRESS")]
    pub listen: String,
    /// Address of /metrics, /livez and /readyz (plain HTTP)
    #[arg(long, default_value = "127.0.0.1:9051", value_name = "ADDRESS")]
    pub metrics_listen: String,
    /// Directory of the store; the vault makes it when it is missing. No other files may be in it
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Memory that the store may use as its cache, in MiB
    #[arg(long, default_value = "64", value_name = "MIB")]
    pub cache_mib: String,
    /// The providers of the root keys.
    #[command(flatten)]
    pub root: RootArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub jwt: JwtArgs,
    #[command(flatten)]
    pub roles: RoleArgs,
    /// Injectors, which decrypt secrets: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*. An injector can have no other role
    #[arg(long, value_delimiter = ';', value_name = "PRINCIPAL=WORKSPACES")]
    pub injector: Vec<String>,
    #[command(flatten)]
    pub keepalive: KeepaliveArgs,
    /// The audit log.
    #[command(flatten)]
    pub audit: AuditArgs,
    /// Refuse decrypts of injectors that give no key to seal the values to
    #[arg(long)]
    pub require_sealed: bool,
    /// Plan of a workspace that is created without one
    #[arg(long, default_value = "free", value_enum, value_name = "PLAN")]
    pub default_plan: Plan,
    /// Do not serve gRPC reflection
    #[arg(long)]
    pub no_reflection: bool,
    /// Time after a delete until the vault begins to destroy the keys that can still decrypt the deleted data
    ///
    /// The vault handles all deletes of that time together: it rotates the keys of every workspace with a delete. At
    /// least 1s.
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub erase_after: String,
    #[command(flatten)]
    pub process: ProcessArgs,
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
    pub root: Providers,
    /// TLS of the gRPC listener.
    pub tls: ServerTls,
    /// This vault's certificate, which names the vault's principal.
    pub identity: Reloading<Identity>,
    /// The certificate that this vault presents.
    pub certificates: OwnCertificates,
    /// Reads the files of TLS again when they change.
    pub reloader: Reloader,
    /// True when the vault gives values only sealed to a key of the injector.
    pub require_sealed: bool,
    /// The issuers whose tokens identify clients.
    pub issuers: Issuers,
    /// The bindings of principals to roles.
    pub policy: Arc<Policy>,
    /// PING frames to clients.
    pub ping: Ping,
    /// The timeout of TCP connections.
    pub tcp_timeout: TcpTimeout,
    /// The opened audit log; `None` when no log is configured.
    pub audit_log: Option<AuditOutput>,
    /// Plan of a workspace that is created without one.
    pub default_plan: Plan,
    pub reflection: bool,
    /// Time limit for running calls after the shutdown began.
    pub shutdown_grace: Duration,
    /// Time from a delete until the vault begins to erase the deleted data.
    pub erase_after: Duration,
}

impl Settings {
    /// Checks everything, and reports everything that is wrong.
    pub fn check(self) -> Result<Config, Problems> {
        let mut problems = Problems::default();
        let listen = problems.address("--listen", &self.listen);
        let metrics_listen = problems.address("--metrics-listen", &self.metrics_listen);
        let data_dir = problems
            .required("--data-dir", settings::path(&self.data_dir))
            .map(PathBuf::from);
        let cache_mib = problems.parse::<u64>("--cache-mib", &self.cache_mib);
        let root = self.root.check(&mut problems);
        self.tls.workload_api(&mut problems);
        let issuers = self.jwt.check(&mut problems).unwrap_or_default();
        let tls = self.tls.server_with_principal(&mut problems, listen, &issuers);
        let policy = self.policy(&mut problems, &issuers);
        if let Some(policy) = &policy {
            self.tls.check_roles(&mut problems, policy);
        }
        let keepalive = self.keepalive.check(&mut problems);
        let shutdown_grace = self.process.shutdown_grace(&mut problems);
        let erase_after = problems.duration("--erase-after", &self.erase_after);
        if erase_after.is_some_and(|after| after < SHORTEST_ERASE_AFTER) {
            problems.add("--erase-after", "is at least 1s");
        }
        let audit_log = self
            .audit
            .check(&mut problems, data_dir.as_deref(), AuditOutput::open);
        let certificates = problems.own_certificates();
        let reloader = problems.take_reloader();
        let config = (|| {
            let (ping, tcp_timeout) = keepalive?;
            let (tls, identity) = tls?;
            Some(Config {
                listen: listen?,
                metrics_listen: metrics_listen?,
                data_dir: data_dir?,
                cache_bytes: cache_mib?.saturating_mul(1024 * 1024),
                root: root?,
                tls,
                identity,
                certificates,
                reloader,
                require_sealed: self.require_sealed,
                issuers,
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

    fn policy(&self, problems: &mut Problems, issuers: &Issuers) -> Option<Policy> {
        let mut bindings = self.roles.check(problems, issuers);
        bindings.extend(
            problems.bindings("--injector", Role::Injector, &self.injector, |text| {
                issuers.principal(text)
            }),
        );
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
