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
    vault::{Backup, Restored, Writer},
};

/// Chunks that may wait for a slow client before the next one is made.
const UNREAD: usize = 2;

/// How many times as long as it works a backup rests, so that those who call the vault meanwhile hardly notice it.
const REST: u32 = 1;

/// How long a client may neither take nor give a chunk: meanwhile no other backup can be made or restored.
const STALLED: Duration = Duration::from_secs(60);

/// Answers from a [`Writer`].
pub(crate) struct Backups {
    pub(crate) writer: Writer,
    /// Where a backup is received: the disk of the store.
    pub(crate) dir: PathBuf,
    /// Streams end when the service does.
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl BackupService for Backups {
    type ExportBackupStream = ReceiverStream<Result<ExportBackupResponse, Status>>;

    async fn export_backup(
        &self,
        request: Request<ExportBackupRequest>,
    ) -> Result<Response<Self::ExportBackupStream>, Status> {
        let permit = VaultPermit::decide(Authorized::of(&request)?)?;
        let backup = self.writer.back_up(&permit).await.map_err(refusal)?;
        let (chunks, stream) = mpsc::channel(UNREAD);
        tokio::spawn(give(backup, chunks, self.shutdown.clone()));
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
            let next = time::timeout(STALLED, messages.message()).await;
            let next = next.map_err(|_| stalled("the backup does not come; nothing was changed"))?;
            let Some(RestoreBackupRequest { chunk }) = next? else {
                break;
            };
            restore.receive(chunk).await.map_err(refusal)?;
        }
        let restored = restore.finish().await.map_err(refusal)?;
        Ok(Response::new(shown(restored)))
    }
}

/// Makes a backup no faster than it is taken. The stream ends with OK when it is whole, or when nobody listens.
async fn give(
    backup: Backup,
    chunks: mpsc::Sender<Result<ExportBackupResponse, Status>>,
    shutdown: CancellationToken,
) {
    if let Err(refusal) = give_all(backup, &chunks, &shutdown).await {
        // The backup is given up by now, however long this waits.
        drop(chunks.send(Err(refusal.into())).await);
    }
}

async fn give_all(
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
        let taken = time::timeout(STALLED, chunks.send(Ok(ExportBackupResponse { chunk })));
        match shutdown.run_until_cancelled(taken).await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(_))) => return Ok(()),
            Some(Err(_)) => return Err(stalled("the backup is not taken; it was given up")),
            None => {
                let ended = "the vault is shutting down; the backup is not whole";
                return Err(Refusal::new(Reason::ShuttingDown, ended));
            }
        }
    }
    Ok(())
}

fn stalled(message: &str) -> Refusal {
    Refusal::new(Reason::DeadlineExceeded, message)
}

fn shown(restored: Restored) -> RestoreBackupResponse {
    let Restored {
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
