//! An injector that runs in this process.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use chassis::{
    args::{JwtArgs, RoleArgs, TlsArgs},
    signal::ServiceSignals,
};
use http::Response;
use proto::{
    WarningKind,
    injector::v1::{
        AddServerRequest, RemoveServerRequest, Server, server_service_client::ServerServiceClient,
    },
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Status, transport::Channel};

use super::{
    http::{get, send},
    process_args::process_args,
};
use crate::{
    eventually,
    pki::{self, Pki},
};

/// Stands for a listener that does not exist.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A running injector.
pub struct Injector {
    pub pki: Arc<Pki>,
    /// The directory of the servers file.
    pub dir: TempDir,
    /// The address of gRPC, or port 0 without it.
    pub address: SocketAddr,
    /// The address of the data plane, or port 0 without it.
    pub data_plane: SocketAddr,
    /// The addresses of `--listen-server`, in the order of the settings.
    pub dedicated: Vec<SocketAddr>,
    pub metrics: SocketAddr,
    signals: ServiceSignals,
    task: JoinHandle<Result<(), injector_service::RunError>>,
}

/// Returns the settings of an injector that uses the vault at `vault`, on ports that the system chooses.
pub fn injector_settings(
    pki: &Pki,
    servers: PathBuf,
    vault: SocketAddr,
) -> injector_service::config::Settings {
    let files = pki.principal(pki::INJECTOR);
    injector_service::config::Settings {
        listen: "127.0.0.1:0".to_owned(),
        no_admin: false,
        data_plane_listen: "127.0.0.1:0".to_owned(),
        listen_server: Vec::new(),
        metrics_listen: "127.0.0.1:0".to_owned(),
        servers: Some(servers),
        catalog: None,
        vault: vault.to_string(),
        vault_ca: Some(pki.ca_file()),
        vault_id: Some(pki::VAULT.to_owned()),
        vault_cert: Some(files.cert.clone()),
        vault_key: Some(files.key.clone()),
        vault_token_file: None,
        tls: TlsArgs {
            tls_cert: Some(files.cert),
            tls_key: Some(files.key),
            client_ca: Some(pki.ca_file()),
            spiffe_socket: None,
        },
        jwt: JwtArgs::default(),
        roles: RoleArgs {
            admin: vec![pki::ADMIN.to_owned()],
            ..RoleArgs::default()
        },
        data_plane_tls_cert: None,
        data_plane_tls_key: None,
        data_plane_insecure_plaintext: false,
        callers: injector_service::config::CallerArgs::default(),
        host: Vec::new(),
        host_suffix: "localhost".to_owned(),
        upstream_ca: Vec::new(),
        limits: injector_service::limits::LimitSettings {
            max_connections: "1000".to_owned(),
            ..Default::default()
        },
        require_all_secrets: false,
        no_reflection: false,
        process: process_args(),
    }
}

impl Injector {
    /// Starts an injector that uses the vault at `vault`.
    pub async fn start(pki: Arc<Pki>, vault: SocketAddr) -> Self {
        Self::start_with(pki, vault, |_| {}).await
    }

    /// Starts an injector with settings that `edit` changed.
    pub async fn start_with(
        pki: Arc<Pki>,
        vault: SocketAddr,
        edit: impl FnOnce(&mut injector_service::config::Settings),
    ) -> Self {
        let dir = TempDir::new().unwrap();
        let mut settings = injector_settings(&pki, dir.path().join("servers.yaml"), vault);
        edit(&mut settings);
        let config = settings.check().unwrap();
        let listeners = injector_service::Listeners::bind(&config).await.unwrap();
        let address = |listener: &Option<TcpListener>| listener.as_ref()?.local_addr().ok();
        let (address, data_plane) = (
            address(&listeners.grpc).unwrap_or(NO_ADDRESS),
            address(&listeners.data_plane).unwrap_or(NO_ADDRESS),
        );
        let dedicated = listeners
            .dedicated
            .iter()
            .map(|(listener, _)| listener.local_addr().unwrap())
            .collect();
        let metrics = listeners.metrics.local_addr().unwrap();
        let signals = ServiceSignals::default();
        let task = tokio::spawn(injector_service::run(config, listeners, signals.clone()));
        Self {
            pki,
            dir,
            address,
            data_plane,
            dedicated,
            metrics,
            signals,
            task,
        }
    }

    /// Makes the injector read its files again, as SIGHUP does.
    pub fn reload(&self) {
        self.signals.reload.send_replace(());
    }

    pub async fn stop(self) {
        self.signals.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub fn servers_file(&self) -> PathBuf {
        self.dir.path().join("servers.yaml")
    }

    /// Waits until the injector is connected to the vault.
    pub async fn ready(&self) {
        let url = format!("http://{}/readyz", self.metrics);
        eventually("the injector is ready", async || {
            get(&url).await.status().is_success()
        })
        .await;
    }

    /// Returns a gRPC channel to the injector that presents the certificate of `principal`.
    pub fn channel(&self, principal: &str) -> Channel {
        self.pki
            .channel(&self.pki.principal(principal), self.address, pki::INJECTOR)
    }

    pub fn servers(&self) -> ServerServiceClient<Channel> {
        ServerServiceClient::new(self.channel(pki::ADMIN))
    }

    pub async fn add(&self, server: Server) -> Server {
        self.try_add(server).await.unwrap()
    }

    pub async fn try_add(&self, server: Server) -> Result<Server, Status> {
        self.try_add_from("", server).await
    }

    /// Adds a server whose settings are taken from an entry of the catalog where `server` has none.
    pub async fn try_add_from(&self, catalog_entry: &str, server: Server) -> Result<Server, Status> {
        let request = AddServerRequest {
            server: Some(server),
            catalog_entry: catalog_entry.to_owned(),
        };
        Ok(self
            .servers()
            .add_server(request)
            .await?
            .into_inner()
            .server
            .unwrap())
    }

    /// Adds a server, and returns the kinds and messages of its warnings.
    pub async fn add_with_warnings(&self, server: Server) -> Vec<(WarningKind, String)> {
        let request = AddServerRequest {
            server: Some(server),
            ..Default::default()
        };
        let added = self.servers().add_server(request).await.unwrap().into_inner();
        let warnings = added.warnings.into_iter();
        warnings
            .map(|warning| (warning.kind(), warning.message))
            .collect()
    }

    /// Removes a server of any revision.
    pub async fn remove(&self, workspace: &str, name: &str) {
        let request = RemoveServerRequest {
            workspace: workspace.into(),
            name: name.into(),
            revision: 0,
        };
        self.servers().remove_server(request).await.unwrap();
    }

    /// Returns the URL of a path on the data plane.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.data_plane)
    }

    pub async fn get(&self, path: &str) -> Response<Bytes> {
        get(&self.url(path)).await
    }

    /// Sends a request to the data plane over HTTP/1.1. The URI of `request` is a path.
    pub async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Response<Bytes> {
        send(self.data_plane, request, body).await
    }
}
