//! The settings that all services have in common, as groups of command-line flags. A service flattens the groups into its
//! own settings, and changes a help text with `mut_args` where the meaning differs.
//!
//! Every value is read as text and checked by a `check` method, so that all mistakes are reported together.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Command};

use crate::{
    authz::{Binding, Role},
    keepalive::{Ping, TcpTimeout},
    settings::{Problems, path},
    signal::Hangup,
    startup::{Logging, MemoryAccess},
    telemetry::{LogFilter, LogFormat},
    tls::{Identity, Reloading, ServerTls, TlsError},
};

/// Returns a group of flags with its default values, without reading the environment.
pub fn defaults<A: Args>() -> A {
    let flags = A::augment_args(Command::new("defaults"));
    let given = flags.try_get_matches_from(["defaults"]);
    given
        .and_then(|given| A::from_arg_matches(&given))
        .expect("every flag of the group has a default")
}

/// TLS of the gRPC listener.
#[derive(Debug, Clone, Args)]
pub struct TlsArgs {
    /// Certificate chain of the gRPC listener, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// CAs that issue the certificates of clients, PEM
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// SPIFFE Workload API that gives the certificate and the CAs for which no files are given: unix:/PATH
    #[arg(long, value_name = "SOCKET")]
    pub spiffe_socket: Option<String>,
}

impl TlsArgs {
    /// Uses the Workload API if one is given. Must be called before the other settings of TLS are read.
    pub fn workload_api(&self, problems: &mut Problems) {
        if let Some(socket) = self.spiffe_socket.as_deref().filter(|socket| !socket.is_empty()) {
            problems.workload_api("--spiffe-socket", socket);
        }
    }

    /// Returns the TLS of a gRPC server on `listen`.
    pub fn server(&self, problems: &mut Problems, listen: Option<SocketAddr>) -> Option<ServerTls> {
        let identity = problems.identity(self.cert(), self.key());
        self.server_of(problems, identity, listen)
    }

    /// Returns the TLS of a gRPC server on `listen` whose certificate names a principal, and its certificate.
    pub fn server_with_principal(
        &self,
        problems: &mut Problems,
        listen: Option<SocketAddr>,
    ) -> Option<(ServerTls, Reloading<Identity>)> {
        let identity = problems.principal_identity(self.cert(), self.key());
        let tls = self.server_of(problems, identity.clone(), listen);
        Some((tls?, identity?))
    }

    fn server_of(
        &self,
        problems: &mut Problems,
        identity: Option<Reloading<Identity>>,
        listen: Option<SocketAddr>,
    ) -> Option<ServerTls> {
        let clients = problems.authorities("--client-ca", path(&self.client_ca), listen);
        let tls = ServerTls::grpc(identity?, Some(clients?));
        match tls.config() {
            // The certificate of a Workload API arrives later.
            Ok(_) | Err(TlsError::NotYet) => Some(tls),
            Err(error) => {
                problems.add("--tls-cert", error);
                None
            }
        }
    }

    fn cert(&self) -> (&'static str, Option<&Path>) {
        ("--tls-cert", path(&self.tls_cert))
    }

    fn key(&self) -> (&'static str, Option<&Path>) {
        ("--tls-key", path(&self.tls_key))
    }
}

/// The principals of the roles that administer.
#[derive(Debug, Clone, Default, Args)]
pub struct RoleArgs {
    /// Administrators: PRINCIPAL for all workspaces, or PRINCIPAL=WORKSPACE,…
    ///
    /// A principal is the one URI SAN of a client certificate (spiffe://…) or, without one, its one DNS SAN (dns:NAME).
    #[arg(long, value_delimiter = ';', value_name = "PRINCIPAL")]
    pub admin: Vec<String>,
    /// Editors: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*
    #[arg(long, value_delimiter = ';', value_name = "PRINCIPAL=WORKSPACES")]
    pub editor: Vec<String>,
    /// Viewers: PRINCIPAL=WORKSPACE,… or PRINCIPAL=*
    #[arg(long, value_delimiter = ';', value_name = "PRINCIPAL=WORKSPACES")]
    pub viewer: Vec<String>,
}

impl RoleArgs {
    /// Reads the bindings of all three roles.
    pub fn check(&self, problems: &mut Problems) -> Vec<Binding> {
        let mut bindings = problems.bindings("--admin", Role::Admin, &self.admin);
        bindings.extend(problems.bindings("--editor", Role::Editor, &self.editor));
        bindings.extend(problems.bindings("--viewer", Role::Viewer, &self.viewer));
        bindings
    }
}

/// Detection of dead clients.
#[derive(Debug, Clone, Args)]
pub struct KeepaliveArgs {
    /// Time without a frame after which an HTTP/2 client is sent a PING
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    pub ping_interval: String,
    /// Time that the client has to answer a PING before its connection is closed
    #[arg(long, default_value = "2m", value_name = "DURATION")]
    pub ping_timeout: String,
    /// Time after which a connection whose peer acknowledges nothing is closed: TCP keepalive and TCP_USER_TIMEOUT. A peer
    /// that reads nothing while its receive buffer is full counts as dead, too
    #[arg(long, default_value = "50s", value_name = "DURATION")]
    pub tcp_timeout: String,
}

impl KeepaliveArgs {
    /// Checks the settings of PING frames and of TCP.
    pub fn check(&self, problems: &mut Problems) -> Option<(Ping, TcpTimeout)> {
        let ping = Ping::check(
            problems,
            ("--ping-interval", &self.ping_interval),
            ("--ping-timeout", &self.ping_timeout),
        );
        let tcp_timeout = TcpTimeout::check(problems, "--tcp-timeout", &self.tcp_timeout);
        Some((ping?, tcp_timeout?))
    }
}

/// The process: its memory, its end and its log.
#[derive(Debug, Clone, Args)]
pub struct ProcessArgs {
    /// Let debuggers attach and cores be dumped; both reveal the memory, including decrypted values
    #[arg(long)]
    pub allow_debugging: bool,
    /// Time that running calls have after SIGTERM
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub shutdown_grace: String,
    /// Filter of the log: a level, or a list such as info,h2=debug
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// File with a filter that is used instead of --log; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub log_filter_file: Option<PathBuf>,
    /// Format of the log
    #[arg(long, default_value = "text", value_enum, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

impl ProcessArgs {
    /// Returns the settings of the log.
    pub fn logging(&self) -> Logging<'_> {
        Logging {
            filter: LogFilter {
                text: self.log.as_str().into(),
                file: path(&self.log_filter_file).map(Into::into),
            },
            format: self.log_format,
            hangup: Hangup::Reloads,
        }
    }

    /// Returns the protection of the process's memory from other processes.
    pub fn memory(&self) -> MemoryAccess {
        if self.allow_debugging {
            MemoryAccess::Debuggable
        } else {
            MemoryAccess::Private
        }
    }

    /// Checks the time that running calls have after SIGTERM.
    pub fn shutdown_grace(&self, problems: &mut Problems) -> Option<Duration> {
        problems.duration("--shutdown-grace", &self.shutdown_grace)
    }
}
