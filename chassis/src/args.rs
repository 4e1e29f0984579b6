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
use proto::Principal;

use crate::{
    authz::{Binding, Policy, Role},
    jwt::{IssuerSetting, Issuers},
    keepalive::{Ping, TcpTimeout},
    settings::{Problems, path},
    signal::Hangup,
    startup::{Logging, MemoryAccess},
    telemetry::{LogFilter, LogFormat},
    tls::{Identity, Reloading, ServerTls},
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
    /// Private key of the certificate of --tls-cert, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// CAs that issue the certificates of clients, PEM; optional with --jwt-issuer
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// SPIFFE Workload API that gives the certificate and the CAs for which no files are given: unix:/PATH
    #[arg(long, value_name = "SOCKET")]
    pub spiffe_socket: Option<String>,
}

impl TlsArgs {
    /// Uses the Workload API if one is given. Must be called before the other settings of TLS are read.
    pub fn workload_api(&self, problems: &mut Problems) {
        if let Some(socket) = self.spiffe_socket() {
            problems.workload_api("--spiffe-socket", socket);
        }
    }

    fn spiffe_socket(&self) -> Option<&str> {
        self.spiffe_socket.as_deref().filter(|socket| !socket.is_empty())
    }

    /// Returns the TLS of a gRPC server on `listen`. The CAs of clients may be missing when clients can have tokens of
    /// `issuers`.
    pub fn server(
        &self,
        problems: &mut Problems,
        listen: Option<SocketAddr>,
        issuers: &Issuers,
    ) -> Option<ServerTls> {
        let identity = problems.identity(self.cert(), self.key());
        self.server_of(problems, identity, listen, issuers)
    }

    /// Returns the TLS of a gRPC server on `listen` whose certificate names a principal, and its certificate.
    pub fn server_with_principal(
        &self,
        problems: &mut Problems,
        listen: Option<SocketAddr>,
        issuers: &Issuers,
    ) -> Option<(ServerTls, Reloading<Identity>)> {
        let identity = problems.principal_identity(self.cert(), self.key());
        let tls = self.server_of(problems, identity.clone(), listen, issuers);
        Some((tls?, identity?))
    }

    fn server_of(
        &self,
        problems: &mut Problems,
        identity: Option<Reloading<Identity>>,
        listen: Option<SocketAddr>,
        issuers: &Issuers,
    ) -> Option<ServerTls> {
        let clients = match path(&self.client_ca) {
            None if !issuers.is_empty() && self.spiffe_socket().is_none() => Some(None),
            ca => problems.authorities("--client-ca", ca, listen).map(Some),
        };
        let tls = ServerTls::grpc(identity?, clients?);
        problems.check_tls("--tls-cert", tls.config())?;
        Some(tls)
    }

    /// Refuses roles of principals that no client can prove, because no CA or issuer is given: their calls would be refused
    /// although the settings look right.
    pub fn check_roles(&self, problems: &mut Problems, policy: &Policy) {
        let has_clients = path(&self.client_ca).is_some() || self.spiffe_socket().is_some();
        for principal in policy.principals() {
            match principal {
                Principal::Spiffe(_) | Principal::Dns(_) if !has_clients => {
                    problems.add("--client-ca", format!("is needed for the role of {principal}"));
                }
                Principal::Token(_) => problems.add(
                    "--admin, --editor, --viewer",
                    format!("{principal} is for callers of the data plane alone, and can have no role"),
                ),
                Principal::Spiffe(_) | Principal::Dns(_) | Principal::Jwt(_) => {}
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

/// The issuers whose JSON Web Tokens (RFC 7519) identify clients.
#[allow(
    rustdoc::broken_intra_doc_links,
    reason = "the command line shows the brackets of optional parts"
)]
#[derive(Debug, Clone, Default, Args)]
pub struct JwtArgs {
    /// An issuer whose JSON Web Tokens identify clients: URL=AUDIENCE[,name=NAME][,jwks=FILE|URL][,ca=FILE][,token=FILE][,max-life=DURATION]
    ///
    /// A client sends its token as metadata `authorization: Bearer TOKEN`, and then only the token counts. Its principal is
    /// jwt:URL#SUBJECT. For the issuer with name=kubernetes, system:serviceaccount:NAMESPACE:NAME is short for the principal
    /// of that service account. Without jwks=, the key set comes from OpenID Connect discovery. ca= has the CAs of the URL in
    /// PEM, and token= a bearer token for reading the key set. A token whose life exceeds max-life= (24h) is refused.
    #[arg(long, value_delimiter = ';', value_name = "ISSUER")]
    pub jwt_issuer: Vec<String>,
}

impl JwtArgs {
    /// Reads the settings of all issuers. Returns no issuers when none is given.
    pub fn check(&self, problems: &mut Problems) -> Option<Issuers> {
        const SETTING: &str = "--jwt-issuer";
        let texts = self.jwt_issuer.iter().filter(|text| !text.is_empty());
        let settings: Option<Vec<_>> = texts
            .map(|text| problems.take(SETTING, IssuerSetting::parse(text)))
            .collect();
        problems.take(SETTING, Issuers::new(settings?))
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
    /// Reads the bindings of all three roles. `issuers` gives principals their short forms.
    pub fn check(&self, problems: &mut Problems, issuers: &Issuers) -> Vec<Binding> {
        let parse = |text: &str| issuers.principal(text);
        let mut bindings = problems.bindings("--admin", Role::Admin, &self.admin, parse);
        bindings.extend(problems.bindings("--editor", Role::Editor, &self.editor, parse));
        bindings.extend(problems.bindings("--viewer", Role::Viewer, &self.viewer, parse));
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
    /// Time after which a connection is closed when its peer acknowledges no data (TCP keepalive and TCP_USER_TIMEOUT), also
    /// when the peer reads nothing and its receive buffer is full
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
    /// Time that running calls get to finish after SIGTERM
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub shutdown_grace: String,
    /// Filter of the log: off, error, warn, info, debug or trace, or a list such as info,h2=debug
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
