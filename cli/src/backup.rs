//! Backups of the whole vault, as the command line and the console make and restore them.

use chassis::service_channel::ServiceChannel;
use proto::vault::v1::{
    ExportBackupRequest, ExportBackupResponse, RestoreBackupRequest,
    backup_service_client::BackupServiceClient,
};
use tokio_stream::Stream;
use tonic::Streaming;

use crate::{connect::Remote, failure::Failure, model::RestoredBackup};

/// Size of a message of a restore, in bytes.
pub(crate) const CHUNK: usize = 128 * 1024;

pub(crate) const KEEP_THE_ROOT_KEY: &str =
    "The backup is useless without the vault's root key: keep a copy of the key in another place";

fn client(vault: &Remote) -> BackupServiceClient<ServiceChannel> {
    BackupServiceClient::new(vault.channel.clone())
}

/// A backup that the vault is making. The backup is complete when [`next`](Self::next) has returned `None`; a part of a backup
/// cannot be restored.
pub(crate) struct BackupStream {
    vault: Remote,
    chunks: Streaming<ExportBackupResponse>,
}

impl BackupStream {
    pub(crate) async fn begin(vault: &Remote) -> Result<Self, Failure> {
        let call = async { client(vault).export_backup(ExportBackupRequest {}).await };
        Ok(Self {
            chunks: vault.answer(call).await?,
            vault: vault.clone(),
        })
    }

    /// Returns the next bytes, and `None` after the last ones.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let message = self.vault.next_message(&mut self.chunks).await?;
        Ok(message.map(|ExportBackupResponse { chunk }| chunk))
    }
}

/// Sends a backup to a vault without workspaces. The vault refuses a backup that ends too early.
pub(crate) async fn restore(
    vault: &Remote,
    chunks: impl Stream<Item = RestoreBackupRequest> + Send + 'static,
) -> Result<RestoredBackup, Failure> {
    match client(vault).restore_backup(chunks).await {
        Ok(answer) => Ok(RestoredBackup::of(answer.into_inner())),
        Err(status) => Err(vault.failure_of(&status).await),
    }
}
