//! A vault behind a channel in memory. A test decides what the vault receives and answers.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hyper_util::rt::TokioIo;
use prometheus_client::metrics::histogram::Histogram;
use proto::{
    seal::{SealContext, SealedCall, Sealer},
    vault::v1::{
        DecryptAnswer, DecryptCall, DecryptRequest, DecryptResponse, DecryptStatus, DecryptStreamRequest,
        DecryptStreamResponse, DecryptedSecret, Recipient,
        decrypt_answer::Outcome,
        decrypt_service_server::{DecryptService, DecryptServiceServer},
    },
};
use tokio::{
    io::duplex,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};
use tower::service_fn;

use super::{Duration, Identities, Resolver, Uid, VaultCredentials, credentials, identities};
use crate::resolve::{ConnectionFault, VaultCondition};

/// Time limit for messages of the injector, which rotates its key every minute.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The injector's stream driver stops when this is dropped.
pub(crate) struct FakeVault {
    streams: UnboundedReceiver<VaultStream>,
    accepts: Arc<AtomicBool>,
    _stop: DropGuard,
}

/// The vault's end of one stream.
pub(crate) struct VaultStream {
    requests: Streaming<DecryptStreamRequest>,
    answers: mpsc::Sender<Result<DecryptStreamResponse, Status>>,
    /// The received requests, by their ids.
    received: HashMap<u64, DecryptRequest>,
    /// The origins of every secret; empty means any origin.
    origins: Vec<String>,
    epoch: u64,
    sealer: Option<Sealer>,
    /// Sent with the next message.
    encapsulated_key: Vec<u8>,
}

/// Returns a resolver with this timeout, and its vault.
pub(crate) fn start(timeout: Duration) -> (Resolver, FakeVault) {
    let (resolver, vault) = start_unreachable(timeout);
    vault.accept();
    (resolver, vault)
}

/// Returns a resolver with this timeout, and a vault that accepts no connection yet.
pub(super) fn start_unreachable(timeout: Duration) -> (Resolver, FakeVault) {
    start_unreachable_for(timeout, credentials())
}

/// Does the same for an injector with these credentials.
pub(super) fn start_unreachable_for(
    timeout: Duration,
    credentials: VaultCredentials,
) -> (Resolver, FakeVault) {
    let (opened, streams) = mpsc::unbounded_channel();
    let accepts = Arc::new(AtomicBool::new(false));
    let (resolver, driver) = Resolver::new(credentials.clone(), timeout, false, Histogram::new([1.0]));
    let stop = CancellationToken::new();
    let condition = VaultCondition::new(&"127.0.0.1:7150".parse().unwrap(), &credentials);
    let channel = channel(opened, accepts.clone());
    tokio::spawn(driver.run(channel, ConnectionFault::default(), condition, stop.clone()));
    let vault = FakeVault {
        streams,
        accepts,
        _stop: stop.drop_guard(),
    };
    (resolver, vault)
}

fn channel(opened: UnboundedSender<VaultStream>, accepts: Arc<AtomicBool>) -> Channel {
    let service = DecryptServiceServer::new(StreamService(opened));
    let connect = service_fn(move |_| {
        let connected = accepts.load(Ordering::Relaxed).then(|| {
            let (ours, theirs) = duplex(64 << 10);
            let server = Server::builder().add_service(service.clone());
            tokio::spawn(server.serve_with_incoming(tokio_stream::once(Ok::<_, io::Error>(theirs))));
            TokioIo::new(ours)
        });
        async move { connected.ok_or_else(|| io::Error::other("the vault is not reachable")) }
    });
    Endpoint::from_static("http://vault").connect_with_connector_lazy(connect)
}

/// Hands each opened stream to the test.
#[derive(Clone)]
struct StreamService(UnboundedSender<VaultStream>);

#[tonic::async_trait]
impl DecryptService for StreamService {
    async fn decrypt(&self, _: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        Err(Status::unimplemented("the injector uses the stream"))
    }

    type DecryptStreamStream = ReceiverStream<Result<DecryptStreamResponse, Status>>;

    async fn decrypt_stream(
        &self,
        request: Request<Streaming<DecryptStreamRequest>>,
    ) -> Result<Response<Self::DecryptStreamStream>, Status> {
        let (answers, stream) = mpsc::channel(16);
        let stream_end = VaultStream {
            requests: request.into_inner(),
            answers,
            received: HashMap::new(),
            origins: Vec::new(),
            epoch: 0,
            sealer: None,
            encapsulated_key: Vec::new(),
        };
        let gone = |_| Status::unavailable("the test is over");
        self.0.send(stream_end).map_err(gone)?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl FakeVault {
    pub(super) fn accept(&self) {
        self.accepts.store(true, Ordering::Relaxed);
    }

    /// Waits for the next stream.
    pub(crate) async fn stream(&mut self) -> VaultStream {
        let stream = time::timeout(TIMEOUT, self.streams.recv()).await;
        stream.expect("no stream was opened").unwrap()
    }
}

impl VaultStream {
    /// Returns the ids of the requests in the next message, and its key. Returns `None` when the stream has ended.
    pub(super) async fn receive(&mut self) -> Option<(Vec<u64>, Option<Recipient>)> {
        let message = time::timeout(TIMEOUT, self.requests.message()).await;
        let message = message.expect("no message arrived").ok().flatten()?;
        let DecryptStreamRequest { calls, recipient } = message;
        let ids = calls.into_iter().map(|DecryptCall { id, request }| {
            self.received.insert(id, request.unwrap_or_default());
            id
        });
        Some((ids.collect(), recipient))
    }

    /// Receives a message, seals to its key if it has one, and returns the ids of its requests.
    pub(super) async fn receive_calls(&mut self) -> Option<Vec<u64>> {
        let (calls, recipient) = self.receive().await?;
        if let Some(recipient) = recipient {
            drop(self.seal_to(&recipient));
        }
        Some(calls)
    }

    /// Answers messages up to the first one with requests, and returns the number of its requests.
    pub(crate) async fn answer_next(&mut self) -> usize {
        loop {
            let calls = self.receive_calls().await.unwrap();
            self.answer(&calls).await;
            if !calls.is_empty() {
                return calls.len();
            }
        }
    }

    /// Binds every secret to `origin`.
    pub(crate) fn bind_to(&mut self, origin: &str) {
        self.origins = vec![origin.to_owned()];
    }

    /// Seals to this key from now on. Returns the sealer of the epoch before.
    pub(super) fn seal_to(&mut self, recipient: &Recipient) -> Option<Sealer> {
        let Identities { vault, injector } = identities();
        let context = SealContext {
            vault: &vault,
            injector: &injector,
            nonce: &recipient.stream_nonce,
            epoch: recipient.epoch,
        };
        let sealer = Sealer::new(&recipient.public_key, context).unwrap();
        self.epoch = recipient.epoch;
        self.encapsulated_key = sealer.encapsulated_key().to_vec();
        self.sealer.replace(sealer)
    }

    /// Answers these requests in one message.
    pub(super) async fn answer(&mut self, calls: &[u64]) {
        let sealer = self.sealer.as_mut().unwrap();
        let answers = calls
            .iter()
            .map(|&id| sealed(sealer, self.epoch, id, &self.received[&id], &self.origins))
            .collect();
        let message = DecryptStreamResponse {
            answers,
            epoch: self.epoch,
            encapsulated_key: std::mem::take(&mut self.encapsulated_key),
        };
        self.answers.send(Ok(message)).await.unwrap();
    }

    /// Answers a request with the sealer of an earlier epoch.
    pub(super) async fn answer_sealed_with(&mut self, sealer: &mut Sealer, epoch: u64, call: u64) {
        let message = DecryptStreamResponse {
            answers: vec![sealed(sealer, epoch, call, &self.received[&call], &self.origins)],
            epoch,
            ..Default::default()
        };
        self.answers.send(Ok(message)).await.unwrap();
    }

    pub(super) async fn break_off(self) {
        drop(self.answers.send(Err(Status::unavailable("for now"))).await);
    }
}

/// Returns an answer that says that the workspace and all secrets of the request exist.
fn sealed(
    sealer: &mut Sealer,
    epoch: u64,
    id: u64,
    request: &DecryptRequest,
    origins: &[String],
) -> DecryptAnswer {
    let secrets = request.names.iter().map(|name| DecryptedSecret {
        name: name.clone(),
        status: DecryptStatus::Ok.into(),
        version: 1,
        upstream_origins: origins.to_vec(),
        ..Default::default()
    });
    let response = DecryptResponse {
        workspace_uid: Uid::generate().to_string(),
        secrets: secrets.collect(),
        ..Default::default()
    };
    let server = &request.server;
    let call = SealedCall { epoch, id, server };
    let sealed = sealer.seal(call, &response, std::iter::empty()).unwrap();
    let response = DecryptResponse { sealed, ..response };
    DecryptAnswer {
        id,
        outcome: Some(Outcome::Response(response)),
    }
}
