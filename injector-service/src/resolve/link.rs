//! The connections to the vault, and the move of a stream to a new connection when the injector's credentials change.

use std::{sync::Arc, time::Duration};

use proto::vault::v1::{
    DecryptStreamRequest, DecryptStreamResponse, decrypt_service_client::DecryptServiceClient,
};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::backoff::Backoff;

/// Messages that may wait for tonic to send them.
const MAX_UNSENT_MESSAGES: usize = 4;
/// Upper bound for the bytes of one `DecryptStreamResponse`.
const MAX_ANSWER_MESSAGE: usize = 64 << 20;
/// Time limit for opening a stream, which includes connecting.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes connections to the vault. Clones make them with the same credentials.
#[derive(Clone)]
pub(crate) struct VaultLink {
    /// Returns a channel whose connection the first call makes, with the credentials at that time.
    connect: Arc<dyn Fn() -> Channel + Send + Sync>,
    /// Changed when the injector's certificate or the vault's CAs were replaced.
    credentials: watch::Receiver<()>,
}

/// An open stream to the vault.
pub(super) struct OpenStream {
    pub(super) messages: mpsc::Sender<DecryptStreamRequest>,
    pub(super) answers: Streaming<DecryptStreamResponse>,
    /// The connection of the stream.
    pub(super) channel: Channel,
    /// Has seen the credentials of the connection.
    credentials: watch::Receiver<()>,
}

impl VaultLink {
    pub(crate) fn new(
        connect: impl Fn() -> Channel + Send + Sync + 'static,
        credentials: watch::Receiver<()>,
    ) -> Self {
        Self {
            connect: Arc::new(connect),
            credentials,
        }
    }

    /// Returns a channel with a connection of its own.
    pub(super) fn channel(&self) -> Channel {
        (self.connect)()
    }

    /// Opens a stream over `channel`.
    pub(super) async fn open(&self, channel: Channel) -> Result<OpenStream, Status> {
        let mut credentials = self.credentials.clone();
        // Seen before the connection is made: what changes meanwhile may or may not be what the connection has.
        credentials.mark_unchanged();
        let (messages, outbound) = mpsc::channel(MAX_UNSENT_MESSAGES);
        let client = DecryptServiceClient::new(channel.clone());
        let mut client = client.max_decoding_message_size(MAX_ANSWER_MESSAGE);
        let opening = client.decrypt_stream(ReceiverStream::new(outbound));
        let opened = time::timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_| Status::deadline_exceeded("the vault opens no stream"))?;
        Ok(OpenStream {
            messages,
            answers: opened?.into_inner(),
            channel,
            credentials,
        })
    }

    /// Waits until the credentials of `stream` are replaced, and then opens a stream that has the new ones, over a connection
    /// of its own. While the vault accepts no such connection, `stream` stays in use and the next attempt follows.
    pub(super) fn replacement(&self, stream: &OpenStream) -> impl Future<Output = OpenStream> + use<> {
        let (link, mut credentials) = (self.clone(), stream.credentials.clone());
        async move {
            if credentials.changed().await.is_err() {
                // Nothing replaces the credentials.
                std::future::pending::<()>().await;
            }
            let (mut backoff, mut has_failed) = (Backoff::new(), false);
            loop {
                match link.open(link.channel()).await {
                    Ok(stream) => return stream,
                    Err(status) => {
                        if !has_failed {
                            tracing::warn!(
                                code = ?status.code(),
                                error = status.message(),
                                "no connection to the vault with the new certificate or CAs; the open one stays in use"
                            );
                        }
                        has_failed = true;
                        time::sleep(backoff.pause()).await;
                    }
                }
            }
        }
    }
}
