//! `aerostack dev`: both services in one process, on an embedded store, with certificates of its own.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use chassis::{
    args::{ProcessArgs, RoleArgs, TlsArgs, defaults},
    settings::Problems,
    signal::Asked,
    telemetry::LogFormat,
};
use clap::Args;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::json;
use tokio::{task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use vault_service::{crypto::root_key_file, new_file};

use crate::connect::DEFAULT_DIR;
use crate::pki::{ADMIN_ID, DevPki, INJECTOR_ID, PkiError, VAULT_ID};

/// How long both services may take to come up.
const STARTUP: Duration = Duration::from_secs(30);

/// The file that `dev` writes first, so that git never tracks a key in the directory.
const IGNORE: &str = ".gitignore";
/// The injector's catalog, beside its servers: to be edited.
const CATALOG: &str = "catalog.yaml";
/// What it is at first.
const EXAMPLE_CATALOG: &str = include_str!("../../deploy/catalog.example.yaml");

/// What `aerostack dev` is told.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Where everything is kept: the store, the root key, certificates
    #[arg(long, env = "AEROSTACK_DIR", default_value = DEFAULT_DIR, value_name = "DIR")]
    pub dir: PathBuf,
    /// Address of the vault's gRPC; with port 0, its probes' port is free too
    #[arg(long, default_value = "127.0.0.1:7150", value_name = "ADDRESS")]
    pub vault_addr: SocketAddr,
    /// Address of the injector's gRPC; with port 0, its probes' port is free too
    #[arg(long, default_value = "127.0.0.1:7151", value_name = "ADDRESS")]
    pub injector_addr: SocketAddr,
    /// Address of the injector's data plane
    #[arg(long, default_value = "127.0.0.1:7100", value_name = "ADDRESS")]
    pub data_plane_addr: SocketAddr,
    /// Also start a demo upstream, and make a call through the injector
    #[arg(long)]
    pub demo: bool,
    /// With --demo: exit after it, with an error if anything differed
    #[arg(long, requires = "demo")]
    pub once: bool,
    /// What is logged: a level, or a filter
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Where the pair listens, and what it takes to administer it.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The vault's gRPC.
    pub vault: SocketAddr,
    /// The injector's gRPC.
    pub injector: SocketAddr,
    /// The injector's data plane.
    pub data_plane: SocketAddr,
    /// The vault's probes.
    pub vault_metrics: SocketAddr,
    /// The injector's probes.
    pub injector_metrics: SocketAddr,
}

/// Why it did not come up, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file or directory.
    #[error("{path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory is somebody else's.
    #[error("{} is not empty and was not made by `aerostack dev`; give it a directory of its own", .0.display())]
    Foreign(PathBuf),
    /// The certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The root key.
    #[error(transparent)]
    RootKey(#[from] root_key_file::RootKeyFileError),
    /// Settings that this command made itself, or an address that is no loopback's.
    #[error("{0}")]
    Settings(Problems),
    /// An address that a service cannot listen on.
    #[error("cannot listen on {0}")]
    Listen(#[source] io::Error),
    /// The vault stopped.
    #[error("the vault stopped")]
    Vault(#[from] vault_service::RunError),
    /// The injector stopped.
    #[error("the injector stopped")]
    Injector(#[from] injector_service::RunError),
    /// It is not ready.
    #[error("the services did not become ready within {} s; the log says why", STARTUP.as_secs())]
    NotReady,
}

/// A running pair.
pub struct Pair {
    /// Where it listens.
    pub addresses: Addresses,
    /// What its certificates are.
    pub pki: DevPki,
    vault: JoinHandle<Result<(), vault_service::RunError>>,
    injector: JoinHandle<Result<(), injector_service::RunError>>,
    stop_vault: CancellationToken,
    stop_injector: CancellationToken,
}

impl Pair {
    /// Starts both services, and waits until they are ready.
    pub async fn start(args: &DevArgs) -> Result<Self, DevError> {
        let dir = &args.dir;
        refuse_foreign(dir)?;
        make_dir(dir)?;
        write(&dir.join(IGNORE), "*\n")?;
        let pki = DevPki::ensure(dir)?;
        let root_key = dir.join("root.key");
        if !root_key.exists() {
            root_key_file::write_new(&root_key)?;
        }
        make_dir(&dir.join("injector"))?;
        let catalog = dir.join("injector").join(CATALOG);
        if !catalog.exists() {
            write(&catalog, EXAMPLE_CATALOG)?;
        }

        let config = vault_settings(args, &pki, root_key)
            .check()
            .map_err(DevError::Settings)?;
        let listeners = vault_service::Listeners::bind(&config)
            .await
            .map_err(DevError::Listen)?;
        let vault = address(&listeners.grpc)?;
        let injector_config = injector_settings(args, &pki, vault)
            .check()
            .map_err(DevError::Settings)?;
        let injector_listeners = injector_service::Listeners::bind(&injector_config)
            .await
            .map_err(DevError::Listen)?;
        let addresses = Addresses {
            vault,
            injector: address(&injector_listeners.grpc)?,
            data_plane: address(&injector_listeners.data_plane)?,
            vault_metrics: address(&listeners.metrics)?,
            injector_metrics: address(&injector_listeners.metrics)?,
        };

        // Once a service says that it is serving, no failure may end the command any more. So both services bind their
        // addresses before either starts, and the injector starts after the vault has opened its store.
        let stop_vault = CancellationToken::new();
        let mut vault_task = tokio::spawn(vault_service::run(config, listeners, stop_vault.clone()));
        tokio::select! {
            stopped = &mut vault_task => flatten(stopped)?,
            () = answers(addresses.vault_metrics, "livez") => {}
            () = time::sleep(STARTUP) => return Err(DevError::NotReady),
        }
        let stop_injector = CancellationToken::new();
        let asked = Asked {
            shutdown: stop_injector.clone(),
            ..Asked::default()
        };
        let injector_task = tokio::spawn(injector_service::run(injector_config, injector_listeners, asked));

        let mut pair = Self {
            addresses,
            pki,
            vault: vault_task,
            injector: injector_task,
            stop_vault,
            stop_injector,
        };
        pair.ready().await?;
        write(&dir.join("ports.json"), &pair.addresses.json())?;
        Ok(pair)
    }

    /// Waits until the injector has reached the vault, or one of them stopped.
    async fn ready(&mut self) -> Result<(), DevError> {
        let probe = self.addresses.injector_metrics;
        tokio::select! {
            stopped = &mut self.vault => flatten(stopped)?,
            stopped = &mut self.injector => flatten(stopped)?,
            () = answers(probe, "readyz") => return Ok(()),
            () = time::sleep(STARTUP) => {}
        }
        Err(DevError::NotReady)
    }

    /// Runs until `stop`, or until one of the services stops by itself.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), DevError> {
        tokio::select! {
            () = stop.cancelled() => {}
            stopped = &mut self.vault => return Ok(flatten(stopped)?),
            stopped = &mut self.injector => return Ok(flatten(stopped)?),
        }
        self.stop().await
    }

    /// Stops the injector, which still needs the vault for calls under way, and then the vault.
    pub async fn stop(self) -> Result<(), DevError> {
        self.stop_injector.cancel();
        let injector = flatten(self.injector.await);
        self.stop_vault.cancel();
        flatten(self.vault.await)?;
        Ok(injector?)
    }
}

impl Addresses {
    fn json(&self) -> String {
        let Self {
            vault,
            injector,
            data_plane,
            vault_metrics,
            injector_metrics,
        } = self;
        let addresses = json!({
            "vault": vault.to_string(),
            "injector": injector.to_string(),
            "data_plane": data_plane.to_string(),
            "vault_metrics": vault_metrics.to_string(),
            "injector_metrics": injector_metrics.to_string(),
        });
        format!("{addresses:#}\n")
    }
}

fn flatten<E>(stopped: Result<Result<(), E>, tokio::task::JoinError>) -> Result<(), E> {
    stopped.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Asks the service's probe at `path` until the probe answers 200.
async fn answers(probe: SocketAddr, path: &str) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let url = format!("http://{probe}/{path}");
    loop {
        if let Ok(url) = url.parse()
            && let Ok(answer) = client.get(url).await
            && answer.status().is_success()
        {
            return;
        }
        time::sleep(Duration::from_millis(20)).await;
    }
}

fn vault_settings(args: &DevArgs, pki: &DevPki, root_key: PathBuf) -> vault_service::config::Settings {
    vault_service::config::Settings {
        listen: args.vault_addr.to_string(),
        metrics_listen: metrics(args.vault_addr, 9051),
        data_dir: Some(args.dir.join("vault")),
        cache_mib: "64".to_owned(),
        root: vault_service::config::RootArgs {
            root_key_file: vec![root_key],
            root_passphrase_file: None,
            root_kms_socket: None,
            root_active: None,
        },
        tls: TlsArgs {
            tls_cert: Some(pki.vault.cert.clone()),
            tls_key: Some(pki.vault.key.clone()),
            client_ca: Some(pki.ca.clone()),
        },
        roles: RoleArgs {
            admin: vec![ADMIN_ID.to_owned()],
            ..RoleArgs::default()
        },
        injector: vec![format!("{INJECTOR_ID}=*")],
        keepalive: defaults(),
        audit: vault_service::config::AuditArgs::default(),
        require_sealed: false,
        default_plan: vault_service::vault::Plan::Free,
        no_reflection: false,
        process: process_args(args),
        erase_after: "1h".to_owned(),
    }
}

fn process_args(args: &DevArgs) -> ProcessArgs {
    ProcessArgs {
        allow_debugging: false,
        shutdown_grace: "5s".to_owned(),
        log: args.log.clone(),
        log_filter_file: None,
        log_format: LogFormat::Text,
    }
}

fn injector_settings(args: &DevArgs, pki: &DevPki, vault: SocketAddr) -> injector_service::config::Settings {
    injector_service::config::Settings {
        listen: args.injector_addr.to_string(),
        data_plane_listen: args.data_plane_addr.to_string(),
        listen_server: Vec::new(),
        metrics_listen: metrics(args.injector_addr, 9052),
        servers: Some(args.dir.join("injector").join("servers.yaml")),
        catalog: Some(args.dir.join("injector").join(CATALOG)),
        vault: vault.to_string(),
        vault_ca: Some(pki.ca.clone()),
        vault_id: Some(VAULT_ID.to_owned()),
        vault_cert: Some(pki.injector.cert.clone()),
        vault_key: Some(pki.injector.key.clone()),
        tls: TlsArgs {
            tls_cert: Some(pki.injector.cert.clone()),
            tls_key: Some(pki.injector.key.clone()),
            client_ca: Some(pki.ca.clone()),
        },
        roles: RoleArgs {
            admin: vec![ADMIN_ID.to_owned()],
            ..RoleArgs::default()
        },
        data_plane_tls_cert: None,
        data_plane_tls_key: None,
        data_plane_insecure_plaintext: false,
        host: Vec::new(),
        host_suffix: "localhost".to_owned(),
        upstream_ca: Vec::new(),
        limits: injector_service::limits::LimitSettings::default(),
        require_all_secrets: false,
        no_reflection: false,
        process: process_args(args),
    }
}

/// The address of a service's probes: its usual port, or any when the service itself takes any.
fn metrics(service: SocketAddr, port: u16) -> String {
    SocketAddr::new(service.ip(), if service.port() == 0 { 0 } else { port }).to_string()
}

fn address(listener: &tokio::net::TcpListener) -> Result<SocketAddr, DevError> {
    listener.local_addr().map_err(DevError::Listen)
}

/// Refuses a directory that `dev` did not make, because `dev` changes the modes of its directory. A killed start may
/// have left only [`IGNORE`], or the partial file that becomes [`IGNORE`].
fn refuse_foreign(dir: &Path) -> Result<(), DevError> {
    let wrong = |source| DevError::File {
        path: dir.to_owned(),
        source,
    };
    let mut names = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                names.push(entry.map_err(wrong)?.file_name());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(wrong(error)),
    }
    let ours = names.is_empty()
        || ["pki", "root.key"]
            .iter()
            .any(|name| names.iter().any(|found| found == name));
    let ignore = new_file::partial(Path::new(IGNORE)).map_err(wrong)?;
    let begun = names
        .iter()
        .all(|name| name == IGNORE || name.as_os_str() == ignore.as_os_str());
    if ours || begun {
        Ok(())
    } else {
        Err(DevError::Foreign(dir.to_owned()))
    }
}

/// A directory for its owner alone.
fn make_dir(path: &Path) -> Result<(), DevError> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let wrong = |source| DevError::File {
        path: path.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(wrong)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(wrong)?;
    // A crash may lose the new directory and its files unless the parent directory is synced.
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let synced = fs::File::open(parent.unwrap_or(Path::new("."))).and_then(|parent| parent.sync_all());
    synced.map_err(wrong)
}

/// Writes a file for its owner alone; whole, or the old one stays.
fn write(path: &Path, text: &str) -> Result<(), DevError> {
    new_file::replace(path, text.as_bytes()).map_err(|source| DevError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::DevArgs;

    /// Linux gives outgoing connections ports from here on.
    const FIRST_EPHEMERAL: u16 = 32_768;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: DevArgs,
    }

    #[test]
    fn no_default_port_can_be_taken_by_an_outgoing_connection() {
        let DevArgs {
            vault_addr,
            injector_addr,
            data_plane_addr,
            ..
        } = Command::parse_from(["dev"]).args;
        for address in [vault_addr, injector_addr, data_plane_addr] {
            assert!(address.port() < FIRST_EPHEMERAL, "{address}");
        }
    }
}
