//! Tests of the backup RPCs.

use proto::vault::v1::{
    ExportBackupRequest, RestoreBackupRequest, RestoreBackupResponse,
    backup_service_client::BackupServiceClient,
};
use tonic::transport::Channel;

use super::*;

fn backups(vault: &Vault) -> BackupServiceClient<Channel> {
    BackupServiceClient::new(vault.channel(pki::ADMIN))
}

pub(crate) async fn export(vault: &Vault) -> Result<Vec<u8>, Status> {
    let answer = backups(vault).export_backup(ExportBackupRequest {}).await?;
    let mut chunks = answer.into_inner();
    let mut backup = Vec::new();
    while let Some(message) = chunks.message().await? {
        assert!(message.chunk.len() <= 300 * 1024);
        backup.extend(message.chunk);
    }
    Ok(backup)
}

pub(crate) async fn restore(vault: &Vault, backup: &[u8]) -> Result<RestoreBackupResponse, Status> {
    let chunks: Vec<_> = backup
        .chunks(100_000)
        .map(|chunk| RestoreBackupRequest {
            chunk: chunk.to_vec(),
        })
        .collect();
    let answer = backups(vault).restore_backup(tokio_stream::iter(chunks)).await?;
    Ok(answer.into_inner())
}

/// Starts another vault with the root key of `vault`.
async fn elsewhere(vault: &Vault) -> Vault {
    let dir = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    fs::copy(vault.dir.path().join("root.key"), dir.path().join("root.key")).unwrap();
    Vault::open(vault.pki.clone(), dir, |_| {}).await
}

pub(crate) async fn workspaces(vault: &Vault) -> Vec<Workspace> {
    let answer = vault
        .workspaces()
        .list_workspaces(ListWorkspacesRequest::default())
        .await;
    answer.unwrap().into_inner().workspaces
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_by_another_vault_which_continues_the_work() {
    let vault = Vault::start().await;
    let workspace = vault.workspace("w").await;
    vault
        .put_for("w", "BOUND", "bound", &["https://api.github.com"])
        .await;
    for value in ["1", "2"] {
        vault.put("w", "NAME", value).await;
    }
    vault.put("w", "DELETED", "1").await;
    vault.delete("w", "DELETED").await;
    let asked = DecryptRequest {
        workspace_uid: workspace.uid.clone(),
        ..ask("w", ["NAME", "BOUND", "DELETED"])
    };
    let before = (
        list(&vault, "w", 0, "").await.unwrap(),
        decrypt(&vault, asked.clone()).await.unwrap(),
    );
    let backup = export(&vault).await.unwrap();
    // Changes after the backup are not in it.
    vault.put("w", "LATER", "v").await;
    vault.put("w", "NAME", "3").await;

    let other = elsewhere(&vault).await;
    let restored = restore(&other, &backup).await.unwrap();
    assert_eq!(
        (
            restored.workspaces,
            restored.secrets,
            restored.versions,
            restored.deleted_secrets
        ),
        (1, 2, 3, 1)
    );
    assert_ne!(restored.vault_uid, restored.replaced_vault_uid);
    let after = (
        list(&other, "w", 0, "").await.unwrap(),
        decrypt(&other, asked).await.unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(workspaces(&other).await[0].uid, workspace.uid);
    assert_eq!(other.put("w", "DELETED", "2").await.version, 2);
    assert_eq!(other.put("w", "NAME", "other").await.version, 3);
    // A backup of the restored vault has the uid of the original vault.
    let third = elsewhere(&vault).await;
    let again = restore(&third, &export(&other).await.unwrap()).await.unwrap();
    assert_eq!(again.vault_uid, restored.vault_uid);
    for vault in [vault, other, third] {
        vault.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_restore_is_refused_with_a_reason_and_changes_nothing() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", vec![b'x'; LARGEST]).await;
    vault.put("w", "OTHER", vec![b'y'; LARGEST]).await;
    let backup = export(&vault).await.unwrap();
    refused(
        restore(&vault, &backup).await,
        Code::FailedPrecondition,
        "VAULT_NOT_EMPTY",
    );
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, [b'x'; LARGEST]);

    let stranger = Vault::start().await;
    refused(
        restore(&stranger, &backup).await,
        Code::FailedPrecondition,
        "KEY_NOT_LOADED",
    );
    assert!(workspaces(&stranger).await.is_empty());

    let other = elsewhere(&vault).await;
    let mut flipped = backup.clone();
    flipped[100_000] ^= 1;
    for damaged in [&flipped[..], &backup[..backup.len() - 1], &backup[..100], &[]] {
        refused(restore(&other, damaged).await, Code::DataLoss, "BACKUP_DAMAGED");
    }
    refused(
        restore(&other, &[0; 5000]).await,
        Code::InvalidArgument,
        "REQUEST_MALFORMED",
    );
    assert!(workspaces(&other).await.is_empty());
    restore(&other, &backup).await.unwrap();
    assert_eq!(decrypt_one(&other, "w", "OTHER").await.value, [b'y'; LARGEST]);
    for vault in [vault, stranger, other] {
        vault.stop().await;
    }
}

/// Fills the vault, so that its backup does not fit into the buffers between vault and client.
async fn large(vault: &Vault) {
    vault.workspace("w").await;
    let puts = (0..300).map(|number| async move {
        let name = format!("N{number}");
        vault.put("w", &name, vec![b'x'; LARGEST]).await;
    });
    stream::iter(puts).buffer_unordered(64).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_client_stops_reading_is_given_up_and_only_one_runs_at_a_time() {
    let vault = Vault::start().await;
    large(&vault).await;
    let mut taken = backups(&vault)
        .export_backup(ExportBackupRequest {})
        .await
        .unwrap()
        .into_inner();
    taken.message().await.unwrap().unwrap();
    refused(export(&vault).await, Code::Aborted, "BACKUP_UNDER_WAY");
    refused(restore(&vault, b"").await, Code::Aborted, "BACKUP_UNDER_WAY");
    // The client drops the stream.
    vault.put("w", "N0", "replaced").await;
    drop(taken);
    eventually("it is given up", async || export(&vault).await.is_ok()).await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_a_backup_with_an_error() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.process.shutdown_grace = "15s".to_owned()
    })
    .await;
    large(&vault).await;
    let mut taken = backups(&vault)
        .export_backup(ExportBackupRequest {})
        .await
        .unwrap()
        .into_inner();
    taken.message().await.unwrap().unwrap();
    let stopped = tokio::spawn(vault.stop());
    let ended = loop {
        match taken.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended as if it were whole"),
            Err(status) => break status,
        }
    };
    refused(Err::<(), _>(ended), Code::Unavailable, "SHUTTING_DOWN");
    timeout(Duration::from_secs(10), stopped)
        .await
        .expect("it did not stop")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_client_disconnects_changes_nothing() {
    let vault = Vault::start().await;
    large(&vault).await;
    let backup = export(&vault).await.unwrap();
    let other = elsewhere(&vault).await;
    let (half, _) = backup.split_at(backup.len() / 2);
    let (chunks, messages) = mpsc::channel(1);
    let mut client = backups(&other);
    let call = tokio::spawn(async move { client.restore_backup(ReceiverStream::new(messages)).await });
    for chunk in half.chunks(100_000) {
        let chunk = chunk.to_vec();
        chunks.send(RestoreBackupRequest { chunk }).await.unwrap();
    }
    refused(restore(&other, &backup).await, Code::Aborted, "BACKUP_UNDER_WAY");
    // The vault works normally after the interrupted restore.
    assert!(workspaces(&other).await.is_empty());
    call.abort();
    drop(chunks);
    eventually("it is given up", async || restore(&other, &backup).await.is_ok()).await;
    assert_eq!(workspaces(&other).await[0].secret_count, 300);
    for vault in [vault, other] {
        vault.stop().await;
    }
}
