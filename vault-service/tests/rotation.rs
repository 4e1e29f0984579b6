//! Rotations of keys by the binary itself, which is killed in the middle of them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use chassis::tls::{self, Authorities, Identity};
use hyper_util::rt::TokioIo;
use proto::{
    Principal,
    vault::v1::{
        CreateWorkspaceRequest, DecryptRequest, DecryptStatus, GetKeyStatusRequest, ListWorkspaceKeysRequest,
        Plan, PutSecretRequest, RotateWorkspaceKeyRequest, Workspace,
        decrypt_service_client::DecryptServiceClient, key_service_client::KeyServiceClient,
        put_secret_request::Value, secret_service_client::SecretServiceClient,
        workspace_service_client::WorkspaceServiceClient,
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

const VAULT: &str = "spiffe://test/vault";
const ADMIN: &str = "spiffe://test/admin";
const INJECTOR: &str = "spiffe://test/injector";
/// Number of records that keeps a rotation busy for a while.
const SECRETS: usize = 2000;

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A CA, and a certificate with its key for each principal.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(TempDir::new().unwrap());
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca_key = KeyPair::generate().unwrap();
        file(files.0.path(), "ca.pem", &ca.self_signed(&ca_key).unwrap().pem());
        for principal in [VAULT, ADMIN, INJECTOR] {
            let mut leaf = CertificateParams::default();
            leaf.subject_alt_names = vec![SanType::URI(principal.try_into().unwrap())];
            let key = KeyPair::generate().unwrap();
            let cert = leaf.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();
            let [cert_path, key_path] = files.of(principal);
            fs::write(cert_path, cert.pem()).unwrap();
            fs::write(&key_path, key.serialize_pem()).unwrap();
            fs::set_permissions(key_path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        files
    }

    fn ca(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    fn of(&self, principal: &str) -> [PathBuf; 2] {
        let name = principal.rsplit('/').next().unwrap();
        ["cert", "key"].map(|what| self.0.path().join(format!("{name}-{what}.pem")))
    }

    async fn channel(&self, address: SocketAddr, principal: &str) -> Channel {
        let [cert, key] = self.of(principal);
        let identity = Identity::load(&cert, &key).unwrap();
        let authorities = Authorities::load(&self.ca()).unwrap();
        let vault = Principal::parse(VAULT).unwrap();
        let connector = TlsConnector::from(tls::grpc_client(Some(identity), &authorities, vault).unwrap());
        let connect = tower::service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = address.ip().into();
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        endpoint.connect_with_connector(connect).await.unwrap()
    }
}

/// A running vault, which is killed on drop.
struct Vault {
    child: Child,
    address: SocketAddr,
    files: Arc<Files>,
}

impl Vault {
    fn start(files: &Arc<Files>, root_keys: &[&Path]) -> Self {
        let [cert, key] = files.of(VAULT);
        let mut command = Command::new(env!("CARGO_BIN_EXE_vault-service"));
        command.env_clear();
        command.args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
        command.args(["--cache-mib", "16", "--log-format", "json", "--admin", ADMIN]);
        command.args(["--injector", &format!("{INJECTOR}=*")]);
        for path in root_keys {
            command.arg("--root-key-file").arg(path);
        }
        command.arg("--data-dir").arg(files.0.path().join("vault"));
        command.arg("--client-ca").arg(files.ca());
        command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = address(&mut log);
        // A full pipe would block the vault, so the rest of its output is read.
        std::thread::spawn(move || log.lines().for_each(drop));
        Self {
            child,
            address,
            files: files.clone(),
        }
    }

    async fn channel(&self, principal: &str) -> Channel {
        self.files.channel(self.address, principal).await
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(log: &mut impl std::io::BufRead) -> SocketAddr {
    let mut all = String::new();
    for line in log.lines() {
        let line = line.unwrap();
        all.push_str(&line);
        if let Some((_, rest)) = line.split_once("\"address\":\"") {
            return rest.split('"').next().unwrap().parse().unwrap();
        }
    }
    panic!("it did not serve: {all}");
}

fn name(number: usize) -> String {
    format!("S{number:05}")
}

async fn fill(vault: &Vault) {
    let workspace = Workspace {
        name: "w".to_owned(),
        plan: Plan::Enterprise.into(),
        ..Default::default()
    };
    let request = CreateWorkspaceRequest {
        workspace: Some(workspace),
    };
    let channel = vault.channel(ADMIN).await;
    let mut workspaces = WorkspaceServiceClient::new(channel.clone());
    workspaces.create_workspace(request).await.unwrap();
    let mut puts = JoinSet::new();
    for first in 0..64 {
        let mut secrets = SecretServiceClient::new(channel.clone());
        puts.spawn(async move {
            for number in (first..SECRETS).step_by(64) {
                let request = PutSecretRequest {
                    workspace: "w".to_owned(),
                    name: name(number),
                    value: Some(Value::Text(format!("value {number}"))),
                    ..Default::default()
                };
                secrets.put_secret(request).await.unwrap();
            }
        });
    }
    puts.join_all().await;
}

async fn all_decrypt(vault: &Vault) {
    let mut client = DecryptServiceClient::new(vault.channel(INJECTOR).await);
    for first in (0..SECRETS).step_by(64) {
        let numbers = first..SECRETS.min(first + 64);
        let request = DecryptRequest {
            workspace: "w".to_owned(),
            names: numbers.clone().map(name).collect(),
            ..Default::default()
        };
        let answer = client.decrypt(request).await.unwrap().into_inner();
        for (number, secret) in numbers.zip(&answer.secrets) {
            assert_eq!(secret.status(), DecryptStatus::Ok, "{}", secret.name);
            assert_eq!(secret.value, format!("value {number}").as_bytes());
        }
    }
}

/// Returns the numbers of rewrapped and of all records of the rotation; `None` when no rotation is running.
async fn progress(keys: &mut KeyServiceClient<Channel>) -> Option<(u64, u64)> {
    let status = keys.get_key_status(GetKeyStatusRequest {}).await.unwrap();
    let rotations = status.into_inner().rotations;
    rotations
        .first()
        .map(|rotation| (rotation.done_count, rotation.total_count))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_repeatedly_ends_with_all_records_under_the_new_key() {
    let files = Arc::new(Files::new());
    let root_key = files.0.path().join("root.key");
    vault_service::crypto::root_key_file::write_new(&root_key).unwrap();
    let mut vault = Vault::start(&files, &[&root_key]);
    fill(&vault).await;
    let rotate = RotateWorkspaceKeyRequest {
        workspace: "w".to_owned(),
    };
    let mut keys = KeyServiceClient::new(vault.channel(ADMIN).await);
    let new = keys
        .rotate_workspace_key(rotate)
        .await
        .unwrap()
        .into_inner()
        .key_id;
    let (mut kills, mut reached) = (0, 0);
    loop {
        match progress(&mut keys).await {
            None => break,
            Some((done, total)) => {
                assert_eq!(total, SECRETS as u64);
                assert!(done >= reached, "it began anew: {done} after {reached}");
                if done > reached + 300 && done < total {
                    vault.kill();
                    (kills, reached) = (kills + 1, done);
                    vault = Vault::start(&files, &[&root_key]);
                    all_decrypt(&vault).await;
                    keys = KeyServiceClient::new(vault.channel(ADMIN).await);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(kills > 0, "it was over before it could be killed");
    all_decrypt(&vault).await;
    let request = ListWorkspaceKeysRequest {
        workspace: "w".to_owned(),
    };
    let left = keys.list_workspace_keys(request).await.unwrap().into_inner().keys;
    assert_eq!(left.len(), 1);
    assert_eq!((&left[0].id, left[0].record_count), (&new, SECRETS as u64));
}
