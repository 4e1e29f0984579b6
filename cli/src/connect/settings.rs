//! Settings of a connection: from flags, the environment, and the directory of `aerostack dev` or `aerostack init`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    failure::{Failure, FailureKind},
    pki::{INJECTOR_ID, VAULT_ID},
};

/// Default directory of `aerostack dev`, in the working directory.
pub const DEFAULT_DIR: &str = ".aerostack";

/// Environment variables that the command line reads.
pub(super) const VARIABLES: [&str; 12] = [
    "AEROSTACK_DIR",
    "AEROSTACK_VAULT",
    "AEROSTACK_INJECTOR",
    "AEROSTACK_DATA_PLANE",
    "AEROSTACK_CA",
    "AEROSTACK_CERT",
    "AEROSTACK_KEY",
    "AEROSTACK_VAULT_ID",
    "AEROSTACK_INJECTOR_ID",
    "AEROSTACK_TIMEOUT",
    "AEROSTACK_VAULT_METRICS",
    "AEROSTACK_INJECTOR_METRICS",
];

// Settings of a connection: the flags of one command line, the variables of the environment, the files of a directory, or
// all of them merged. The flags have no `env` of clap's, because a directory that `--dir` names takes precedence over the
// environment: see `ConnectArgs::resolve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
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
    /// The URL of the vault's metrics, for `console` and `status` [env: AEROSTACK_VAULT_METRICS] [default: http://127.0.0.1:9051,
    /// unless --vault names another vault]
    #[arg(long, global = true, value_name = "URL")]
    pub vault_metrics: Option<String>,
    /// The URL of the injector's metrics, for `console` and `status` [env: AEROSTACK_INJECTOR_METRICS] [default:
    /// http://127.0.0.1:9052, unless --injector names another injector]
    #[arg(long, global = true, value_name = "URL")]
    pub injector_metrics: Option<String>,
}

impl ConnectArgs {
    /// Merges the flags with the other sources. Next to the flags come the directory of `--dir` and then the environment, or,
    /// without `--dir`, the environment and then the directory of `AEROSTACK_DIR`, by default `.aerostack`.
    pub(super) fn resolve(&self, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let flags = self.clone();
        let environment = Self::environment(&env);
        if let Some(dir) = &self.dir {
            return Ok(flags.or(named_directory(dir)?).or(environment));
        }
        let settings = flags.or(environment);
        Ok(match default_directory(&env)? {
            Some(directory) => settings.or(directory),
            None => settings,
        })
    }

    fn environment(env: impl Fn(&str) -> Option<OsString>) -> Self {
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
            vault_id: text("AEROSTACK_VAULT_ID"),
            injector_id: text("AEROSTACK_INJECTOR_ID"),
            timeout: text("AEROSTACK_TIMEOUT"),
            vault_metrics: text("AEROSTACK_VAULT_METRICS"),
            injector_metrics: text("AEROSTACK_INJECTOR_METRICS"),
            ..Self::default()
        }
    }

    /// Reads the files that `aerostack dev` or `aerostack init` made in `dir`.
    fn directory(dir: &Path) -> Result<Self, Failure> {
        let mut ports = read_ports(&dir.join("ports.json"))?;
        let pki = dir.join("pki");
        Ok(Self {
            vault: ports.remove("vault"),
            injector: ports.remove("injector"),
            data_plane: ports.remove("data_plane"),
            ca: Some(pki.join("ca.pem")),
            cert: Some(pki.join("admin.pem")),
            key: Some(pki.join("admin-key.pem")),
            vault_id: Some(VAULT_ID.to_owned()),
            injector_id: Some(INJECTOR_ID.to_owned()),
            vault_metrics: ports.remove("vault_metrics"),
            injector_metrics: ports.remove("injector_metrics"),
            ..Self::default()
        })
    }

    /// Fills the missing settings with those of `other`.
    ///
    /// A principal and a probe belong to the address of a service. They are taken from `other` only together with its
    /// address.
    fn or(self, other: Self) -> Self {
        let (same_vault, same_injector) = (self.vault.is_none(), self.injector.is_none());
        Self {
            dir: self.dir,
            vault: self.vault.or(other.vault),
            injector: self.injector.or(other.injector),
            data_plane: self.data_plane.or(other.data_plane),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
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

fn read_ports(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Failure::file(path, &error)),
    };
    serde_json::from_slice(&text).map_err(|error| {
        let message = format!("{}: not a list of addresses: {error}", path.display());
        Failure::new(FailureKind::Configuration, message)
            .hint("`aerostack dev` and `aerostack init` write it anew; or give the addresses as flags, such as --vault")
    })
}

/// Reads the directory of `AEROSTACK_DIR`, or the default directory if there is one.
fn default_directory(env: &impl Fn(&str) -> Option<OsString>) -> Result<Option<ConnectArgs>, Failure> {
    match env("AEROSTACK_DIR").filter(|set| !set.is_empty()) {
        Some(dir) => named_directory(Path::new(&dir)).map(Some),
        None if Path::new(DEFAULT_DIR).join("pki").is_dir() => {
            ConnectArgs::directory(Path::new(DEFAULT_DIR)).map(Some)
        }
        None => Ok(None),
    }
}

fn named_directory(dir: &Path) -> Result<ConnectArgs, Failure> {
    if dir.join("pki").is_dir() {
        return ConnectArgs::directory(dir);
    }
    let message = format!("there are no certificates in {}", dir.join("pki").display());
    Err(Failure::new(FailureKind::Configuration, message).hint(format!(
        "start the services with `aerostack dev --dir {0}`, make certificates for services that run elsewhere with \
         `aerostack init --admin-dir {0}`, or name another directory (--dir, AEROSTACK_DIR)",
        dir.display()
    )))
}
