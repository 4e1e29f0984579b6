//! `vault.v1.BackupService`.

use std::{path::PathBuf, time::Duration};

use chassis::authz::Authorized;
use proto::{
    Reason, Refusal,
    vault::v1::{
        ExportBackupRequest, ExportBackupResponse, RestoreBackupRequest, RestoreBackupResponse,
        backup_service_server::BackupService,
    },
};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    authz::VaultPermit,
    status::refusal,
    vault::{Backup, RestoreSummary, Writer},
};

/// Number of chunks that may wait for a slow client before the next one is made.
const UNREAD: usize = 2;

/// Pause after a chunk, as a multiple of the time that the chunk took, so that other calls hardly notice the backup.
const REST: u32 = 1;

/// Time within which a client must take or send the next chunk. The limit exists because no other backup can be made or
/// restored meanwhile.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct BackupRpcs {
    pub(crate) writer: Writer,
    /// Directory for the file of a backup that is being received: on the disk of the store.
    pub(crate) dir: PathBuf,
    /// Ends all streams.
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl BackupService for BackupRpcs {
    type ExportBackupStream = ReceiverStream<Result<ExportBackupResponse, Status>>;

    async fn export_backup(
        &self,
        request: Request<ExportBackupRequest>,
    ) -> Result<Response<Self::ExportBackupStream>, Status> {
        let permit = VaultPermit::decide(Authorized::of(&request)?)?;
        let backup = self.writer.back_up(&permit).await.map_err(refusal)?;
        let (chunks, stream) = mpsc::channel(UNREAD);
        tokio::spawn(send_backup(backup, chunks, self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn restore_backup(
        &self,
        request: Request<Streaming<RestoreBackupRequest>>,
    ) -> Result<Response<RestoreBackupResponse>, Status> {
        let permit = VaultPermit::decide(Authorized::of(&request)?)?;
        let mut restore = self.writer.restore(&permit, &self.dir).await.map_err(refusal)?;
        let mut messages = request.into_inner();
        loop {
            let next = time::timeout(CHUNK_TIMEOUT, messages.message()).await;
            let next = next.map_err(|_| timed_out("the backup does not come; nothing was changed"))?;
            let Some(RestoreBackupRequest { chunk }) = next? else {
                break;
            };
            restore.receive(chunk).await.map_err(refusal)?;
        }
        let restored = restore.finish().await.map_err(refusal)?;
        Ok(Response::new(response(restored)))
    }
}

/// Sends a backup, chunk by chunk. The stream ends with OK after the last chunk.
async fn send_backup(
    backup: Backup,
    chunks: mpsc::Sender<Result<ExportBackupResponse, Status>>,
    shutdown: CancellationToken,
) {
    if let Err(refusal) = send_chunks(backup, &chunks, &shutdown).await {
        // The backup was dropped before, so a client that does not read the refusal holds nothing up.
        drop(chunks.send(Err(refusal.into())).await);
    }
}

async fn send_chunks(
    backup: Backup,
    chunks: &mpsc::Sender<Result<ExportBackupResponse, Status>>,
    shutdown: &CancellationToken,
) -> Result<(), Refusal> {
    let mut rest = Some(backup);
    while let Some(backup) = rest {
        let began = Instant::now();
        let (chunk, more) = backup.part().await.map_err(refusal)?;
        time::sleep(began.elapsed() * REST).await;
        rest = more;
        let taken = time::timeout(CHUNK_TIMEOUT, chunks.send(Ok(ExportBackupResponse { chunk })));
        match shutdown.run_until_cancelled(taken).await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(_))) => return Ok(()),
            Some(Err(_)) => return Err(timed_out("the backup is not taken; it was given up")),
            None => {
                let ended = "the vault is shutting down; the backup is not whole";
                return Err(Refusal::new(Reason::ShuttingDown, ended));
            }
        }
    }
    Ok(())
}

fn timed_out(message: &str) -> Refusal {
    Refusal::new(Reason::DeadlineExceeded, message)
}

fn response(restored: RestoreSummary) -> RestoreBackupResponse {
    let RestoreSummary {
        vault_uid,
        replaced_vault_uid,
        backup_time,
        workspaces,
        secrets,
        versions,
        deleted_secrets,
    } = restored;
    RestoreBackupResponse {
        vault_uid: vault_uid.to_string(),
        replaced_vault_uid: replaced_vault_uid.to_string(),
        backup_time: Some(backup_time),
        workspaces,
        secrets,
        versions,
        deleted_secrets,
    }
}
