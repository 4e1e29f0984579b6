//! Tests of a root key that a Kubernetes KMS v2 plugin encrypts. The plugin is a fake with the public API.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use aes_gcm::{Aes256Gcm, KeyInit as _, aead::Aead as _};
use proto::vault::v1::{KeyState, RootKeyProvider, RotateWorkspaceKeyRequest};
use tempfile::TempDir;
use tokio::{net::UnixListener, task::JoinHandle, time::sleep};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, transport::Server};
use vault_service::{
    config::{RootArgs, StoreArgs},
    offline,
    root::kms::api::{
        DecryptRequest as KmsDecryptRequest, DecryptResponse as KmsDecryptResponse, EncryptRequest,
        EncryptResponse, StatusRequest, StatusResponse,
        key_management_service_server::{KeyManagementService, KeyManagementServiceServer},
    },
    vault::VaultError,
};

use super::{
    keys::{rotate_root, rotated, status},
    *,
};

/// Domain name of the annotation that the plugin requires together with a ciphertext.
const ANNOTATION: &str = "nonce.plugin.test";

/// A fake KMS that encrypts with the newest of its keys and decrypts with all of them.
#[derive(Clone, Default)]
struct Plugin(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    keys: Vec<[u8; 32]>,
    delay: Duration,
    unhealthy: bool,
    wrong_plaintext: bool,
    asked: HashMap<&'static str, usize>,
}

impl Plugin {
    fn new() -> Self {
        let plugin = Self::default();
        plugin.rotate();
        plugin
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    /// Adds a key, which encrypts from then on.
    fn rotate(&self) {
        self.set(|state| {
            let number = u8::try_from(state.keys.len()).unwrap();
            state.keys.push([number + 1; 32]);
        });
    }

    fn key_id(&self) -> String {
        format!("key-{}", self.0.lock().unwrap().keys.len())
    }

    fn asked(&self, what: &str) -> usize {
        self.0.lock().unwrap().asked.get(what).copied().unwrap_or(0)
    }

    fn cipher(&self, key_id: &str) -> Result<Aes256Gcm, Status> {
        let state = self.0.lock().unwrap();
        let number: Option<usize> = key_id.strip_prefix("key-").and_then(|n| n.parse().ok());
        let key = number.and_then(|number| state.keys.get(number.checked_sub(1)?));
        let key = key.ok_or_else(|| Status::not_found("no such key"))?;
        Ok(Aes256Gcm::new(key.into()))
    }

    async fn called(&self, what: &'static str) {
        let delay = {
            let mut state = self.0.lock().unwrap();
            *state.asked.entry(what).or_default() += 1;
            state.delay
        };
        sleep(delay).await;
    }

    /// Listens on the socket of `dir` until the returned task is aborted.
    fn serve(&self, dir: &TempDir) -> JoinHandle<()> {
        let path = socket(dir);
        drop(fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        let server = Server::builder().add_service(KeyManagementServiceServer::new(self.clone()));
        tokio::spawn(async move {
            server
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        })
    }
}

#[tonic::async_trait]
impl KeyManagementService for Plugin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.called("status").await;
        let healthz = match self.0.lock().unwrap().unhealthy {
            true => "the KMS is far away",
            false => "ok",
        };
        Ok(Response::new(StatusResponse {
            version: "v2".to_owned(),
            healthz: healthz.to_owned(),
            key_id: self.key_id(),
        }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        self.called("encrypt").await;
        let key_id = self.key_id();
        let nonce = u128::try_from(self.asked("encrypt")).unwrap().to_be_bytes()[4..].to_vec();
        let plaintext = request.into_inner().plaintext;
        assert_eq!(plaintext.len(), 32);
        let iv: [u8; 12] = nonce.as_slice().try_into().unwrap();
        let ciphertext = self.cipher(&key_id)?.encrypt(&iv.into(), plaintext.as_slice());
        Ok(Response::new(EncryptResponse {
            ciphertext: ciphertext.unwrap(),
            key_id,
            annotations: [(ANNOTATION.to_owned(), nonce)].into(),
        }))
    }

    async fn decrypt(
        &self,
        request: Request<KmsDecryptRequest>,
    ) -> Result<Response<KmsDecryptResponse>, Status> {
        self.called("decrypt").await;
        let KmsDecryptRequest {
            ciphertext,
            uid,
            key_id,
            annotations,
        } = request.into_inner();
        assert!(!uid.is_empty());
        if self.0.lock().unwrap().wrong_plaintext {
            let plaintext = (0..32).collect();
            return Ok(Response::new(KmsDecryptResponse { plaintext }));
        }
        let iv: [u8; 12] = annotations[ANNOTATION].as_slice().try_into().unwrap();
        let opened = self.cipher(&key_id)?.decrypt(&iv.into(), ciphertext.as_slice());
        let plaintext = opened.map_err(|_| Status::invalid_argument("not mine"))?;
        Ok(Response::new(KmsDecryptResponse { plaintext }))
    }
}

fn socket(dir: &TempDir) -> PathBuf {
    dir.path().join("kms.sock")
}

/// Starts a vault whose root key is encrypted by the plugin on the socket of `dir`.
async fn open(pki: &Arc<Pki>, dir: &Arc<TempDir>) -> Vault {
    let kms = socket(dir);
    Vault::open(pki.clone(), dir.clone(), |settings| {
        settings.root.root_key_file.clear();
        settings.root.root_kms_socket = Some(kms);
    })
    .await
}

fn place() -> (Arc<Pki>, Arc<TempDir>) {
    (Pki::new(), Arc::new(TempDir::new().unwrap()))
}

async fn ready(vault: &Vault) -> (u16, String) {
    let answer = e2e::pair::get(&format!("http://{}/readyz", vault.metrics)).await;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    (answer.status().as_u16(), text)
}

async fn unlocked(vault: &Vault) {
    eventually("it unseals", async || ready(vault).await.0 == 200).await;
}

async fn health(vault: &Vault, service: &str) -> ServingStatus {
    let mut health = HealthClient::new(vault.channel(pki::ADMIN));
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    health.check(request).await.unwrap().into_inner().status()
}

async fn is_locked(vault: &Vault) {
    let (code, text) = ready(vault).await;
    assert_eq!(code, 503, "{text}");
    assert!(text.contains("locked"), "{text}");
    for service in ["", "vault.v1.DecryptService"] {
        assert_eq!(health(vault, service).await, ServingStatus::NotServing);
    }
    assert!(status(vault).await.sealed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_is_locked_until_its_kms_answers_and_then_unlocks_by_itself() {
    let (pki, dir) = place();
    let vault = open(&pki, &dir).await;
    is_locked(&vault).await;
    let made = vault.workspaces().create_workspace(create("w", Plan::Free)).await;
    refused(made, Code::FailedPrecondition, "SEALED");
    // Calls that need no key succeed.
    let none = ListWorkspacesRequest::default();
    assert!(vault.workspaces().list_workspaces(none).await.is_ok());

    let plugin = Plugin::new();
    let served = plugin.serve(&dir);
    unlocked(&vault).await;
    assert_eq!(
        health(&vault, "vault.v1.DecryptService").await,
        ServingStatus::Serving
    );
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let shown = status(&vault).await;
    assert!(!shown.sealed);
    let root = &shown.root_keys[0];
    assert_eq!(
        (root.state(), root.provider()),
        (KeyState::Active, RootKeyProvider::Kms)
    );
    assert_eq!((root.kms_key_id.as_str(), root.workspace_count), ("key-1", 1));

    // A later outage of the KMS does not affect the unlocked vault.
    served.abort();
    drop(served.await);
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"v");
    vault.workspace("v").await;
    vault.stop().await;

    let vault = open(&pki, &dir).await;
    is_locked(&vault).await;
    let sealed = "SEALED";
    refused(
        decrypt(&vault, ask("w", ["NAME"])).await,
        Code::FailedPrecondition,
        sealed,
    );
    refused(
        decrypt(&vault, ask("w", ["GONE"])).await,
        Code::FailedPrecondition,
        sealed,
    );
    let late = try_put(&vault, named("w", "OTHER")).await;
    refused(late, Code::FailedPrecondition, sealed);
    let rotate = RotateWorkspaceKeyRequest {
        workspace: "w".to_owned(),
    };
    let late = vault.keys().rotate_workspace_key(rotate).await;
    refused(late, Code::FailedPrecondition, sealed);
    refused(rotate_root(&vault).await, Code::FailedPrecondition, sealed);
    let backup = backups::export(&vault).await;
    refused(backup, Code::FailedPrecondition, sealed);
    refused(
        backups::restore(&vault, b"x").await,
        Code::FailedPrecondition,
        sealed,
    );
    assert_eq!(list(&vault, "w", 0, "").await.unwrap().secrets.len(), 1);
    let _served = plugin.serve(&dir);
    unlocked(&vault).await;
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"v");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vault_waits_for_a_slow_plugin() {
    let (pki, dir) = place();
    let plugin = Plugin::new();
    plugin.set(|state| state.delay = Duration::from_millis(700));
    let _served = plugin.serve(&dir);
    let vault = open(&pki, &dir).await;
    is_locked(&vault).await;
    unlocked(&vault).await;
    vault.workspace("w").await;
    // A plugin that hangs does not delay the shutdown of the vault.
    plugin.set(|state| state.delay = Duration::from_secs(3600));
    vault.stop().await;
    let vault = open(&pki, &dir).await;
    is_locked(&vault).await;
    timeout(Duration::from_secs(10), vault.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_returns_another_key_leaves_the_vault_locked() {
    let (pki, dir) = place();
    let plugin = Plugin::new();
    plugin.set(|state| state.wrong_plaintext = true);
    let _served = plugin.serve(&dir);
    // The vault does not use a root key that the plugin does not decrypt again.
    let vault = open(&pki, &dir).await;
    eventually("it is asked", async || plugin.asked("decrypt") > 1).await;
    is_locked(&vault).await;
    assert!(status(&vault).await.root_keys.is_empty());
    plugin.set(|state| state.wrong_plaintext = false);
    unlocked(&vault).await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    vault.stop().await;

    plugin.set(|state| state.wrong_plaintext = true);
    let before = plugin.asked("decrypt");
    let vault = open(&pki, &dir).await;
    eventually("it is asked", async || plugin.asked("decrypt") > before + 1).await;
    is_locked(&vault).await;
    plugin.set(|state| state.wrong_plaintext = false);
    unlocked(&vault).await;
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"v");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_key_is_encrypted_again_when_the_kms_rotates_its_key() {
    let (pki, dir) = place();
    let plugin = Plugin::new();
    let _served = plugin.serve(&dir);
    let vault = open(&pki, &dir).await;
    unlocked(&vault).await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let first = status(&vault).await.root_keys.remove(0);
    vault.stop().await;

    plugin.rotate();
    plugin.set(|state| state.unhealthy = true);
    let vault = open(&pki, &dir).await;
    unlocked(&vault).await;
    plugin.set(|state| state.unhealthy = false);
    vault.stop().await;
    let vault = open(&pki, &dir).await;
    eventually("it is encrypted with the new key", async || {
        status(&vault).await.root_keys[0].kms_key_id == "key-2"
    })
    .await;
    let followed = status(&vault).await.root_keys.remove(0);
    assert_eq!(followed.id, first.id, "the root key itself is the same");

    let second = rotate_root(&vault).await.unwrap();
    assert_ne!(second, first.id);
    rotated(&vault).await;
    let shown = status(&vault).await.root_keys;
    assert_eq!(
        (shown.len(), &shown[0].id, shown[0].workspace_count),
        (1, &second, 1)
    );
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"v");
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;
    let vault = open(&pki, &dir).await;
    unlocked(&vault).await;
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"v");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_the_root_key_needs_the_kms_and_changes_nothing_without_it() {
    let (pki, dir) = place();
    let plugin = Plugin::new();
    let served = plugin.serve(&dir);
    let vault = open(&pki, &dir).await;
    unlocked(&vault).await;
    vault.workspace("w").await;
    let before = status(&vault).await.root_keys;
    served.abort();
    drop(served.await);
    let late = rotate_root(&vault).await;
    let status_ = refused(late, Code::Unavailable, "ROOT_KEY_PROVIDER_UNAVAILABLE");
    assert!(!status_.message().contains("kms.sock"), "{status_:?}");
    assert_eq!(status(&vault).await.root_keys, before);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_replaces_a_root_key_from_a_file() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;
    let plugin = Plugin::new();
    let _served = plugin.serve(&dir);
    let kms = socket(&dir);
    let vault = Vault::open(pki.clone(), dir.clone(), |settings| {
        settings.root.root_kms_socket = Some(kms);
        settings.root.root_active = Some(vault_service::root::ProviderKind::Kms);
    })
    .await;
    unlocked(&vault).await;
    rotated(&vault).await;
    vault.stop().await;
    let vault = open(&pki, &dir).await;
    unlocked(&vault).await;
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"v");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_only_by_a_vault_with_the_same_kms() {
    let (pki, dir) = place();
    let plugin = Plugin::new();
    let _served = plugin.serve(&dir);
    let vault = open(&pki, &dir).await;
    unlocked(&vault).await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let backup = backups::export(&vault).await.unwrap();
    let root = status(&vault).await.root_keys.remove(0);
    // The KMS has a newer key when the backup is restored.
    plugin.rotate();

    let elsewhere = Arc::new(TempDir::new().unwrap());
    let served = plugin.serve(&elsewhere);
    let other = open(&pki, &elsewhere).await;
    unlocked(&other).await;
    let before = status(&other).await.root_keys;
    assert_ne!(before[0].id, root.id);
    // The vault has its own root key, and its KMS cannot decrypt that of the backup.
    served.abort();
    drop(served.await);
    let late = backups::restore(&other, &backup).await;
    refused(late, Code::Unavailable, "ROOT_KEY_PROVIDER_UNAVAILABLE");
    let stranger = Plugin::new();
    stranger.set(|state| state.keys = vec![[99; 32]]);
    let served = stranger.serve(&elsewhere);
    let wrong = backups::restore(&other, &backup).await;
    refused(wrong, Code::Unavailable, "ROOT_KEY_PROVIDER_UNAVAILABLE");
    assert_eq!(status(&other).await.root_keys, before);
    assert!(backups::workspaces(&other).await.is_empty());
    served.abort();
    drop(served.await);

    let _served = plugin.serve(&elsewhere);
    backups::restore(&other, &backup).await.unwrap();
    assert_eq!(decrypt_one(&other, "w", "NAME").await.value, b"v");
    let restored = status(&other).await.root_keys;
    assert_eq!((restored.len(), &restored[0].id), (1, &before[0].id));
    other.stop().await;
    let other = open(&pki, &elsewhere).await;
    unlocked(&other).await;
    assert_eq!(decrypt_one(&other, "w", "NAME").await.value, b"v");
    for vault in [vault, other] {
        vault.stop().await;
    }
}

/// Returns the settings of the store in `dir`, for commands that work without a running vault.
fn store(dir: &TempDir) -> StoreArgs {
    StoreArgs {
        data_dir: dir.path().join("vault"),
        root: RootArgs {
            root_key_file: Vec::new(),
            root_passphrase_file: None,
            root_kms_socket: Some(socket(dir)),
            root_active: None,
        },
    }
}

/// Runs a command on a thread of its own, because the command makes a runtime.
async fn done(
    command: fn(&StoreArgs, &Path) -> Result<String, offline::CommandError>,
    dir: &TempDir,
    file: &Path,
) -> Result<String, offline::CommandError> {
    let (store, file) = (store(dir), file.to_owned());
    let working = tokio::task::spawn_blocking(move || command(&store, &file));
    working.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_backup_and_restore_work_while_the_kms_answers() {
    let (pki, dir) = place();
    let plugin = Plugin::new();
    let served = plugin.serve(&dir);
    let vault = open(&pki, &dir).await;
    unlocked(&vault).await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    vault.stop().await;
    let backup = dir.path().join("backup");
    done(offline::back_up, &dir, &backup).await.unwrap();

    served.abort();
    drop(served.await);
    let second = dir.path().join("second");
    let late = done(offline::back_up, &dir, &second).await;
    assert!(matches!(late, Err(offline::CommandError::Locked(_))), "{late:?}");
    assert!(!second.exists());
    let elsewhere = Arc::new(TempDir::new().unwrap());
    let late = done(offline::restore, &elsewhere, &backup).await;
    assert!(
        matches!(late, Err(offline::CommandError::Refused(VaultError::Provider(_)))),
        "{late:?}"
    );
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);

    let _served = plugin.serve(&elsewhere);
    let told = done(offline::restore, &elsewhere, &backup).await.unwrap();
    assert!(told.contains("secrets: 1, in 1 versions"), "{told}");
    let vault = open(&pki, &elsewhere).await;
    unlocked(&vault).await;
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"v");
    vault.stop().await;
}
