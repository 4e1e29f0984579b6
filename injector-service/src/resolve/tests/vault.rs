//! A vault over a channel in memory, whose every word a test says.

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
        DecryptAnswer, DecryptCall, DecryptRequest, DecryptResponse, DecryptStreamRequest,
        DecryptStreamResponse, Recipient,
        decrypt_answer::Outcome,
        decrypt_service_server::{DecryptService, DecryptServiceServer},
    },
};
use tokio::{
    io::duplex,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};
use tower::service_fn;

use super::{Duration, Identities, Resolver, Uid, ends};
use crate::resolve::{ConnectionFault, VaultCondition};

/// Longer than anybody has a reason to say nothing.
const SILENCE: Duration = Duration::from_secs(600);

/// The vault's side, until it is dropped.
pub(super) struct Vault {
    lines: UnboundedReceiver<Line>,
    is_there: Arc<AtomicBool>,
    _stop: DropGuard,
}

/// One stream, as the vault has it.
pub(super) struct Line {
    heard: Streaming<DecryptStreamRequest>,
    said: mpsc::Sender<Result<DecryptStreamResponse, Status>>,
    /// The server of each call, by the call's id.
    servers: HashMap<u64, String>,
    epoch: u64,
    sealer: Option<Sealer>,
    /// Goes with the next message.
    encapsulated_key: Vec<u8>,
}

/// A resolver with that budget for each call, and its vault.
pub(super) fn begin(budget: Duration) -> (Resolver, Vault) {
    let (resolver, vault) = begin_without(budget);
    vault.come();
    (resolver, vault)
}

/// The same, with a vault that is not there yet.
pub(super) fn begin_without(budget: Duration) -> (Resolver, Vault) {
    let (opened, lines) = mpsc::unbounded_channel();
    let is_there = Arc::new(AtomicBool::new(false));
    let (resolver, link) = Resolver::new(ends(), budget, Histogram::new([1.0]));
    let stop = CancellationToken::new();
    let condition = VaultCondition::new(&"127.0.0.1:7150".parse().unwrap(), &ends());
    let channel = channel(opened, is_there.clone());
    tokio::spawn(link.keep(channel, ConnectionFault::default(), condition, stop.clone()));
    let vault = Vault {
        lines,
        is_there,
        _stop: stop.drop_guard(),
    };
    (resolver, vault)
}

fn channel(opened: UnboundedSender<Line>, is_there: Arc<AtomicBool>) -> Channel {
    let service = DecryptServiceServer::new(Opening(opened));
    let connect = service_fn(move |_| {
        let connected = is_there.load(Ordering::Relaxed).then(|| {
            let (ours, theirs) = duplex(64 << 10);
            let server = Server::builder().add_service(service.clone());
            tokio::spawn(server.serve_with_incoming(tokio_stream::once(Ok::<_, io::Error>(theirs))));
            TokioIo::new(ours)
        });
        async move { connected.ok_or_else(|| io::Error::other("nobody is there")) }
    });
    Endpoint::from_static("http://vault").connect_with_connector_lazy(connect)
}

/// Hands over each stream that is opened.
#[derive(Clone)]
struct Opening(UnboundedSender<Line>);

#[tonic::async_trait]
impl DecryptService for Opening {
    async fn decrypt(&self, _: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        Err(Status::unimplemented("the injector uses the stream"))
    }

    type DecryptStreamStream = ReceiverStream<Result<DecryptStreamResponse, Status>>;

    async fn decrypt_stream(
        &self,
        request: Request<Streaming<DecryptStreamRequest>>,
    ) -> Result<Response<Self::DecryptStreamStream>, Status> {
        let (said, stream) = mpsc::channel(16);
        let line = Line {
            heard: request.into_inner(),
            said,
            servers: HashMap::new(),
            epoch: 0,
            sealer: None,
            encapsulated_key: Vec::new(),
        };
        let gone = |_| Status::unavailable("the test is over");
        self.0.send(line).map_err(gone)?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Vault {
    /// Can be reached from here on.
    pub(super) fn come(&self) {
        self.is_there.store(true, Ordering::Relaxed);
    }

    /// The next stream.
    pub(super) async fn line(&mut self) -> Line {
        let line = timeout(SILENCE, self.lines.recv()).await;
        line.expect("no stream was opened").unwrap()
    }
}

impl Line {
    /// The ids of the next message's calls, and the key that comes with it. None when the stream is over.
    pub(super) async fn hear(&mut self) -> Option<(Vec<u64>, Option<Recipient>)> {
        let message = timeout(SILENCE, self.heard.message()).await;
        let message = message.expect("nothing was said").ok().flatten()?;
        let DecryptStreamRequest { calls, recipient } = message;
        let ids = calls.into_iter().map(|DecryptCall { id, request }| {
            self.servers.insert(id, request.unwrap_or_default().server);
            id
        });
        Some((ids.collect(), recipient))
    }

    /// Hears one, takes up its key if it has one, and returns its calls.
    pub(super) async fn attend(&mut self) -> Option<Vec<u64>> {
        let (calls, recipient) = self.hear().await?;
        if let Some(recipient) = recipient {
            drop(self.take_up(&recipient));
        }
        Some(calls)
    }

    /// Answers what it hears until that was a call. How many they were.
    pub(super) async fn answer(&mut self) -> usize {
        loop {
            let calls = self.attend().await.unwrap();
            self.say(&calls).await;
            if !calls.is_empty() {
                return calls.len();
            }
        }
    }

    /// Seals to this key from here on. What it sealed with before.
    pub(super) fn take_up(&mut self, recipient: &Recipient) -> Option<Sealer> {
        let Identities { vault, injector } = ends();
        let between = SealContext {
            vault: &vault,
            injector: &injector,
            nonce: &recipient.stream_nonce,
            epoch: recipient.epoch,
        };
        let sealer = Sealer::new(&recipient.public_key, between).unwrap();
        self.epoch = recipient.epoch;
        self.encapsulated_key = sealer.encapsulated_key().to_vec();
        self.sealer.replace(sealer)
    }

    /// Answers these calls in one message.
    pub(super) async fn say(&mut self, calls: &[u64]) {
        let sealer = self.sealer.as_mut().unwrap();
        let answers = calls
            .iter()
            .map(|&id| sealed(sealer, self.epoch, id, &self.servers[&id]))
            .collect();
        let message = DecryptStreamResponse {
            answers,
            epoch: self.epoch,
            encapsulated_key: std::mem::take(&mut self.encapsulated_key),
        };
        self.said.send(Ok(message)).await.unwrap();
    }

    /// Answers a call as it would have in an epoch before.
    pub(super) async fn say_sealed_with(&mut self, sealer: &mut Sealer, epoch: u64, call: u64) {
        let message = DecryptStreamResponse {
            answers: vec![sealed(sealer, epoch, call, &self.servers[&call])],
            epoch,
            ..Default::default()
        };
        self.said.send(Ok(message)).await.unwrap();
    }

    /// Ends the stream.
    pub(super) async fn end(self) {
        drop(self.said.send(Err(Status::unavailable("for now"))).await);
    }
}

/// That the workspace exists.
fn sealed(sealer: &mut Sealer, epoch: u64, id: u64, server: &str) -> DecryptAnswer {
    let response = DecryptResponse {
        workspace_uid: Uid::generate().to_string(),
        ..Default::default()
    };
    let answering = SealedCall { epoch, id, server };
    let sealed = sealer.seal(answering, &response, std::iter::empty()).unwrap();
    let response = DecryptResponse { sealed, ..response };
    DecryptAnswer {
        id,
        outcome: Some(Outcome::Response(response)),
    }
}
