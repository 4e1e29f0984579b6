//! Tests of the status of keys, and of rotations while the vault serves.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use proto::vault::v1::{
    DeleteSecretRequest, GetKeyStatusRequest, GetKeyStatusResponse, KeyState, ListWorkspaceKeysRequest,
    RootKeyProvider, RotateRootKeyRequest, RotateWorkspaceKeyRequest, WorkspaceKey,
    key_service_client::KeyServiceClient,
};
use tokio::task::JoinSet;

use super::*;

pub(super) async fn status(vault: &Vault) -> GetKeyStatusResponse {
    let answer = vault.keys().get_key_status(GetKeyStatusRequest {}).await;
    answer.unwrap().into_inner()
}

async fn keys_of(vault: &Vault, workspace: &str) -> Vec<WorkspaceKey> {
    let request = ListWorkspaceKeysRequest {
        workspace: workspace.to_owned(),
    };
    let answer = vault.keys().list_workspace_keys(request).await;
    answer.unwrap().into_inner().keys
}

async fn rotate(vault: &Vault, workspace: &str) -> Result<String, Status> {
    let request = RotateWorkspaceKeyRequest {
        workspace: workspace.to_owned(),
    };
    let answer = vault.keys().rotate_workspace_key(request).await;
    answer.map(|answer| answer.into_inner().key_id)
}

pub(super) async fn rotate_root(vault: &Vault) -> Result<String, Status> {
    let answer = vault.keys().rotate_root_key(RotateRootKeyRequest {}).await;
    answer.map(|answer| answer.into_inner().key_id)
}

pub(super) async fn rotated(vault: &Vault) {
    eventually("the rotations end", async || {
        status(vault).await.rotations.is_empty()
    })
    .await;
}

async fn metrics(vault: &Vault) -> String {
    let page = e2e::pair::get(&format!("http://{}/metrics", vault.metrics)).await;
    String::from_utf8(page.into_body().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_and_the_metrics_show_a_rotation_from_beginning_to_end() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.workspace("other").await;
    put_many(&vault, "w", 20).await;
    let before = status(&vault).await;
    assert!(!before.sealed && before.rotations.is_empty());
    assert_eq!(before.root_keys.len(), 1);
    let root = &before.root_keys[0];
    assert_eq!(
        (root.state(), root.provider()),
        (KeyState::Active, RootKeyProvider::File)
    );
    assert_eq!((root.workspace_count, root.id.len()), (2, 32));
    let old = keys_of(&vault, "w").await;
    assert_eq!(old.len(), 1);
    assert_eq!((old[0].state(), old[0].record_count), (KeyState::Active, 20));

    let new = rotate(&vault, "w").await.unwrap();
    assert_ne!(new, old[0].id);
    rotated(&vault).await;
    let keys = keys_of(&vault, "w").await;
    assert_eq!((keys.len(), &keys[0].id, keys[0].record_count), (1, &new, 20));
    assert!(keys[0].create_time.unwrap().as_nanos() > old[0].create_time.unwrap().as_nanos());
    assert_ne!(keys_of(&vault, "other").await[0].id, new);
    assert_eq!(decrypt_one(&vault, "w", "S0007").await.value, b"value");
    eventually("the metrics say so", async || {
        let page = metrics(&vault).await;
        page.contains("aerostack_vault_rewrapped_total{level=\"record\"} 20\n")
            && page.contains("aerostack_vault_rotations 0\n")
            && page.contains("aerostack_vault_sealed 0\n")
    })
    .await;
    refused(
        rotate(&vault, "gone").await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    refused(
        rotate(&vault, "NOT-A-LABEL").await,
        Code::InvalidArgument,
        "WORKSPACE_NAME_INVALID",
    );
    refused(
        rotate_root(&vault).await,
        Code::FailedPrecondition,
        "ROOT_KEY_FROM_FILE",
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_deleted_data_until_they_are_erased() {
    let vault = Vault::start_with(Pki::new(), |settings| settings.erase_after = "1s".to_owned()).await;
    vault.workspace("w").await;
    vault.put("w", "LIVE", "live").await;
    vault.put("w", "GONE", "gone").await;
    let none = status(&vault).await.pending_erasure.unwrap();
    assert_eq!((none.workspace_count, none.oldest_delete_time), (0, None));
    let before = keys_of(&vault, "w").await;
    let delete = DeleteSecretRequest {
        workspace: "w".to_owned(),
        name: "GONE".to_owned(),
        ..Default::default()
    };
    vault.secrets().delete_secret(delete).await.unwrap();
    let pending = status(&vault).await.pending_erasure.unwrap();
    assert!(
        pending.workspace_count == 1 && pending.oldest_delete_time.is_some(),
        "{pending:?}"
    );
    eventually("it is erased", async || {
        status(&vault).await.pending_erasure.unwrap().workspace_count == 0
    })
    .await;
    assert_ne!(keys_of(&vault, "w").await[0].id, before[0].id);
    assert_eq!(decrypt_one(&vault, "w", "LIVE").await.value, b"live");
    eventually("the metrics say so", async || {
        let page = metrics(&vault).await;
        page.contains("aerostack_vault_unerased_workspaces 0\n")
            && page.contains("aerostack_vault_unerased_since_seconds 0\n")
    })
    .await;
    vault.stop().await;
}

#[test]
fn the_time_until_an_erasure_is_at_least_a_second() {
    let (pki, dir) = (Pki::new(), tempfile::TempDir::new().unwrap());
    let report = |after: &str| {
        let mut settings = e2e::pair::vault_settings(&pki, &dir);
        settings.erase_after = after.to_owned();
        settings.check().err().map(|problems| problems.to_string())
    };
    assert_eq!(report("1s"), None);
    for wrong in ["0s", "999ms", "soon", ""] {
        let said = report(wrong).unwrap();
        assert!(said.contains("--erase-after"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_decrypt_and_no_put_fails_while_keys_are_rotated() {
    const SECRETS: usize = 300;
    let vault = Arc::new(Vault::start().await);
    vault.workspace("w").await;
    assert_eq!(put_many(&vault, "w", SECRETS).await.0, SECRETS);
    let (over, decrypted, rewritten) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut load = JoinSet::new();
    for reader in 0..4 {
        let (vault, over, decrypted) = (vault.clone(), over.clone(), decrypted.clone());
        load.spawn(async move {
            let mut client = vault.decrypts();
            for number in (0..).map(|number| number * 7 + reader) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let names = (0..8).map(|next| format!("S{:04}", (number + next) % SECRETS));
                let answer = client.decrypt(ask("w", names)).await.unwrap().into_inner();
                for secret in &answer.secrets {
                    assert_eq!(secret.status(), DecryptStatus::Ok, "{}", secret.name);
                    assert!(secret.value.starts_with(b"value"));
                }
                decrypted.fetch_add(answer.secrets.len(), Ordering::Relaxed);
            }
        });
    }
    {
        let (vault, over, rewritten) = (vault.clone(), over.clone(), rewritten.clone());
        load.spawn(async move {
            let mut client = vault.secrets();
            for number in (0..SECRETS).cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let value = format!("value {number}");
                let put = put("w", &format!("S{number:04}"), value);
                client.put_secret(put).await.unwrap();
                rewritten.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut last = String::new();
    for _ in 0..5 {
        last = rotate(&vault, "w").await.unwrap();
        rotated(&vault).await;
    }
    over.store(true, Ordering::Relaxed);
    load.join_all().await;
    let (decrypted, rewritten) = (
        decrypted.load(Ordering::Relaxed),
        rewritten.load(Ordering::Relaxed),
    );
    assert!(decrypted > 100 && rewritten > 5, "{decrypted} {rewritten}");
    let keys = keys_of(&vault, "w").await;
    assert_eq!((keys.len(), &keys[0].id), (1, &last));
    // The older versions of the secrets that were put during the rotation count, too.
    let records = usize::try_from(keys[0].record_count).unwrap();
    assert!((SECRETS..=3 * SECRETS).contains(&records), "{records}");
    Arc::into_inner(vault).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_of_all_workspaces_may_call_the_key_service() {
    let some = "spiffe://test/some";
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.admin.push(format!("{some}=w"))
    })
    .await;
    vault.workspace("w").await;
    let mut keys = KeyServiceClient::new(vault.channel(some));
    let workspace = "w".to_owned();
    let denied = ("PERMISSION_DENIED", Code::PermissionDenied);
    refused(
        keys.get_key_status(GetKeyStatusRequest {}).await,
        denied.1,
        denied.0,
    );
    refused(
        keys.rotate_root_key(RotateRootKeyRequest {}).await,
        denied.1,
        denied.0,
    );
    for workspace in ["w", "gone", "NOT-A-LABEL"] {
        let workspace = workspace.to_owned();
        let list = ListWorkspaceKeysRequest {
            workspace: workspace.clone(),
        };
        refused(keys.list_workspace_keys(list).await, denied.1, denied.0);
        let rotate = RotateWorkspaceKeyRequest { workspace };
        refused(keys.rotate_workspace_key(rotate).await, denied.1, denied.0);
    }
    let all = ListWorkspaceKeysRequest { workspace };
    assert!(vault.keys().list_workspace_keys(all).await.is_ok());
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_another_first_root_key_file_rotates_the_root_key() {
    let vault = Vault::start().await;
    for number in 0..80 {
        vault.workspace(&format!("w{number}")).await;
    }
    vault.put("w0", "NAME", "v").await;
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;
    let new = dir.path().join("new.key");
    vault_service::crypto::root_key_file::write_new(&new).unwrap();
    let vault = Vault::open(pki.clone(), dir.clone(), |settings| {
        settings.root.root_key_file.insert(0, new.clone());
    })
    .await;
    vault.workspace("later").await;
    assert_eq!(decrypt_one(&vault, "w0", "NAME").await.value, b"v");
    rotated(&vault).await;
    let roots = status(&vault).await.root_keys;
    let shown: Vec<_> = roots
        .iter()
        .map(|root| (root.state(), root.workspace_count))
        .collect();
    assert_eq!(shown, [(KeyState::Active, 81), (KeyState::Retired, 0)]);
    vault.stop().await;
    let vault = Vault::open(pki, dir, |settings| settings.root.root_key_file = vec![new]).await;
    assert_eq!(decrypt_one(&vault, "w0", "NAME").await.value, b"v");
    vault.stop().await;
}

#[test]
fn root_keys_of_several_kinds_need_the_setting_that_names_the_active_one() {
    let (pki, dir) = (Pki::new(), tempfile::TempDir::new().unwrap());
    let report = |edit: &dyn Fn(&mut vault_service::config::Settings)| {
        let mut settings = e2e::pair::vault_settings(&pki, &dir);
        edit(&mut settings);
        settings.check().err().map(|problems| problems.to_string())
    };
    let socket = || Some(dir.path().join("kms.sock"));
    assert_eq!(report(&|_| {}), None);
    let none = report(&|settings| settings.root.root_key_file.clear()).unwrap();
    assert!(none.contains("--root-key-file: is required"), "{none}");
    let twice = report(&|settings| {
        settings
            .root
            .root_key_file
            .push(settings.root.root_key_file[0].clone())
    })
    .unwrap();
    assert!(twice.contains("hold the same key"), "{twice}");
    let both = report(&|settings| settings.root.root_kms_socket = socket()).unwrap();
    assert!(both.contains("--root-active"), "{both}");
    for kind in [
        vault_service::root::ProviderKind::File,
        vault_service::root::ProviderKind::Kms,
    ] {
        let said = report(&|settings| {
            settings.root.root_kms_socket = socket();
            settings.root.root_active = Some(kind);
        });
        assert_eq!(said, None);
    }
    let absent =
        report(&|settings| settings.root.root_active = Some(vault_service::root::ProviderKind::Kms)).unwrap();
    assert!(absent.contains("--root-active"), "{absent}");
}
