//! Runs the binaries of both services, as in a deployment on one machine.

use std::{
    fs,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use e2e::{
    Pki,
    pair::{get, server},
    pki,
};
use proto::{
    injector::v1::{
        AddServerRequest, AuthType, Protocol, Scrub, Server, UpdateServerRequest,
        server_service_client::ServerServiceClient,
    },
    vault::v1::{
        CreateWorkspaceRequest, Plan, PutSecretRequest, Workspace, put_secret_request::Value,
        secret_service_client::SecretServiceClient, workspace_service_client::WorkspaceServiceClient,
    },
};
use tokio::{task::JoinSet, time};
use tonic::transport::Channel;

use crate::{
    Failure,
    h2load::Http,
    process::{Process, free_address},
    run::say,
};

/// The workspace of the secrets and servers, unless a benchmark creates its own workspaces.
pub(crate) const WORKSPACE: &str = "bench";
/// The value that [`put_request`] stores. Envoy injects the same value.
pub(crate) const TOKEN: &str = "bench-5e4b1f0c9a7d3826bc41f7e09d5a8c63";
/// Time limit for a service to become ready with a store of gigabytes.
const READY: Duration = Duration::from_secs(120);
/// Names of the secrets that the injector's servers use.
const NAMES: [&str; 3] = ["TOKEN", "SECOND", "THIRD"];

pub(crate) struct Vault {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) pki: Arc<Pki>,
    /// The directory of the store and the root key.
    pub(crate) dir: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    metrics: SocketAddr,
    filled: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopMethod {
    Closed,
    Killed,
}

impl Vault {
    /// Starts a vault with an empty store and creates [`WORKSPACE`].
    pub(crate) async fn start(bin_dir: &Path, scratch: &Path, name: &str) -> Result<Self, Failure> {
        let dir = scratch.join(name);
        fs::create_dir(&dir)?;
        let vault = Self::start_empty(bin_dir, dir).await?;
        vault.make_workspace().await?;
        Ok(vault)
    }

    /// Starts a vault that writes an audit log and holds `secrets` secrets.
    pub(crate) async fn start_audited(bin_dir: &Path, scratch: &Path, secrets: u32) -> Result<Self, Failure> {
        let dir = scratch.join("vault-audited");
        fs::create_dir(&dir)?;
        let audit_log = ("--audit-log", text(&dir.join("audit.log")));
        let mut vault = Self::launch(bin_dir, dir, Some(audit_log)).await?;
        vault.make_workspace().await?;
        vault.fill(secrets).await?;
        Ok(vault)
    }

    /// Starts a vault with an empty store in `dir`, and with the root key in `dir`, which is created if it does not
    /// exist.
    pub(crate) async fn start_empty(bin_dir: &Path, dir: PathBuf) -> Result<Self, Failure> {
        Self::launch(bin_dir, dir, None).await
    }

    async fn launch(
        bin_dir: &Path,
        dir: PathBuf,
        setting: Option<(&'static str, String)>,
    ) -> Result<Self, Failure> {
        let pki = Pki::new();
        let (address, metrics) = (free_address()?, free_address()?);
        let files = pki.principal(pki::VAULT);
        let ca = text(&pki.ca_file());
        let [injector, noisy] = [pki::INJECTOR, pki::NOISY].map(|principal| format!("{principal}=*"));
        let arguments = [
            ("--listen", address.to_string()),
            ("--metrics-listen", metrics.to_string()),
            ("--data-dir", text(&dir.join("store"))),
            ("--root-key-file", text(&pki::root_key(&dir))),
            ("--tls-cert", text(&files.cert)),
            ("--tls-key", text(&files.key)),
            ("--client-ca", ca),
            ("--admin", pki::ADMIN.to_owned()),
            ("--injector", injector),
            ("--injector", noisy),
        ];
        let program = bin_dir.join("vault-service");
        let arguments: Vec<String> = flags(arguments.into_iter().chain(setting)).collect();
        let mut process = Process::start("vault-service", &program, &arguments, &dir.join("log"))?;
        process.wait_until_listening(metrics).await?;
        wait_until_ready(metrics).await?;
        Ok(Self {
            process,
            address,
            pki,
            dir,
            program,
            arguments,
            metrics,
            filled: 0,
        })
    }

    /// Stops the vault and starts it again. Returns the time from the start until the vault is ready.
    pub(crate) async fn restart(&mut self, stop: StopMethod) -> Result<Duration, Failure> {
        match stop {
            StopMethod::Closed => self.process.terminate().await?,
            StopMethod::Killed => self.process.kill()?,
        }
        let started = Instant::now();
        let log = self.dir.join("log");
        self.process = Process::start("vault-service", &self.program, &self.arguments, &log)?;
        self.process.wait_until_listening(self.metrics).await?;
        wait_until_ready(self.metrics).await?;
        Ok(started.elapsed())
    }

    /// Returns a channel to the vault with the certificate of `principal`.
    pub(crate) fn channel(&self, principal: &str) -> Channel {
        self.pki
            .channel(&self.pki.principal(principal), self.address, pki::VAULT)
    }

    async fn make_workspace(&self) -> Result<(), Failure> {
        WorkspaceServiceClient::new(self.channel(pki::ADMIN))
            .create_workspace(create_request(WORKSPACE))
            .await?;
        Ok(())
    }

    /// Puts the secrets that the injector's servers use.
    pub(crate) async fn put_servers_secrets(&self) -> Result<(), Failure> {
        let mut secrets = SecretServiceClient::new(self.channel(pki::ADMIN));
        for name in NAMES {
            secrets.put_secret(put_request(name.to_owned())).await?;
        }
        Ok(())
    }

    /// Puts secrets with the names of [`secret_name`] until there are `count`.
    pub(crate) async fn fill(&mut self, count: u32) -> Result<(), Failure> {
        say(&format!("\nputting secrets until there are {count}\n"))?;
        let secrets = SecretServiceClient::new(self.channel(pki::ADMIN));
        call_for_each(self.filled..count, move |number| {
            let mut secrets = secrets.clone();
            async move {
                secrets
                    .put_secret(put_request(secret_name(number)))
                    .await
                    .map(drop)
            }
        })
        .await?;
        self.filled = self.filled.max(count);
        Ok(())
    }

    /// Creates workspaces with the names of [`workspace_name`] and puts `each` secrets into each.
    pub(crate) async fn fill_workspaces(&self, workspaces: u32, each: u32) -> Result<(), Failure> {
        say(&format!(
            "\nputting {each} secrets into each of {workspaces} workspaces\n"
        ))?;
        let channel = self.channel(pki::ADMIN);
        let (made, secrets) = (
            WorkspaceServiceClient::new(channel.clone()),
            SecretServiceClient::new(channel),
        );
        call_for_each(0..workspaces, move |number| {
            let (mut made, mut secrets) = (made.clone(), secrets.clone());
            async move {
                let workspace = workspace_name(number * each, each);
                made.create_workspace(create_request(&workspace)).await?;
                for number in number * each..(number + 1) * each {
                    let put = PutSecretRequest {
                        workspace: workspace.clone(),
                        ..put_request(secret_name(number))
                    };
                    secrets.put_secret(put).await?;
                }
                Ok(())
            }
        })
        .await
    }
}

/// Runs `call` for each number, 64 at a time.
async fn call_for_each<F>(
    numbers: Range<u32>,
    call: impl Fn(u32) -> F + Clone + Send + Sync + 'static,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), tonic::Status>> + Send,
{
    const AT_ONCE: usize = 64;
    let mut calls = JoinSet::new();
    for first in 0..AT_ONCE {
        let (mine, call) = (numbers.clone().skip(first), call.clone());
        calls.spawn(async move {
            for number in mine.step_by(AT_ONCE) {
                call(number).await?;
            }
            Ok::<_, tonic::Status>(())
        });
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    // The vault may still write in the background. Such writes must not disturb the next measurement.
    time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

fn create_request(workspace: &str) -> CreateWorkspaceRequest {
    CreateWorkspaceRequest {
        workspace: Some(Workspace {
            name: workspace.to_owned(),
            plan: Plan::Enterprise.into(),
            ..Default::default()
        }),
    }
}

/// Returns the name of a secret that [`Vault::fill`] puts.
pub(crate) fn secret_name(number: u32) -> String {
    format!("S{number}")
}

/// Returns the workspace of a secret when each workspace has `each` secrets.
pub(crate) fn workspace_name(number: u32, each: u32) -> String {
    format!("w{}", number / each.max(1))
}

/// Returns a request that puts [`TOKEN`] as a secret into [`WORKSPACE`].
pub(crate) fn put_request(name: String) -> PutSecretRequest {
    PutSecretRequest {
        workspace: WORKSPACE.to_owned(),
        name,
        value: Some(Value::Text(TOKEN.to_owned())),
        ..Default::default()
    }
}

pub(crate) struct Injector {
    pub(crate) process: Process,
    pub(crate) data_plane: SocketAddr,
    /// The log, with one line for each call.
    pub(crate) log: PathBuf,
    servers: ServerServiceClient<Channel>,
}

impl Injector {
    /// Starts an injector with one server for each placement and protocol. All servers have the same upstream.
    pub(crate) async fn start(
        bin_dir: &Path,
        scratch: &Path,
        name: &str,
        vault: &Vault,
        upstream: SocketAddr,
    ) -> Result<Self, Failure> {
        let pki = &vault.pki;
        let log = scratch.join(format!("{name}.log"));
        let (address, data_plane, metrics) = (free_address()?, free_address()?, free_address()?);
        let files = pki.principal(pki::INJECTOR);
        let (cert, key, ca) = (text(&files.cert), text(&files.key), text(&pki.ca_file()));
        let arguments = [
            ("--listen", address.to_string()),
            ("--data-plane-listen", data_plane.to_string()),
            ("--metrics-listen", metrics.to_string()),
            ("--servers", text(&scratch.join(format!("{name}.yaml")))),
            ("--vault", vault.address.to_string()),
            ("--vault-ca", ca.clone()),
            ("--vault-id", pki::VAULT.to_owned()),
            ("--vault-cert", cert.clone()),
            ("--vault-key", key.clone()),
            ("--tls-cert", cert),
            ("--tls-key", key),
            ("--client-ca", ca),
            ("--admin", pki::ADMIN.to_owned()),
            ("--max-connections", "20000".to_owned()),
        ];
        let program = bin_dir.join("injector-service");
        let mut process = Process::start("injector-service", &program, flags(arguments), &log)?;
        process.wait_until_listening(metrics).await?;
        wait_until_ready(metrics).await?;
        let channel = pki.channel(&pki.principal(pki::ADMIN), address, pki::INJECTOR);
        let mut servers = ServerServiceClient::new(channel);
        for server in servers_for(upstream) {
            let request = AddServerRequest {
                server: Some(server),
                ..Default::default()
            };
            servers.add_server(request).await?;
        }
        Ok(Self {
            process,
            data_plane,
            log,
            servers,
        })
    }

    /// Changes the setting `scrub` of the server with this placement and protocol.
    pub(crate) async fn set_scrub(
        &mut self,
        placement: Placement,
        http: Http,
        scrub: Scrub,
    ) -> Result<(), Failure> {
        let request = UpdateServerRequest {
            server: Some(Server {
                workspace: WORKSPACE.to_owned(),
                name: server_name(placement, http).to_owned(),
                scrub: scrub.into(),
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["scrub".to_owned()],
            }),
        };
        self.servers.update_server(request).await?;
        Ok(())
    }
}

/// Returns the name of the injector's server with this placement and protocol.
pub(crate) fn server_name(placement: Placement, http: Http) -> &'static str {
    match (placement, http) {
        (Placement::Bearer, Http::One) => "bearer-h1",
        (Placement::Bearer, Http::Two) => "bearer-h2",
        (Placement::Unscrubbed, Http::One) => "unscrubbed-h1",
        (Placement::Unscrubbed, Http::Two) => "unscrubbed-h2",
        (Placement::Three, Http::One) => "three-h1",
        (Placement::Three, Http::Two) => "three-h2",
        (Placement::Body, Http::One) => "skill-h1",
        (Placement::Body, Http::Two) => "skill-h2",
    }
}

/// The secrets of a server, and the place where the injector puts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// One secret in `Authorization: Bearer`, as Envoy injects it.
    Bearer,
    /// The same, and answers are not searched for the secret.
    Unscrubbed,
    /// Three secrets in headers.
    Three,
    /// One secret in the JSON body.
    Body,
}

fn servers_for(upstream: SocketAddr) -> impl Iterator<Item = Server> {
    let placements = [
        Placement::Bearer,
        Placement::Unscrubbed,
        Placement::Three,
        Placement::Body,
    ];
    let all = placements
        .into_iter()
        .flat_map(|placement| Http::BOTH.map(|http| (placement, http)));
    all.map(move |(placement, http)| {
        let (auth_type, names) = match placement {
            Placement::Bearer | Placement::Unscrubbed => (AuthType::Bearer, NAMES.get(..1)),
            Placement::Three => (AuthType::SecretHeaders, Some(&NAMES[..])),
            Placement::Body => (AuthType::Skill, NAMES.get(..1)),
        };
        let scrub = match placement {
            Placement::Unscrubbed => Scrub::Off,
            Placement::Bearer | Placement::Three | Placement::Body => Scrub::Headers,
        };
        let protocol = match http {
            Http::One => Protocol::Http1,
            Http::Two => Protocol::Http2,
        };
        let url = format!("http://{upstream}");
        Server {
            auth_type: auth_type.into(),
            protocol: protocol.into(),
            scrub: scrub.into(),
            ..server(
                WORKSPACE,
                server_name(placement, http),
                &url,
                names.unwrap_or_default(),
            )
        }
    })
}

/// Waits until `/readyz` reports that the service is ready.
async fn wait_until_ready(metrics: SocketAddr) -> Result<(), Failure> {
    let started = Instant::now();
    while !get(&format!("http://{metrics}/readyz"))
        .await
        .status()
        .is_success()
    {
        if started.elapsed() > READY {
            return Err(format!("{metrics} is not ready").into());
        }
        time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn flags(arguments: impl IntoIterator<Item = (&'static str, String)>) -> impl Iterator<Item = String> {
    let pairs = arguments.into_iter();
    pairs.flat_map(|(flag, value)| [flag.to_owned(), value])
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
