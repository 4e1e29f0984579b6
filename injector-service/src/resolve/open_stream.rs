//! The opening of streams to the vault, and of the next stream when the injector's token was renewed.

use std::{sync::Arc, time::Duration};

use chassis::jwt::ClientToken;
use proto::vault::v1::{
    DecryptStreamRequest, DecryptStreamResponse, decrypt_service_client::DecryptServiceClient,
};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::credentials::{StreamCredentials, VaultCredentials, no_token};

/// Messages that may wait for tonic to send them.
const MAX_UNSENT_MESSAGES: usize = 4;
/// Upper bound for the bytes of one `DecryptStreamResponse`.
const MAX_ANSWER_MESSAGE: usize = 64 << 20;
/// Time limit for opening a stream, which includes connecting.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a stream with a renewed token could not be opened.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);

/// A stream that the vault has accepted.
pub(super) struct OpenStream {
    pub(super) messages: mpsc::Sender<DecryptStreamRequest>,
    pub(super) answers: Streaming<DecryptStreamResponse>,
    pub(super) credentials: StreamCredentials,
}

/// Opens streams over one channel.
#[derive(Clone)]
pub(super) struct StreamOpener {
    channel: Channel,
    credentials: VaultCredentials,
}

impl StreamOpener {
    pub(super) fn new(channel: Channel, credentials: VaultCredentials) -> Self {
        Self { channel, credentials }
    }

    /// Opens a stream with the present credentials.
    pub(super) async fn open(&self) -> Result<OpenStream, Status> {
        let credentials = self.credentials.present().map_err(no_token)?;
        let (messages, outbound) = mpsc::channel(MAX_UNSENT_MESSAGES);
        let client = DecryptServiceClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(MAX_ANSWER_MESSAGE);
        let opening = client.decrypt_stream(credentials.request(ReceiverStream::new(outbound)));
        let opened = time::timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_| Status::deadline_exceeded("the vault opens no stream"))?;
        Ok(OpenStream {
            messages,
            answers: opened?.into_inner(),
            credentials,
        })
    }
}

/// The next stream, which a task opens when the token of the present one was renewed. The present stream serves meanwhile, so
/// that a token that the vault refuses, or not yet accepts, costs no call.
pub(super) struct Renewal(Option<oneshot::Receiver<Box<OpenStream>>>);

impl Renewal {
    /// Begins to wait for another token than `present`. The drop of the `Renewal` ends the wait.
    pub(super) fn begin(opener: &StreamOpener, present: Option<&Arc<ClientToken>>) -> Self {
        Self(present.map(|present| {
            let (mut opened, renewed) = oneshot::channel();
            let (opener, present) = (opener.clone(), present.clone());
            tokio::spawn(async move {
                let stream = tokio::select! {
                    stream = renew(&opener, &present) => stream,
                    () = opened.closed() => return,
                };
                drop(opened.send(Box::new(stream)));
            });
            renewed
        }))
    }

    /// Completes when the next stream is open.
    pub(super) async fn ready(&mut self) -> Box<OpenStream> {
        if let Some(renewed) = &mut self.0
            && let Ok(stream) = renewed.await
        {
            return stream;
        }
        // The certificate is the identity, or the task has ended because the runtime ends.
        self.0 = None;
        std::future::pending().await
    }
}

/// Opens a stream with another token than `present`, and tries again until the vault accepts it.
async fn renew(opener: &StreamOpener, present: &ClientToken) -> OpenStream {
    let Some(file) = opener.credentials.token_file() else {
        return std::future::pending().await;
    };
    let mut refused = None;
    loop {
        let next = file.renewed(&present.token).await;
        match opener.open().await {
            Ok(stream) => return stream,
            Err(status) => {
                if refused.as_ref() != Some(&next) {
                    tracing::warn!(code = ?status.code(), error = status.message(),
                        "the renewed token opens no stream to the vault; the present one stays until it expires");
                }
                refused = Some(next);
                time::sleep(RENEWAL_PAUSE).await;
            }
        }
    }
}
