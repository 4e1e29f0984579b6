//! A vault that runs in this process.

use std::{net::SocketAddr, sync::Arc};

use chassis::{
    args::{JwtArgs, RoleArgs, TlsArgs, defaults},
    signal::ServiceSignals,
};
use proto::vault::v1::{
    CreateWorkspaceRequest, DeleteSecretRequest, Plan, PutSecretRequest, Secret, Workspace,
    decrypt_service_client::DecryptServiceClient, key_service_client::KeyServiceClient,
    put_secret_request::Value, secret_service_client::SecretServiceClient,
    workspace_service_client::WorkspaceServiceClient,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::process_args::process_args;
use crate::pki::{self, Pki};

/// A running vault.
pub struct Vault {
    pub pki: Arc<Pki>,
    /// The directory of the store and of the root key.
    pub dir: Arc<TempDir>,
    /// The address of gRPC.
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    signals: ServiceSignals,
    task: JoinHandle<Result<(), vault_service::RunError>>,
}

/// Returns the settings of a vault that serves the principals of [`pki`] on ports that the system chooses.
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
            spiffe_socket: None,
        },
        jwt: JwtArgs::default(),
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

impl Vault {
    /// Starts a vault with an empty store.
    pub async fn start() -> Self {
        Self::start_with(Pki::new(), |_| {}).await
    }

    /// Starts a vault with an empty store and settings that `edit` changed.
    pub async fn start_with(pki: Arc<Pki>, edit: impl FnOnce(&mut vault_service::config::Settings)) -> Self {
        Self::open(pki, Arc::new(TempDir::new().unwrap()), edit).await
    }

    /// Starts a vault on a directory that may hold a store already.
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
        let signals = ServiceSignals::default();
        let task = tokio::spawn(vault_service::run(config, listeners, signals.clone()));
        Self {
            pki,
            dir,
            address,
            metrics,
            signals,
            task,
        }
    }

    /// Makes the vault read its files again, as SIGHUP does.
    pub fn reload(&self) {
        self.signals.reload.send_replace(());
    }

    /// Stops the vault, and waits until the store is closed.
    pub async fn stop(self) {
        self.signals.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Returns a gRPC channel to the vault that presents the certificate of `principal`.
    pub fn channel(&self, principal: &str) -> Channel {
        self.pki
            .channel(&self.pki.principal(principal), self.address, pki::VAULT)
    }

    pub fn workspaces(&self) -> WorkspaceServiceClient<Channel> {
        WorkspaceServiceClient::new(self.channel(pki::ADMIN))
    }

    pub fn secrets(&self) -> SecretServiceClient<Channel> {
        SecretServiceClient::new(self.channel(pki::ADMIN))
    }

    pub fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel(pki::ADMIN))
    }

    pub fn decrypts(&self) -> DecryptServiceClient<Channel> {
        DecryptServiceClient::new(self.channel(pki::INJECTOR))
    }

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

    pub async fn put(&self, workspace: &str, name: &str, value: impl AsRef<[u8]>) -> Secret {
        self.put_for(workspace, name, value, &[]).await
    }

    /// Puts a secret that may be sent to `origins` only, or anywhere when there are none.
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

    pub async fn delete(&self, workspace: &str, name: &str) {
        let request = DeleteSecretRequest {
            workspace: workspace.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        self.secrets().delete_secret(request).await.unwrap();
    }
}
