//! `aerostack dev`: both services in one process, with an embedded store and certificates of their own.

mod args;
mod directory;
mod error;
mod settings;

use std::{net::SocketAddr, time::Duration};

use chassis::signal::ServiceSignals;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::Serialize;
use tokio::{net::TcpListener, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{args::DevArgs, error::DevError};
use self::{directory::DevDirectory, error::STARTUP_TIMEOUT};
use crate::{
    connect::{ConnectArgs, Connection},
    failure::Failure,
    pki::{DevPki, INJECTOR_ID, VAULT_ID},
};

/// Interval between two requests to a probe during the start.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// The flags that decide the addresses of each service, also those of its probes.
const VAULT_FLAG: &str = "--vault-addr";
const INJECTOR_FLAGS: &str = "--injector-addr, --data-plane-addr";

/// The addresses that the services listen on, as `DIR/ports.json` holds them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Addresses {
    pub vault: SocketAddr,
    pub injector: SocketAddr,
    pub data_plane: SocketAddr,
    pub vault_metrics: SocketAddr,
    pub injector_metrics: SocketAddr,
}

/// A vault and an injector that run as tasks of this process.
pub(crate) struct DevServices {
    pub addresses: Addresses,
    pub pki: DevPki,
    vault: JoinHandle<Result<(), vault_service::RunError>>,
    injector: JoinHandle<Result<(), injector_service::RunError>>,
    stop_vault: CancellationToken,
    stop_injector: CancellationToken,
}

impl DevServices {
    /// Starts both services, and waits until they are ready.
    ///
    /// A service that reports to be serving must not be stopped by a later failure of the start. So both services bind
    /// their addresses before either starts, and the injector starts after the vault has opened its store.
    pub(crate) async fn start(args: &DevArgs) -> Result<Self, DevError> {
        let directory = directory::prepare(&args.dir)?;
        let vault = BoundVault::bind(args, &directory).await?;
        let injector =
            BoundInjector::bind(args, &directory, address(&vault.listeners.grpc, VAULT_FLAG)?).await?;
        let addresses = addresses(&vault, &injector)?;

        let asked = ServiceSignals::default();
        let stop_vault = asked.shutdown.clone();
        let mut vault = tokio::spawn(vault_service::run(vault.config, vault.listeners, asked));
        tokio::select! {
            stopped = &mut vault => resume_panic(stopped)?,
            () = wait_for_probe(addresses.vault_metrics, "livez") => {}
            () = time::sleep(STARTUP_TIMEOUT) => return Err(DevError::NotReady),
        }
        let asked = ServiceSignals::default();
        let stop_injector = asked.shutdown.clone();
        let injector = tokio::spawn(injector_service::run(injector.config, injector.listeners, asked));

        let mut services = Self {
            addresses,
            pki: directory.pki,
            vault,
            injector,
            stop_vault,
            stop_injector,
        };
        services.wait_until_ready().await?;
        services.write_ports(args)?;
        Ok(services)
    }

    /// Waits until the injector has reached the vault, or until one of the services stops.
    async fn wait_until_ready(&mut self) -> Result<(), DevError> {
        let probe = self.addresses.injector_metrics;
        tokio::select! {
            stopped = &mut self.vault => resume_panic(stopped)?,
            stopped = &mut self.injector => resume_panic(stopped)?,
            () = wait_for_probe(probe, "readyz") => return Ok(()),
            () = time::sleep(STARTUP_TIMEOUT) => {}
        }
        Err(DevError::NotReady)
    }

    fn write_ports(&self, args: &DevArgs) -> Result<(), DevError> {
        let json = serde_json::json!(self.addresses);
        directory::write(&args.dir.join("ports.json"), &format!("{json:#}\n"))
    }

    /// Returns the settings of a connection with the administrator's identity.
    pub(crate) fn connection(&self) -> Result<Connection, Failure> {
        let Addresses {
            vault,
            injector,
            data_plane,
            vault_metrics,
            injector_metrics,
        } = &self.addresses;
        let args = ConnectArgs {
            vault: Some(vault.to_string()),
            injector: Some(injector.to_string()),
            data_plane: Some(data_plane.to_string()),
            ca: Some(self.pki.ca.clone()),
            cert: Some(self.pki.admin.cert.clone()),
            key: Some(self.pki.admin.key.clone()),
            vault_id: Some(VAULT_ID.to_owned()),
            injector_id: Some(INJECTOR_ID.to_owned()),
            vault_metrics: Some(vault_metrics.to_string()),
            injector_metrics: Some(injector_metrics.to_string()),
            ..ConnectArgs::default()
        };
        Connection::find(&args, |_| None)
    }

    /// Runs until `stop` is cancelled, or until one of the services stops.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), DevError> {
        tokio::select! {
            () = stop.cancelled() => {}
            stopped = &mut self.vault => return Ok(resume_panic(stopped)?),
            stopped = &mut self.injector => return Ok(resume_panic(stopped)?),
        }
        self.stop().await
    }

    /// Stops the injector first, because its running calls still need the vault.
    pub(crate) async fn stop(self) -> Result<(), DevError> {
        self.stop_injector.cancel();
        let injector = resume_panic(self.injector.await);
        self.stop_vault.cancel();
        resume_panic(self.vault.await)?;
        Ok(injector?)
    }
}

struct BoundVault {
    config: vault_service::config::Config,
    listeners: vault_service::Listeners,
}

impl BoundVault {
    async fn bind(args: &DevArgs, directory: &DevDirectory) -> Result<Self, DevError> {
        let config = settings::of_vault(args, directory)
            .check()
            .map_err(DevError::Settings)?;
        let listeners = vault_service::Listeners::bind(&config)
            .await
            .map_err(DevError::listening(VAULT_FLAG))?;
        Ok(Self { config, listeners })
    }
}

struct BoundInjector {
    config: injector_service::config::Config,
    listeners: injector_service::Listeners,
}

impl BoundInjector {
    async fn bind(args: &DevArgs, directory: &DevDirectory, vault: SocketAddr) -> Result<Self, DevError> {
        let config = settings::of_injector(args, directory, vault)
            .check()
            .map_err(DevError::Settings)?;
        let listeners = injector_service::Listeners::bind(&config)
            .await
            .map_err(DevError::listening(INJECTOR_FLAGS))?;
        Ok(Self { config, listeners })
    }
}

fn addresses(vault: &BoundVault, injector: &BoundInjector) -> Result<Addresses, DevError> {
    Ok(Addresses {
        vault: address(&vault.listeners.grpc, VAULT_FLAG)?,
        injector: address(bound(&injector.listeners.grpc), INJECTOR_FLAGS)?,
        data_plane: address(bound(&injector.listeners.data_plane), INJECTOR_FLAGS)?,
        vault_metrics: address(&vault.listeners.metrics, VAULT_FLAG)?,
        injector_metrics: address(&injector.listeners.metrics, INJECTOR_FLAGS)?,
    })
}

fn bound(listener: &Option<TcpListener>) -> &TcpListener {
    listener
        .as_ref()
        .expect("the settings of `aerostack dev` leave out no listener")
}

fn address(listener: &TcpListener, flags: &'static str) -> Result<SocketAddr, DevError> {
    listener.local_addr().map_err(DevError::listening(flags))
}

/// Returns the result of a service's task. A panic of the task is resumed here.
fn resume_panic<E>(stopped: Result<Result<(), E>, tokio::task::JoinError>) -> Result<(), E> {
    stopped.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Requests `path` of a service's probes until the answer is 200.
async fn wait_for_probe(probe: SocketAddr, path: &str) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let url = format!("http://{probe}/{path}");
    loop {
        if let Ok(url) = url.parse()
            && let Ok(answer) = client.get(url).await
            && answer.status().is_success()
        {
            return;
        }
        time::sleep(PROBE_INTERVAL).await;
    }
}
