//! The settings of a connection, and the places that they come from.

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

/// Where `aerostack dev` keeps everything unless it is told otherwise.
pub const DEFAULT_DIR: &str = ".aerostack";

/// How the services are found. What no flag says, the environment says; what neither says, the directory does.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
    /// The directory that `aerostack dev --dir` or `aerostack init --admin-dir` made: addresses and certificates are taken
    /// from there [env: AEROSTACK_DIR] [default: .aerostack]
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The vault's gRPC [env: AEROSTACK_VAULT] [default: 127.0.0.1:7150]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub vault: Option<String>,
    /// The injector's gRPC [env: AEROSTACK_INJECTOR] [default: 127.0.0.1:7151]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub injector: Option<String>,
    /// The injector's data plane, for `call` [env: AEROSTACK_DATA_PLANE] [default: http://127.0.0.1:7100]
    #[arg(long, global = true, value_name = "URL")]
    pub data_plane: Option<String>,
    /// The authorities that the services' certificates come from, PEM [env: AEROSTACK_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The client certificate, PEM [env: AEROSTACK_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM [env: AEROSTACK_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The identity in the vault's certificate (`spiffe://…`, `dns:…`) when that is not the host's name
    /// [env: AEROSTACK_VAULT_ID]
    #[arg(long, global = true, value_name = "PRINCIPAL")]
    pub vault_id: Option<String>,
    /// The identity in the injector's certificate when that is not the host's name [env: AEROSTACK_INJECTOR_ID]
    #[arg(long, global = true, value_name = "PRINCIPAL")]
    pub injector_id: Option<String>,
    /// How long a service may take to answer, in seconds [env: AEROSTACK_TIMEOUT] [default: 10]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub timeout: Option<String>,
}

/// One source of settings, or several of them merged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) vault: Option<String>,
    pub(super) injector: Option<String>,
    pub(super) data_plane: Option<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) vault_id: Option<String>,
    pub(super) injector_id: Option<String>,
    /// Addresses of the services' probes, which only a directory knows.
    pub(super) vault_metrics: Option<String>,
    pub(super) injector_metrics: Option<String>,
    pub(super) timeout: Option<String>,
}

impl Source {
    /// What the flags say; then a directory that is asked for by name, else the environment; then the usual directory.
    pub(super) fn find(args: &ConnectArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let said = Self::flags(args);
        let environment = Self::environment(&env);
        if let Some(dir) = &args.dir {
            return Ok(said.or(made_here(dir)?).or(environment));
        }
        let said = said.or(environment);
        Ok(match usual_directory(&env)? {
            Some(found) => said.or(found),
            None => said,
        })
    }

    fn flags(args: &ConnectArgs) -> Self {
        let ConnectArgs {
            dir: _,
            vault,
            injector,
            data_plane,
            ca,
            cert,
            key,
            vault_id,
            injector_id,
            timeout,
        } = args.clone();
        Self {
            vault,
            injector,
            data_plane,
            ca,
            cert,
            key,
            vault_id,
            injector_id,
            vault_metrics: None,
            injector_metrics: None,
            timeout,
        }
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
            vault_metrics: None,
            injector_metrics: None,
            timeout: text("AEROSTACK_TIMEOUT"),
        }
    }

    /// What `aerostack dev` or `aerostack init` left in `dir`.
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
            timeout: None,
        })
    }

    /// What this one says, and where it is silent, what `other` says.
    ///
    /// An identity and a probe's address belong to an address: with another address than `other`'s, `other`'s are not used.
    fn or(self, other: Self) -> Self {
        let (same_vault, same_injector) = (self.vault.is_none(), self.injector.is_none());
        Self {
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
            .hint("`aerostack dev` writes it anew when it starts")
    })
}

/// The directory that nobody asked for by name: only if it is there.
fn usual_directory(env: &impl Fn(&str) -> Option<OsString>) -> Result<Option<Source>, Failure> {
    match env("AEROSTACK_DIR").filter(|set| !set.is_empty()) {
        Some(dir) => made_here(Path::new(&dir)).map(Some),
        None if Path::new(DEFAULT_DIR).join("pki").is_dir() => {
            Source::directory(Path::new(DEFAULT_DIR)).map(Some)
        }
        None => Ok(None),
    }
}

fn made_here(dir: &Path) -> Result<Source, Failure> {
    if dir.join("pki").is_dir() {
        return Source::directory(dir);
    }
    let message = format!("{}: no certificates are kept here", dir.display());
    Err(Failure::new(FailureKind::Configuration, message).hint(format!(
        "start the pair with `aerostack dev --dir {}`, or name the directory of another",
        dir.display()
    )))
}
