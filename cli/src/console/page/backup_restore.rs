//! Restores a backup that the browser uploads. The file goes to the vault while it arrives.

use std::sync::Arc;

use axum::response::Response;
use proto::vault::v1::RestoreBackupRequest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{backup, frame::see_other};
use crate::{
    backup::{CHUNK, restore as restore_backup},
    console::{
        app::SharedApp,
        sign_in::Session,
        upload::{Part, Parts, Upload, UploadFault},
        view::{FormError, Notice, count},
    },
    failure::{Failure, FailureKind},
    model::RestoredBackup,
};

/// Number of chunks that wait for a slow vault.
const UNREAD: usize = 2;
/// Number of bytes that are read and thrown away after the vault has refused a backup. A browser shows the answer only when it
/// could send the file to its end.
const MAX_DISCARDED: u64 = 16 * 1024 * 1024 * 1024;

pub(in crate::console) async fn restore(Upload { visit, mut parts }: Upload) -> Response {
    let file = match parts.next().await {
        Ok(Some(field)) if field.name() == "file" => field,
        Ok(_) => return backup::page(&visit, Some(no_file())).await,
        Err(fault) => return fault.page(),
    };
    let (chunks, stream) = mpsc::channel(UNREAD);
    let answered = CancellationToken::new();
    let task = tokio::spawn(restore_and_notify(
        visit.app.clone(),
        visit.session.clone(),
        stream,
        answered.clone(),
    ));
    let sent = send(file, chunks, &answered, &visit.session.ended).await;
    let restored = task.await.unwrap_or_else(|_| {
        let message = "the restore was broken off: whether the backup was restored is not known";
        Err(Failure::new(FailureKind::Unavailable, message).hint("look at the list of the workspaces"))
    });
    if sent.is_ok() {
        discard_rest(&mut parts).await;
    }
    match (restored, sent) {
        // The vault has restored the backup, even when the end of the form did not arrive.
        (Ok(()), _) => see_other("/"),
        // Nobody knows whether the vault has restored the backup.
        (Err(failure), _) if failure.kind == FailureKind::Unavailable => {
            backup::page(&visit, Some(failure.into())).await
        }
        (Err(_), Err(fault)) => fault.page(),
        (Err(_), Ok(0)) => backup::page(&visit, Some(no_file())).await,
        (Err(failure), Ok(_)) => backup::page(&visit, Some(failure.into())).await,
    }
}

/// Restores the backup, and tells the session. The restore goes on when the browser goes away after the last byte, and then a
/// later page shows the notice.
async fn restore_and_notify(
    app: SharedApp,
    session: Arc<Session>,
    chunks: mpsc::Receiver<RestoreBackupRequest>,
    answered: CancellationToken,
) -> Result<(), Failure> {
    let restored = restore_backup(&app.services.vault, ReceiverStream::new(chunks)).await;
    answered.cancel();
    let notices = describe(&restored?);
    notices.into_iter().for_each(|notice| session.notify(notice));
    Ok(())
}

fn no_file() -> FormError {
    FormError::at("file", "choose the file of the backup")
}

/// Sends a file to the vault, and returns its size. Once the vault has answered, the rest of the file is thrown away.
///
/// After an error the vault sees a backup that ends too early, which it refuses.
async fn send(
    mut file: Part,
    chunks: mpsc::Sender<RestoreBackupRequest>,
    answered: &CancellationToken,
    session_ended: &CancellationToken,
) -> Result<u64, UploadFault> {
    let mut sent = 0;
    while let Some(bytes) = session_ended
        .run_until_cancelled(file.next_chunk())
        .await
        .unwrap_or(Err(UploadFault::SessionEnded))?
    {
        sent += bytes.len() as u64;
        if sent > MAX_DISCARDED && answered.is_cancelled() {
            break;
        }
        for part in bytes.chunks(CHUNK) {
            let chunk = part.to_vec();
            // The vault's answer ends the waiting, and then the chunks have no reader.
            let request = chunks.send(RestoreBackupRequest { chunk });
            answered.run_until_cancelled(request).await;
        }
    }
    Ok(sent)
}

async fn discard_rest(parts: &mut Parts) {
    /// Size of the end of a form after its file.
    const END: u64 = 64 * 1024;
    parts.discard(END).await;
}

/// Says what was restored.
fn describe(restored: &RestoredBackup) -> Vec<Notice> {
    let RestoredBackup {
        vault_uid,
        replaced_vault_uid: _,
        backup_time,
        workspaces,
        secrets,
        versions,
        deleted_secrets,
    } = restored;
    let number = |count: &u64| usize::try_from(*count).unwrap_or(usize::MAX);
    let mut notices = vec![Notice::done(format!(
        "The backup of {backup_time} was restored: {}, {} in {}. The vault has the uid `{vault_uid}` of the vault that was \
         backed up.",
        count(number(workspaces), "workspace"),
        count(number(secrets), "secret"),
        count(number(versions), "version"),
    ))];
    if *deleted_secrets > 0 {
        notices.push(Notice::done(format!(
            "The version numbers of {} are not used again.",
            count(number(deleted_secrets), "deleted secret")
        )));
    }
    notices
}
