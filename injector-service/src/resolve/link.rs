//! The connections and streams to the vault, and the move of a stream when the injector's credentials change.

use std::{future::pending, sync::Arc, time::Duration};

use proto::vault::v1::{
    DecryptStreamRequest, DecryptStreamResponse, decrypt_service_client::DecryptServiceClient,
};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{
    backoff::Backoff,
    credentials::{InjectorIdentity, StreamCredentials, VaultCredentials, no_credentials},
};

/// Messages that may wait for tonic to send them.
const MAX_UNSENT_MESSAGES: usize = 4;
/// Upper bound for the bytes of one `DecryptStreamResponse`.
const MAX_ANSWER_MESSAGE: usize = 64 << 20;
/// Time limit for opening a stream, which includes connecting.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes connections to the vault and opens streams over them. Clones do so with the same credentials.
#[derive(Clone)]
pub(crate) struct VaultLink {
    /// Returns a channel whose connection the first call makes, with the certificate and the CAs at that time.
    connect: Arc<dyn Fn() -> Channel + Send + Sync>,
    credentials: VaultCredentials,
    /// Notified when the injector's certificate or the vault's CAs were replaced.
    tls_changes: watch::Receiver<()>,
}

/// A connection to the vault.
#[derive(Clone)]
pub(super) struct VaultConnection {
    channel: Channel,
    /// Has seen the certificate and the CAs of the connection.
    tls_changes: watch::Receiver<()>,
}

/// An open stream to the vault.
pub(super) struct OpenStream {
    pub(super) messages: mpsc::Sender<DecryptStreamRequest>,
    pub(super) answers: Streaming<DecryptStreamResponse>,
    pub(super) connection: VaultConnection,
    pub(super) credentials: StreamCredentials,
}

impl VaultLink {
    pub(crate) fn new(
        connect: impl Fn() -> Channel + Send + Sync + 'static,
        credentials: VaultCredentials,
        tls_changes: watch::Receiver<()>,
    ) -> Self {
        Self {
            connect: Arc::new(connect),
            credentials,
            tls_changes,
        }
    }

    /// Returns the reason that calls get while the vault refuses streams.
    pub(super) fn refused_message(&self) -> &'static str {
        match &self.credentials.injector {
            InjectorIdentity::Certificate(identity) if identity.current().is_none() => {
                "the injector has no certificate yet"
            }
            InjectorIdentity::Certificate(_) => "the vault refuses this injector",
            InjectorIdentity::Token(_) => {
                "the vault refuses this injector, or the injector has no valid token"
            }
        }
    }

    /// Returns a new connection, with the present certificate and CAs.
    pub(super) fn connect(&self) -> VaultConnection {
        let mut tls_changes = self.tls_changes.clone();
        // Seen before the connection is made: what changes meanwhile may or may not be what the connection has.
        tls_changes.mark_unchanged();
        VaultConnection {
            channel: (self.connect)(),
            tls_changes,
        }
    }

    /// Opens a stream with the present credentials. The stream goes over `connection`, unless the certificate or the CAs were
    /// replaced since that connection was made.
    pub(super) async fn open(&self, connection: &VaultConnection) -> Result<OpenStream, Status> {
        let connection = match connection.is_outdated() {
            true => self.connect(),
            false => connection.clone(),
        };
        let credentials = self.credentials.present().map_err(no_credentials)?;
        let (messages, outbound) = mpsc::channel(MAX_UNSENT_MESSAGES);
        let client = DecryptServiceClient::new(connection.channel.clone());
        let mut client = client.max_decoding_message_size(MAX_ANSWER_MESSAGE);
        let opening = client.decrypt_stream(credentials.request(ReceiverStream::new(outbound)));
        let opened = time::timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_| Status::deadline_exceeded("the vault opens no stream"))?;
        Ok(OpenStream {
            messages,
            answers: opened?.into_inner(),
            connection,
            credentials,
        })
    }

    /// Waits until the credentials of `stream` are replaced, and then opens a stream that has the new ones. While the vault
    /// accepts no such stream, `stream` stays in use and the next attempt follows.
    pub(super) fn replacement(&self, stream: &OpenStream) -> impl Future<Output = OpenStream> + use<> {
        let (link, mut connection) = (self.clone(), stream.connection.clone());
        let token = stream.credentials.token.clone();
        async move {
            tokio::select! {
                () = connection.outdated() => connection = link.connect(),
                () = link.credentials.renewed(token.as_deref()) => {}
            }
            let (mut backoff, mut warned) = (Backoff::new(), None);
            loop {
                match link.open(&connection).await {
                    Ok(stream) => return stream,
                    Err(status) => {
                        if warned.replace(status.code()) != Some(status.code()) {
                            tracing::warn!(
                                code = ?status.code(),
                                error = status.message(),
                                "no stream to the vault with the new credentials; the open one stays in use"
                            );
                        }
                        time::sleep(backoff.pause()).await;
                    }
                }
            }
        }
    }
}

impl VaultConnection {
    /// Returns true when the certificate or the CAs were replaced since the connection was made.
    fn is_outdated(&self) -> bool {
        // Without a sender nothing replaces them.
        self.tls_changes.has_changed().unwrap_or(false)
    }

    /// Completes when the certificate or the CAs were replaced since the connection was made.
    async fn outdated(&mut self) {
        if self.tls_changes.changed().await.is_err() {
            pending().await
        }
    }
}
