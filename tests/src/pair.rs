//! Both services, in this process, on ports of the system's choice.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use chassis::{
    args::{ProcessArgs, RoleArgs, TlsArgs, defaults},
    signal::ServiceSignals,
    telemetry::LogFormat,
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::{
    WarningKind,
    injector::v1::{
        AddServerRequest, RemoveServerRequest, Server, server_service_client::ServerServiceClient,
    },
    vault::v1::{
        CreateWorkspaceRequest, DeleteSecretRequest, Plan, PutSecretRequest, Secret, Workspace,
        decrypt_service_client::DecryptServiceClient, key_service_client::KeyServiceClient,
        put_secret_request::Value, secret_service_client::SecretServiceClient,
        workspace_service_client::WorkspaceServiceClient,
    },
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

use crate::{
    eventually,
    pki::{self, Pki},
};

/// A running vault.
pub struct Vault {
    /// Who it trusts.
    pub pki: Arc<Pki>,
    /// Where its store is.
    pub dir: Arc<TempDir>,
    /// Its gRPC.
    pub address: SocketAddr,
    /// Its probes.
    pub metrics: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), vault_service::RunError>>,
}

/// A running injector.
pub struct Injector {
    /// Who it trusts.
    pub pki: Arc<Pki>,
    /// Where its file of servers is.
    pub dir: TempDir,
    /// Its gRPC.
    pub address: SocketAddr,
    /// Its data plane.
    pub data_plane: SocketAddr,
    /// Its listeners of one server each.
    pub dedicated: Vec<SocketAddr>,
    /// Its probes.
    pub metrics: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), injector_service::RunError>>,
}

/// A vault and an injector that uses it.
pub struct Pair {
    /// The vault.
    pub vault: Vault,
    /// The injector.
    pub injector: Injector,
}

/// Settings of a vault that serves the principals of the tests.
pub fn vault_settings(pki: &Pki, dir: &TempDir) -> vault_service::config::Settings {
    let files = pki.principal(pki::VAULT);
    vault_service::config::Settings {
        listen: "127.0.0.1:0".to_owned(),
        metrics_listen: "127.0.0.1:0".to_owned(),
        data_dir: Some(dir.path().join("vault")),
        cache_mib: "16".to_owned(),
        root: vault_service::config::RootArgs {
            root_key_file: vec![pki::root_key(dir.path())],
            root_passphrase_file: None,
            root_kms_socket: None,
            root_active: None,
        },
        tls: TlsArgs {
            tls_cert: Some(files.cert),
            tls_key: Some(files.key),
            client_ca: Some(pki.ca_file()),
        },
        roles: RoleArgs {
            admin: vec![pki::ADMIN.to_owned()],
            ..RoleArgs::default()
        },
        injector: vec![format!("{}=*", pki::INJECTOR)],
        keepalive: defaults(),
        audit: vault_service::config::AuditArgs::default(),
        require_sealed: false,
        default_plan: vault_service::vault::Plan::Free,
        no_reflection: false,
        process: process_args(),
        erase_after: "1h".to_owned(),
    }
}

fn process_args() -> ProcessArgs {
    ProcessArgs {
        allow_debugging: false,
        shutdown_grace: "2s".to_owned(),
        log: "info".to_owned(),
        log_filter_file: None,
        log_format: LogFormat::Text,
    }
}

/// Settings of an injector that uses the vault at `vault`.
pub fn injector_settings(
    pki: &Pki,
    servers: PathBuf,
    vault: SocketAddr,
) -> injector_service::config::Settings {
    let files = pki.principal(pki::INJECTOR);
    injector_service::config::Settings {
        listen: "127.0.0.1:0".to_owned(),
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
        tls: TlsArgs {
            tls_cert: Some(files.cert),
            tls_key: Some(files.key),
            client_ca: Some(pki.ca_file()),
        },
        roles: RoleArgs {
            admin: vec![pki::ADMIN.to_owned()],
            ..RoleArgs::default()
        },
        data_plane_tls_cert: None,
        data_plane_tls_key: None,
        data_plane_insecure_plaintext: false,
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

impl Vault {
    /// Starts one with a store of its own.
    pub async fn start() -> Self {
        Self::start_with(Pki::new(), |_| {}).await
    }

    /// Starts one whose settings `edit` may change.
    pub async fn start_with(pki: Arc<Pki>, edit: impl FnOnce(&mut vault_service::config::Settings)) -> Self {
        Self::open(pki, Arc::new(TempDir::new().unwrap()), edit).await
    }

    /// Starts one on a directory that may hold a store already.
    pub async fn open(
        pki: Arc<Pki>,
        dir: Arc<TempDir>,
        edit: impl FnOnce(&mut vault_service::config::Settings),
    ) -> Self {
        let mut settings = vault_settings(&pki, &dir);
        edit(&mut settings);
        let config = settings.check().unwrap();
        let listeners = vault_service::Listeners::bind(&config).await.unwrap();
        let (address, metrics) = (
            listeners.grpc.local_addr().unwrap(),
            listeners.metrics.local_addr().unwrap(),
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(vault_service::run(config, listeners, stop.clone()));
        Self {
            pki,
            dir,
            address,
            metrics,
            stop,
            task,
        }
    }

    /// Stops it, and waits until it has closed its store.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// A channel to it, as a principal.
    pub fn channel(&self, principal: &str) -> Channel {
        self.pki
            .channel(&self.pki.principal(principal), self.address, pki::VAULT)
    }

    /// Workspaces, as the administrator.
    pub fn workspaces(&self) -> WorkspaceServiceClient<Channel> {
        WorkspaceServiceClient::new(self.channel(pki::ADMIN))
    }

    /// Secrets, as the administrator.
    pub fn secrets(&self) -> SecretServiceClient<Channel> {
        SecretServiceClient::new(self.channel(pki::ADMIN))
    }

    /// Keys, as the administrator.
    pub fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel(pki::ADMIN))
    }

    /// Decrypting, as the injector.
    pub fn decrypts(&self) -> DecryptServiceClient<Channel> {
        DecryptServiceClient::new(self.channel(pki::INJECTOR))
    }

    /// Makes a workspace.
    pub async fn workspace(&self, name: &str) -> Workspace {
        let workspace = Workspace {
            name: name.to_owned(),
            plan: Plan::Business.into(),
            ..Default::default()
        };
        let request = CreateWorkspaceRequest {
            workspace: Some(workspace),
        };
        self.workspaces()
            .create_workspace(request)
            .await
            .unwrap()
            .into_inner()
            .workspace
            .unwrap()
    }

    /// Puts a secret.
    pub async fn put(&self, workspace: &str, name: &str, value: impl AsRef<[u8]>) -> Secret {
        self.put_for(workspace, name, value, &[]).await
    }

    /// Puts a secret that may be sent to these origins.
    pub async fn put_for(
        &self,
        workspace: &str,
        name: &str,
        value: impl AsRef<[u8]>,
        origins: &[&str],
    ) -> Secret {
        let request = PutSecretRequest {
            workspace: workspace.to_owned(),
            name: name.to_owned(),
            value: Some(Value::Data(value.as_ref().to_vec())),
            upstream_origins: origins.iter().map(|&origin| origin.to_owned()).collect(),
            ..Default::default()
        };
        self.secrets()
            .put_secret(request)
            .await
            .unwrap()
            .into_inner()
            .secret
            .unwrap()
    }

    /// Deletes a secret.
    pub async fn delete(&self, workspace: &str, name: &str) {
        let request = DeleteSecretRequest {
            workspace: workspace.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        self.secrets().delete_secret(request).await.unwrap();
    }
}

impl Injector {
    /// Starts one that uses the vault at `vault`.
    pub async fn start(pki: Arc<Pki>, vault: SocketAddr) -> Self {
        Self::start_with(pki, vault, |_| {}).await
    }

    /// Starts one whose settings `edit` may change.
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
        let address = listeners.grpc.local_addr().unwrap();
        let data_plane = listeners.data_plane.local_addr().unwrap();
        let dedicated = listeners
            .dedicated
            .iter()
            .map(|(listener, _)| listener.local_addr().unwrap())
            .collect();
        let metrics = listeners.metrics.local_addr().unwrap();
        let stop = CancellationToken::new();
        let asked = ServiceSignals {
            shutdown: stop.clone(),
            ..ServiceSignals::default()
        };
        let task = tokio::spawn(injector_service::run(config, listeners, asked));
        Self {
            pki,
            dir,
            address,
            data_plane,
            dedicated,
            metrics,
            stop,
            task,
        }
    }

    /// Stops it.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// The file with its servers.
    pub fn servers_file(&self) -> PathBuf {
        self.dir.path().join("servers.yaml")
    }

    /// Waits until it has reached the vault.
    pub async fn ready(&self) {
        let url = format!("http://{}/readyz", self.metrics);
        eventually("the injector is ready", async || {
            get(&url).await.status().is_success()
        })
        .await;
    }

    /// A channel to it, as a principal.
    pub fn channel(&self, principal: &str) -> Channel {
        self.pki
            .channel(&self.pki.principal(principal), self.address, pki::INJECTOR)
    }

    /// Servers, as the administrator.
    pub fn servers(&self) -> ServerServiceClient<Channel> {
        ServerServiceClient::new(self.channel(pki::ADMIN))
    }

    /// Adds a server.
    pub async fn add(&self, server: Server) -> Server {
        self.try_add(server).await.unwrap()
    }

    /// Adds a server, if it may be.
    pub async fn try_add(&self, server: Server) -> Result<Server, Status> {
        self.try_add_from("", server).await
    }

    /// Adds a server that begins from an entry of the catalog, if it may be.
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

    /// Adds a server, and returns the kinds and the messages of the warnings about it.
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

    /// Removes the server `name`, whatever its revision is.
    pub async fn remove(&self, workspace: &str, name: &str) {
        let request = RemoveServerRequest {
            workspace: workspace.into(),
            name: name.into(),
            revision: 0,
        };
        self.servers().remove_server(request).await.unwrap();
    }

    /// The URL of a path on the data plane.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.data_plane)
    }

    /// GETs a path of the data plane.
    pub async fn get(&self, path: &str) -> Response<Bytes> {
        get(&self.url(path)).await
    }

    /// Sends a request to the data plane over HTTP/1.1; its URI is a path.
    pub async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Response<Bytes> {
        send(self.data_plane, request, body).await
    }
}

impl Pair {
    /// Starts both, and waits until they are ready.
    pub async fn start() -> Self {
        Self::start_with(|_| {}, |_| {}).await
    }

    /// Starts both with settings that may be changed, and waits until they are ready.
    pub async fn start_with(
        vault: impl FnOnce(&mut vault_service::config::Settings),
        injector: impl FnOnce(&mut injector_service::config::Settings),
    ) -> Self {
        let pki = Pki::new();
        let vault = Vault::start_with(pki.clone(), vault).await;
        let injector = Injector::start_with(pki, vault.address, injector).await;
        injector.ready().await;
        Self { vault, injector }
    }

    /// Stops both.
    pub async fn stop(self) {
        self.injector.stop().await;
        self.vault.stop().await;
    }
}

/// A server to add: workspace, name, URL and secrets; complete it with what the test is about.
pub fn server(workspace: &str, name: &str, url: &str, secrets: &[&str]) -> Server {
    Server {
        workspace: workspace.to_owned(),
        name: name.to_owned(),
        url: url.to_owned(),
        inject_secrets: secrets.iter().map(|&secret| secret.to_owned()).collect(),
        ..Default::default()
    }
}

/// GETs a URL.
pub async fn get(url: &str) -> Response<Bytes> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let response = client.get(url.parse().unwrap()).await.unwrap();
    whole(response).await
}

/// Sends a request whose URI is a path to `address`, over HTTP/1.1 on a connection of its own.
pub async fn send(
    address: SocketAddr,
    request: http::request::Builder,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut request: Request<Full<Bytes>> = request.body(Full::new(body.into())).unwrap();
    let path = request.uri().path_and_query().unwrap().to_string();
    *request.uri_mut() = format!("http://{address}{path}").parse().unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    whole(client.request(request).await.unwrap()).await
}

async fn whole(response: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}
