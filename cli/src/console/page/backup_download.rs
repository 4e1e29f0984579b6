//! Makes a backup, and sends it to the browser as a download.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header};
use hyper::body::Bytes;
use jiff::{Timestamp, tz::TimeZone};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::Stream;

use super::backup;
use crate::{
    backup::BackupStream,
    console::{
        guard::Change,
        session_memory::{BackupState, MadeBackup},
        sign_in::Session,
    },
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
    let stem = Timestamp::now()
        .to_zoned(TimeZone::UTC)
        .strftime("vault-%Y-%m-%dT%H%M%SZ")
        .to_string();
    let MadeBackup {
        number,
        file_name,
        state: _,
    } = visit.session.memory.begin_backup(&stem);
    let mut download = Download {
        number,
        session: visit.session,
        bytes: 0,
        hash: Sha256::new(),
        end: None,
    };
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (header::CONTENT_DISPOSITION, disposition(&file_name)),
    ];
    let (chunks, stream) = mpsc::channel(UNREAD);
    tokio::spawn(async move { download.run(backup, first, chunks).await });
    (headers, Body::from_stream(DownloadBody(stream))).into_response()
}

/// A part of the body of the download.
enum DownloadPart {
    Chunk(Bytes),
    /// The backup is whole.
    End,
}

/// The body of the download. It ends well only after [`DownloadPart::End`]: a task that stopped for any other reason, such as a panic,
/// must not leave a body that looks whole.
struct DownloadBody(mpsc::Receiver<DownloadPart>);

impl Stream for DownloadBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.0.poll_recv(context)) {
            Some(DownloadPart::Chunk(chunk)) => Some(Ok(chunk)),
            Some(DownloadPart::End) => None,
            None => Some(Err(io::Error::other("the backup is not whole"))),
        })
    }
}

const GIVEN_UP: &str = "the browser gave the download up";

/// A backup on its way to the browser.
struct Download {
    /// The number that the session gave the backup.
    number: u64,
    /// Keeps the state of the backup, which the page shows.
    session: Arc<Session>,
    bytes: u64,
    hash: Sha256,
    /// `None` until the backup has ended, well or not.
    end: Option<BackupState>,
}

impl Drop for Download {
    fn drop(&mut self) {
        let broken_off = || BackupState::Failed {
            why: "the console broke it off".to_owned(),
        };
        let state = self.end.take().unwrap_or_else(broken_off);
        self.session.memory.keep_backup(self.number, state);
    }
}

fn disposition(file_name: &str) -> HeaderValue {
    let disposition = format!("attachment; filename=\"{file_name}\"");
    HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment"))
}

impl Download {
    /// Sends the backup to the browser, until the session ends.
    async fn run(&mut self, backup: BackupStream, first: Option<Vec<u8>>, parts: mpsc::Sender<DownloadPart>) {
        let session = self.session.clone();
        let sent = session
            .ended
            .run_until_cancelled(self.send(backup, first, &parts));
        let sent = sent.await.unwrap_or_else(|| Err("the session ended".to_owned()));
        let state = match sent {
            Ok(()) => self.complete(),
            Err(why) => BackupState::Failed { why },
        };
        // The browser loads the page as soon as it has the file, so the state is kept before the body ends.
        self.session.memory.keep_backup(self.number, state.clone());
        let is_complete = matches!(state, BackupState::Complete { .. });
        self.end = Some(state);
        if is_complete && parts.send(DownloadPart::End).await.is_err() {
            let why = GIVEN_UP.to_owned();
            self.end = Some(BackupState::Failed { why });
        }
    }

    /// Sends everything but the end. Returns the reason for which the backup is not whole.
    async fn send(
        &mut self,
        mut backup: BackupStream,
        first: Option<Vec<u8>>,
        parts: &mpsc::Sender<DownloadPart>,
    ) -> Result<(), String> {
        let mut next: Result<_, Failure> = Ok(first);
        loop {
            match next {
                Ok(Some(chunk)) => {
                    self.count(&chunk);
                    let sent = parts.send(DownloadPart::Chunk(chunk.into())).await;
                    sent.map_err(|_| GIVEN_UP.to_owned())?;
                }
                Ok(None) => return Ok(()),
                Err(failure) => {
                    tracing::warn!(error = %failure, "backup broken off");
                    return Err(failure.message);
                }
            }
            next = backup.next().await;
        }
    }

    fn count(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.hash.update(chunk);
        let state = BackupState::Running { bytes: self.bytes };
        self.session.memory.keep_backup(self.number, state);
    }

    fn complete(&self) -> BackupState {
        let digest = self.hash.clone().finalize();
        BackupState::Complete {
            bytes: self.bytes,
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_whose_task_was_aborted_does_not_look_whole() {
        let (parts, stream) = mpsc::channel(UNREAD);
        let task = tokio::spawn(async move {
            parts
                .send(DownloadPart::Chunk(Bytes::from_static(b"x")))
                .await
                .unwrap();
            std::future::pending::<()>().await;
            drop(parts);
        });
        let mut body = Body::from_stream(DownloadBody(stream));
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            b"x".as_slice()
        );
        task.abort();
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_body_ends_well_after_the_end_of_the_backup() {
        let (parts, stream) = mpsc::channel(UNREAD);
        parts
            .send(DownloadPart::Chunk(Bytes::from_static(b"x")))
            .await
            .unwrap();
        parts.send(DownloadPart::End).await.ok().unwrap();
        let body = Body::from_stream(DownloadBody(stream)).collect().await.unwrap();
        assert_eq!(body.to_bytes(), b"x".as_slice());
    }
}
