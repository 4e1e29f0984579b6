//! Settings of a connection: from flags, the environment, a context, and the directory of `aerostack dev` or `aerostack init`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    contexts::{self, Context, ContextName},
    failure::{Failure, FailureKind},
    pki::{INJECTOR_ID, VAULT_ID},
    small_file,
};

/// Default directory of `aerostack dev`, in the working directory.
pub const DEFAULT_DIR: &str = ".aerostack";

/// The longest `ports.json` that is read.
const MAX_PORTS_SIZE: u64 = 64 * 1024;

/// Environment variables that the command line reads.
pub(super) const VARIABLES: [&str; 14] = [
    "AEROSTACK_CONTEXT",
    "AEROSTACK_DIR",
    "AEROSTACK_VAULT",
    "AEROSTACK_INJECTOR",
    "AEROSTACK_DATA_PLANE",
    "AEROSTACK_CA",
    "AEROSTACK_CERT",
    "AEROSTACK_KEY",
    "AEROSTACK_TOKEN_FILE",
    "AEROSTACK_VAULT_ID",
    "AEROSTACK_INJECTOR_ID",
    "AEROSTACK_TIMEOUT",
    "AEROSTACK_VAULT_METRICS",
    "AEROSTACK_INJECTOR_METRICS",
];

// Settings of a connection: the flags of one command line, the variables of the environment, a context, the files of a
// directory, or all of them merged. The flags have no `env` of clap's, because a context or directory that a flag names takes
// precedence over the environment: see `ConnectArgs::resolve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Connection")]
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
    /// A file with the JSON Web Token of the client, such as `kubectl create token` prints; it is read for each request, and
    /// with it the client certificate does not count [env: AEROSTACK_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
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

/// The directory `.aerostack` in the working directory, which may have come with a folder of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkingDirectory {
    Used,
    Ignored,
}

/// The settings that a command uses, and the context that they come from.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) settings: ConnectArgs,
    pub(super) context: Option<ContextName>,
    /// True when the context was used although the working directory has a directory of `aerostack dev`.
    pub(super) hides_directory: bool,
}

impl ConnectArgs {
    /// Merges the flags with the other sources. A context or directory that a flag names comes next, and then the environment,
    /// but for the services: the environment may name those of another installation. Without such a flag, the environment comes
    /// next, and then one of these: the context of `AEROSTACK_CONTEXT` or the directory of `AEROSTACK_DIR`, the present context,
    /// the directory `.aerostack`. None of them is read when it could only supply a timeout.
    pub(super) fn resolve(
        &self,
        working_directory: WorkingDirectory,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Resolved, Failure> {
        let flags = self.clone();
        let environment = Self::environment(&env);
        match (&self.dir, &self.context) {
            (Some(_), Some(_)) => Err(two_sources("--dir", "--context")),
            (Some(dir), None) => {
                let settings = flags.or(named_directory(dir)?);
                Ok(Resolved::of(settings.or(environment.without_services())))
            }
            (None, Some(name)) => {
                let (settings, name) = Self::named_context(name, &env)?;
                let settings = flags.or(settings).or(environment.without_services());
                Ok(Resolved {
                    context: Some(name),
                    ..Resolved::of(settings)
                })
            }
            (None, None) => {
                let given = flags.or(environment);
                if given.is_complete() {
                    return Ok(Resolved::of(given));
                }
                let default = default_source(working_directory, &env)?;
                Ok(Resolved {
                    settings: given.or(default.settings),
                    ..default
                })
            }
        }
    }

    /// Returns true when no other source can add an address or a file. Principals and probes belong to an address.
    fn is_complete(&self) -> bool {
        let Self {
            vault,
            injector,
            data_plane,
            ca,
            cert,
            key,
            token_file,
            ..
        } = self;
        let addresses = [vault, injector, data_plane];
        let has_identity = token_file.is_some() || [cert, key].into_iter().all(Option::is_some);
        addresses.into_iter().all(Option::is_some) && ca.is_some() && has_identity
    }

    /// Returns the settings that belong to no service.
    fn without_services(self) -> Self {
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

    fn named_context(
        name: &str,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<(Self, ContextName), Failure> {
        let contexts = match contexts::path(env) {
            Some(path) => contexts::read(&path)?,
            None => contexts::Contexts::default(),
        };
        let context = contexts.get(name)?.clone();
        let name = context.name.clone();
        Ok((Self::of_context(context)?, name))
    }

    /// Returns the settings of a context, with those of its directory.
    fn of_context(context: Context) -> Result<Self, Failure> {
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
            vault_id,
            injector_id,
            timeout,
        } = context;
        let settings = Self {
            vault,
            injector,
            data_plane,
            ca,
            cert,
            key,
            token_file,
            vault_id,
            injector_id,
            timeout,
            ..Self::default()
        };
        Ok(match dir {
            Some(dir) => settings.or(named_directory(&dir)?),
            None => settings,
        })
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
            vault_id,
            injector_id,
            timeout,
            vault_metrics: _,
            injector_metrics: _,
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
            vault_id,
            injector_id,
            timeout,
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
            token_file: path("AEROSTACK_TOKEN_FILE"),
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
    /// address. A certificate and a token are two identities, and `other` does not add the one that is missing.
    fn or(self, other: Self) -> Self {
        let (same_vault, same_injector) = (self.vault.is_none(), self.injector.is_none());
        let (has_token, has_certificate) = (
            self.token_file.is_some(),
            self.cert.is_some() || self.key.is_some(),
        );
        Self {
            context: self.context,
            dir: self.dir,
            vault: self.vault.or(other.vault),
            injector: self.injector.or(other.injector),
            data_plane: self.data_plane.or(other.data_plane),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert.filter(|_| !has_token)),
            key: self.key.or(other.key.filter(|_| !has_token)),
            token_file: self.token_file.or(other.token_file.filter(|_| !has_certificate)),
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
    let text = match small_file::read(path, MAX_PORTS_SIZE) {
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

impl Resolved {
    fn of(settings: ConnectArgs) -> Self {
        Self {
            settings,
            context: None,
            hides_directory: false,
        }
    }
}

/// Returns the settings that are used when no flag names a context or a directory.
fn default_source(
    working_directory: WorkingDirectory,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<Resolved, Failure> {
    let variable = |name| env(name).filter(|set| !set.is_empty());
    match (variable("AEROSTACK_CONTEXT"), variable("AEROSTACK_DIR")) {
        (Some(_), Some(_)) => return Err(two_sources("AEROSTACK_CONTEXT", "AEROSTACK_DIR")),
        (Some(name), None) => {
            let (settings, name) = ConnectArgs::named_context(&name.to_string_lossy(), env)?;
            return Ok(Resolved {
                context: Some(name),
                ..Resolved::of(settings)
            });
        }
        (None, Some(dir)) => return Ok(Resolved::of(named_directory(Path::new(&dir))?)),
        (None, None) => {}
    }
    let default_dir = Path::new(DEFAULT_DIR);
    let has_directory = working_directory == WorkingDirectory::Used && default_dir.join("pki").is_dir();
    // A person chose the present context, and `.aerostack` may come with a folder of somebody else.
    if let Some(context) = present_context(env)? {
        let name = context.name.clone();
        let is_same = context.dir.is_some() && context.dir == std::path::absolute(default_dir).ok();
        return Ok(Resolved {
            context: Some(name),
            hides_directory: has_directory && !is_same,
            ..Resolved::of(ConnectArgs::of_context(context)?)
        });
    }
    match has_directory {
        true => ConnectArgs::directory(default_dir).map(Resolved::of),
        false => Ok(Resolved::of(ConnectArgs::default())),
    }
}

fn present_context(env: &impl Fn(&str) -> Option<OsString>) -> Result<Option<Context>, Failure> {
    let Some(path) = contexts::path(env) else {
        return Ok(None);
    };
    let contexts = contexts::read(&path)?;
    let present = contexts.present();
    present
        .map(|name| contexts.get(name.as_str()).cloned())
        .transpose()
}

/// Returns true when commands without flags use a context, and not the directory `.aerostack`.
pub(crate) fn has_present_context(env: impl Fn(&str) -> Option<OsString>) -> bool {
    let variable = env("AEROSTACK_CONTEXT").filter(|set| !set.is_empty());
    variable.is_some() || present_context(&env).is_ok_and(|context| context.is_some())
}

fn two_sources(one: &str, other: &str) -> Failure {
    let message = format!("{one} and {other} each name a connection");
    Failure::new(FailureKind::Usage, message).hint("give one of them")
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
