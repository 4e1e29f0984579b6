//! The settings of a connection, as flags, the environment and contexts give them.

use std::{ffi::OsString, io, net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::contexts::{Context, ContextName};

/// Default directory of `aerostack dev`, in the working directory.
pub const DEFAULT_DIR: &str = ".aerostack";

/// Environment variables that the command line reads.
pub(super) const VARIABLES: [&str; 15] = [
    "AEROSTACK_CONTEXT",
    "AEROSTACK_DIR",
    "AEROSTACK_VAULT",
    "AEROSTACK_INJECTOR",
    "AEROSTACK_DATA_PLANE",
    "AEROSTACK_CA",
    "AEROSTACK_CERT",
    "AEROSTACK_KEY",
    "AEROSTACK_TOKEN_FILE",
    "AEROSTACK_INJECTOR_TOKEN_FILE",
    "AEROSTACK_VAULT_ID",
    "AEROSTACK_INJECTOR_ID",
    "AEROSTACK_TIMEOUT",
    "AEROSTACK_VAULT_METRICS",
    "AEROSTACK_INJECTOR_METRICS",
];

/// Heading of the flags of a connection in `--help`.
pub(crate) const HELP_HEADING: &str = "Connection";

// Settings of a connection: the flags of one command line, the variables of the environment, a context, the files of a
// directory, or all of them merged. The flags have no `env` of clap's, because a context or directory that a flag names takes
// precedence over the environment: see `ConnectArgs::resolve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = HELP_HEADING)]
pub struct ConnectArgs {
    /// The context of `aerostack context add` that names the connection [env: AEROSTACK_CONTEXT] [default: the context of
    /// `aerostack context use`]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The directory that `aerostack dev --dir` or `aerostack init --admin-dir` made, with addresses and certificates
    /// [env: AEROSTACK_DIR] [default: .aerostack]
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The address of the vault's gRPC [env: AEROSTACK_VAULT] [default: 127.0.0.1:7150]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub vault: Option<String>,
    /// The address of the injector's gRPC [env: AEROSTACK_INJECTOR] [default: 127.0.0.1:7151]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub injector: Option<String>,
    /// The URL of the injector's data plane, for `call` and `status` [env: AEROSTACK_DATA_PLANE] [default: http://127.0.0.1:7100]
    #[arg(long, global = true, value_name = "URL")]
    pub data_plane: Option<String>,
    /// The authorities that issued the services' certificates, PEM [env: AEROSTACK_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The client certificate, PEM [env: AEROSTACK_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The private key of the client certificate, PEM [env: AEROSTACK_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// A file with the JSON Web Token for the vault, such as `kubectl create token` prints; it is read for each request, takes
    /// the place of the client certificate, and is never sent to the injector [env: AEROSTACK_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A file with the JSON Web Token for the injector; without it, the client certificate identifies the client there
    /// [env: AEROSTACK_INJECTOR_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub injector_token_file: Option<PathBuf>,
    /// The principal in the vault's certificate (`spiffe://…`, `dns:…`) when it is not the host name of the address
    /// [env: AEROSTACK_VAULT_ID]
    #[arg(long, global = true, value_name = "PRINCIPAL")]
    pub vault_id: Option<String>,
    /// The principal in the injector's certificate when it is not the host name of the address [env: AEROSTACK_INJECTOR_ID]
    #[arg(long, global = true, value_name = "PRINCIPAL")]
    pub injector_id: Option<String>,
    /// The longest time that a service may take to answer, in seconds [env: AEROSTACK_TIMEOUT] [default: 10]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub timeout: Option<String>,
    /// The URL of the vault's metrics, for `console` and `status` [env: AEROSTACK_VAULT_METRICS] [default: for `console`
    /// http://127.0.0.1:9051, unless --vault names another vault; for `status` none]
    #[arg(long, global = true, value_name = "URL")]
    pub vault_metrics: Option<String>,
    /// The URL of the injector's metrics, for `console` and `status` [env: AEROSTACK_INJECTOR_METRICS] [default: for `console`
    /// http://127.0.0.1:9052, unless --injector names another injector; for `status` none]
    #[arg(long, global = true, value_name = "URL")]
    pub injector_metrics: Option<String>,
}

impl ConnectArgs {
    /// Returns true when no other source can add an address or a file. Principals and probes belong to an address.
    pub(super) fn is_complete(&self) -> bool {
        let Self {
            vault,
            injector,
            data_plane,
            ca,
            cert,
            key,
            token_file,
            injector_token_file,
            ..
        } = self;
        let addresses = [vault, injector, data_plane];
        let is_set = |pair: [&Option<PathBuf>; 2]| pair.into_iter().all(Option::is_some);
        let has_identity = is_set([token_file, injector_token_file]) || is_set([cert, key]);
        addresses.into_iter().all(Option::is_some) && ca.is_some() && has_identity
    }

    /// Returns true when both services are on this machine, as they are by default.
    pub(super) fn is_on_loopback(&self) -> bool {
        let address = |given: &str| given.parse().map(|address: SocketAddr| address.ip());
        let mut services = [&self.vault, &self.injector].into_iter().flatten();
        services.all(|given| address(given).is_ok_and(|ip| ip.is_loopback()))
    }

    /// Returns the settings that belong to no service.
    pub(super) fn without_services(self) -> Self {
        Self {
            vault: None,
            injector: None,
            data_plane: None,
            vault_id: None,
            injector_id: None,
            vault_metrics: None,
            injector_metrics: None,
            ..self
        }
    }

    /// Returns the settings of a context. Those of its directory are not read.
    pub(super) fn of_context(context: Context) -> Self {
        let Context {
            name: _,
            dir,
            vault,
            injector,
            data_plane,
            ca,
            cert,
            key,
            token_file,
            injector_token_file,
            vault_id,
            injector_id,
            timeout,
            vault_metrics,
            injector_metrics,
        } = context;
        Self {
            dir,
            vault,
            injector,
            data_plane,
            ca,
            cert,
            key,
            token_file,
            injector_token_file,
            vault_id,
            injector_id,
            timeout,
            vault_metrics,
            injector_metrics,
            ..Self::default()
        }
    }

    /// Returns the context with these flags. Paths become absolute, because a context is used in other working directories.
    pub(crate) fn into_context(self, name: ContextName) -> io::Result<Context> {
        let Self {
            context: _,
            dir,
            vault,
            injector,
            data_plane,
            ca,
            cert,
            key,
            token_file,
            injector_token_file,
            vault_id,
            injector_id,
            timeout,
            vault_metrics,
            injector_metrics,
        } = self;
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        Ok(Context {
            name,
            dir: absolute(dir)?,
            vault,
            injector,
            data_plane,
            ca: absolute(ca)?,
            cert: absolute(cert)?,
            key: absolute(key)?,
            token_file: absolute(token_file)?,
            injector_token_file: absolute(injector_token_file)?,
            vault_id,
            injector_id,
            timeout,
            vault_metrics,
            injector_metrics,
        })
    }

    pub(super) fn environment(env: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| env(name).filter(|set| !set.is_empty());
        let text = |name| path(name).map(|set| set.to_string_lossy().into_owned());
        let path = |name| path(name).map(PathBuf::from);
        Self {
            vault: text("AEROSTACK_VAULT"),
            injector: text("AEROSTACK_INJECTOR"),
            data_plane: text("AEROSTACK_DATA_PLANE"),
            ca: path("AEROSTACK_CA"),
            cert: path("AEROSTACK_CERT"),
            key: path("AEROSTACK_KEY"),
            token_file: path("AEROSTACK_TOKEN_FILE"),
            injector_token_file: path("AEROSTACK_INJECTOR_TOKEN_FILE"),
            vault_id: text("AEROSTACK_VAULT_ID"),
            injector_id: text("AEROSTACK_INJECTOR_ID"),
            timeout: text("AEROSTACK_TIMEOUT"),
            vault_metrics: text("AEROSTACK_VAULT_METRICS"),
            injector_metrics: text("AEROSTACK_INJECTOR_METRICS"),
            ..Self::default()
        }
    }

    /// Fills the missing settings with those of `other`.
    ///
    /// A principal and a probe belong to the address of a service. They are taken from `other` only together with its
    /// address. `other` adds no token beside a certificate. It adds a certificate beside a token, for the service that has no
    /// token.
    pub(super) fn or(self, other: Self) -> Self {
        let (same_vault, same_injector) = (self.vault.is_none(), self.injector.is_none());
        let has_certificate = self.cert.is_some() || self.key.is_some();
        Self {
            context: self.context,
            dir: self.dir,
            vault: self.vault.or(other.vault),
            injector: self.injector.or(other.injector),
            data_plane: self.data_plane.or(other.data_plane),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
            token_file: self.token_file.or(other.token_file.filter(|_| !has_certificate)),
            injector_token_file: self
                .injector_token_file
                .or(other.injector_token_file.filter(|_| !has_certificate)),
            vault_id: self.vault_id.or(other.vault_id.filter(|_| same_vault)),
            injector_id: self.injector_id.or(other.injector_id.filter(|_| same_injector)),
            vault_metrics: self.vault_metrics.or(other.vault_metrics.filter(|_| same_vault)),
            injector_metrics: self
                .injector_metrics
                .or(other.injector_metrics.filter(|_| same_injector)),
            timeout: self.timeout.or(other.timeout),
        }
    }
}
