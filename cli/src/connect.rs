//! Where the pair is, and who asks: from flags, the environment, or the directory of `aerostack dev`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use injector_service::resolve::channel::channel;
use proto::serve::{
    caller::Principal,
    telemetry::chain,
    tls::{self, Authorities, Identity, TlsError},
};
use rustls::ClientConfig;
use tokio::time;
use tonic::{Response, Status, transport::Channel};

use crate::{
    failure::{Failure, Kind},
    pki::{INJECTOR_ID, VAULT_ID},
};

/// Where `aerostack dev` keeps everything unless it is told otherwise.
const DEFAULT_DIR: &str = ".aerostack";

/// How the services are found. What no flag says, the environment says; what neither says, the directory does.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
    /// The directory that `aerostack dev --dir` or `aerostack init --admin` made: addresses and certificates are taken
    /// from there [env: AEROSTACK_DIR] [default: .aerostack]
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The vault's gRPC [env: AEROSTACK_VAULT] [default: 127.0.0.1:50051]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub vault: Option<String>,
    /// The injector's gRPC [env: AEROSTACK_INJECTOR] [default: 127.0.0.1:50052]
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
#[derive(Debug, Default)]
struct Source {
    vault: Option<String>,
    injector: Option<String>,
    data_plane: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    vault_id: Option<String>,
    injector_id: Option<String>,
    timeout: Option<String>,
}

impl Source {
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
            timeout: None,
        })
    }

    /// What this one says, and where it is silent, what `other` says.
    ///
    /// An identity belongs to an address: another address than `other`'s is not held to `other`'s identity.
    fn or(self, other: Self) -> Self {
        let same = |mine: &Option<String>| mine.is_none();
        let (same_vault, same_injector) = (same(&self.vault), same(&self.injector));
        Self {
            vault: self.vault.or(other.vault),
            injector: self.injector.or(other.injector),
            data_plane: self.data_plane.or(other.data_plane),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
            vault_id: self.vault_id.or(other.vault_id.filter(|_| same_vault)),
            injector_id: self.injector_id.or(other.injector_id.filter(|_| same_injector)),
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
        Failure::new(Kind::Configuration, message).next("`aerostack dev` writes it anew when it starts")
    })
}

/// How to reach the pair.
#[derive(Debug)]
pub struct Connection {
    source: Source,
    timeout: Duration,
}

impl Connection {
    /// Finds out where the pair is. Nothing is dialled, and no certificate read, before it is needed.
    pub fn find(args: &ConnectArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let flags = Source::flags(args);
        let environment = Source::environment(&env);
        let source = match &args.dir {
            // A directory that is asked for by name counts more than the environment.
            Some(dir) => flags.or(made_here(dir)?).or(environment),
            None => {
                let said = flags.or(environment);
                match directory(&env)? {
                    Some(found) => said.or(found),
                    None => said,
                }
            }
        };
        let timeout = parse_timeout(source.timeout.as_deref())?;
        Ok(Self { source, timeout })
    }

    /// The vault's gRPC.
    pub fn vault(&self) -> Result<Remote, Failure> {
        self.remote(
            "the vault",
            self.source.vault.as_deref().unwrap_or("127.0.0.1:50051"),
            self.source.vault_id.as_deref(),
        )
    }

    /// The injector's gRPC.
    pub fn injector(&self) -> Result<Remote, Failure> {
        self.remote(
            "the injector",
            self.source.injector.as_deref().unwrap_or("127.0.0.1:50052"),
            self.source.injector_id.as_deref(),
        )
    }

    /// The base URL of the data plane.
    pub fn data_plane(&self) -> String {
        match self.source.data_plane.as_deref() {
            None => "http://127.0.0.1:7100".to_owned(),
            Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
            Some(address) => format!("http://{address}"),
        }
    }

    /// The authorities that the services' certificates come from, if any were named.
    pub fn ca(&self) -> Option<&Path> {
        self.source.ca.as_deref()
    }

    /// The client's certificate, if one was named.
    pub fn cert(&self) -> Option<&Path> {
        self.source.cert.as_deref()
    }

    /// How long a service may take to answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn remote(&self, name: &'static str, address: &str, id: Option<&str>) -> Result<Remote, Failure> {
        let tls = self.tls(id)?;
        let wrong = |what: &dyn std::fmt::Display| {
            Failure::new(Kind::Configuration, format_args!("{name} on {address:?}: {what}"))
                .next("addresses are HOST:PORT, such as 127.0.0.1:50051")
        };
        let to = address
            .parse()
            .map_err(|_| wrong(&"this is no address of a service"))?;
        let channel = channel(&to, tls).map_err(|error| wrong(&error))?;
        Ok(Remote {
            name,
            address: address.to_owned(),
            channel,
            timeout: self.timeout,
        })
    }

    fn tls(&self, id: Option<&str>) -> Result<Arc<ClientConfig>, Failure> {
        let Source { ca, cert, key, .. } = &self.source;
        let (Some(ca), Some(cert), Some(key)) = (ca, cert, key) else {
            let missing = [("--ca", ca), ("--cert", cert), ("--key", key)];
            let missing = missing.into_iter().filter(|(_, set)| set.is_none());
            let missing: Vec<&str> = missing.map(|(flag, _)| flag).collect();
            let message = format!("the connection is not configured: {} missing", missing.join(", "));
            return Err(Failure::new(Kind::Configuration, message).next(
                "run this where `aerostack dev` runs, or give --dir, or these flags (environment: AEROSTACK_CA, \
                 AEROSTACK_CERT, AEROSTACK_KEY)",
            ));
        };
        let authorities = Authorities::load(ca).map_err(unusable)?;
        let identity = Identity::load(cert, key).map_err(unusable)?;
        let tls = match id {
            None => tls::grpc_client_by_host(identity, &authorities),
            Some(id) => {
                let id = Principal::parse(id)
                    .map_err(|error| Failure::new(Kind::Configuration, format_args!("{id:?}: {error}")))?;
                tls::grpc_client(identity, &authorities, id)
            }
        };
        tls.map_err(unusable)
    }
}

fn unusable(error: TlsError) -> Failure {
    Failure::new(Kind::Configuration, chain(&error))
        .next("--ca, --cert and --key name the files; `aerostack dev` and `aerostack init` make some")
}

/// The directory that nobody asked for by name: only if it is there.
fn directory(env: &impl Fn(&str) -> Option<OsString>) -> Result<Option<Source>, Failure> {
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
    Err(Failure::new(Kind::Configuration, message).next(format!(
        "start the pair with `aerostack dev --dir {}`, or name the directory of another",
        dir.display()
    )))
}

fn parse_timeout(text: Option<&str>) -> Result<Duration, Failure> {
    let text = text.unwrap_or("10");
    text.trim_end_matches('s')
        .parse::<f64>()
        .ok()
        .filter(|seconds| (0.001..=86_400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| {
            Failure::new(
                Kind::Usage,
                format_args!("--timeout {text:?}: a number of seconds up to 86400 is needed"),
            )
        })
}

/// One of the services, to be called.
#[derive(Debug, Clone)]
pub struct Remote {
    name: &'static str,
    address: String,
    /// Connects when it is first used.
    pub channel: Channel,
    timeout: Duration,
}

impl Remote {
    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for an answer, but not for ever.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Failure::of_status(self.name, &self.address, &status)),
            Err(_) => Err(self.silent()),
        }
    }

    fn silent(&self) -> Failure {
        let Self {
            name,
            address,
            timeout,
            ..
        } = self;
        let seconds = timeout.as_secs_f64();
        let message = format!("{name} on {address} did not answer within {seconds} s");
        Failure::new(Kind::Unavailable, message)
            .next("`aerostack status` asks each service; --timeout waits longer")
    }
}
