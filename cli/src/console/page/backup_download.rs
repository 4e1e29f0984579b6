//! Makes a backup, and sends it to the browser as a download.

use std::{io, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header};
use hyper::body::Bytes;
use jiff::{Timestamp, tz::TimeZone};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::backup;
use crate::{
    backup::BackupStream,
    console::{guard::Change, session_memory::BackupState, sign_in::Session},
    failure::Failure,
};

/// Number of chunks that wait for a slow browser.
const UNREAD: usize = 2;

/// Answers with the backup while the vault makes it. A backup that the vault refuses is answered with a page. A failure in the
/// middle breaks the connection before the end of the chunked body (RFC 9112, section 8), which browsers report as a failed
/// download.
pub(in crate::console) async fn make(Change { visit, fields: _ }: Change) -> Response {
    let begun = match BackupStream::begin(&visit.app.services.vault).await {
        Ok(mut backup) => backup.next().await.map(|first| (backup, first)),
        Err(failure) => Err(failure),
    };
    let (backup, first) = match begun {
        Ok(begun) => begun,
        Err(failure) => return backup::page(&visit, Some(failure.into())).await,
    };
    let download = Download {
        file_name: Timestamp::now()
            .to_zoned(TimeZone::UTC)
            .strftime("vault-%Y-%m-%dT%H%M%SZ.backup")
            .to_string(),
        session: visit.session,
        bytes: 0,
        hash: Sha256::new(),
    };
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (header::CONTENT_DISPOSITION, download.disposition()),
    ];
    let (chunks, stream) = mpsc::channel(UNREAD);
    tokio::spawn(download.run(backup, first, chunks));
    (headers, Body::from_stream(ReceiverStream::new(stream))).into_response()
}

/// A backup on its way to the browser.
struct Download {
    file_name: String,
    /// Keeps the state of the backup, which the page shows.
    session: Arc<Session>,
    bytes: u64,
    hash: Sha256,
}

impl Download {
    fn disposition(&self) -> HeaderValue {
        let disposition = format!("attachment; filename=\"{}\"", self.file_name);
        HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment"))
    }

    async fn run(
        mut self,
        mut backup: BackupStream,
        first: Option<Vec<u8>>,
        chunks: mpsc::Sender<io::Result<Bytes>>,
    ) {
        let mut next = Ok(first);
        let state = loop {
            match next {
                Ok(Some(chunk)) => {
                    self.count(&chunk);
                    if chunks.send(Ok(chunk.into())).await.is_err() {
                        let why = "the browser gave the download up".to_owned();
                        break BackupState::Failed { why };
                    }
                }
                Ok(None) => break self.complete(),
                Err(failure) => break failed(failure, &chunks).await,
            }
            next = backup.next().await;
        };
        self.session.memory.keep_backup(&self.file_name, state);
    }

    fn count(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.hash.update(chunk);
        let state = BackupState::Running { bytes: self.bytes };
        self.session.memory.keep_backup(&self.file_name, state);
    }

    fn complete(&self) -> BackupState {
        let digest = self.hash.clone().finalize();
        BackupState::Complete {
            bytes: self.bytes,
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// Breaks the body off.
async fn failed(failure: Failure, chunks: &mpsc::Sender<io::Result<Bytes>>) -> BackupState {
    tracing::warn!(error = %failure, "backup broken off");
    drop(
        chunks
            .send(Err(io::Error::other("the backup is not whole")))
            .await,
    );
    BackupState::Failed { why: failure.message }
}
