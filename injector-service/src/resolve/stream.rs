//! One stream to the vault, shared by all calls.
//!
//! Requests that wait together are sent together, and answers are matched by id, so that under load a decrypt costs
//! little more than its bytes. A broken stream is opened again; what was not answered is asked again, for as long as
//! somebody waits for it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use proto::{
    Reason, Refusal,
    seal::SealError,
    vault::v1::{
        DecryptAnswer, DecryptCall, DecryptError, DecryptStreamRequest, DecryptStreamResponse,
        decrypt_answer::Outcome, decrypt_service_client::DecryptServiceClient,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{
    asking::Asking,
    sealed::{Ends, Keys, Opened, not_sealed_for_us},
};

/// Requests that may wait to be sent; more are refused at once.
const WAITING: usize = 4096;
/// Requests that may wait for an answer; more are refused at once.
const UNANSWERED: usize = 8192;
/// Requests in one message.
const BATCH: usize = 256;
/// Messages that may wait in the connection.
const UNSENT: usize = 4;
/// How long to wait before the stream is opened again: at first, and at the most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The waiting side; clones share the stream.
#[derive(Clone)]
pub(super) struct Stream {
    waiting: mpsc::Sender<Pending>,
    connected: Arc<AtomicBool>,
}

/// A question, and who waits for its answer.
struct Pending {
    asking: Asking,
    answer: oneshot::Sender<Result<Opened, Refusal>>,
}

/// The side that asks the vault, before it does.
pub struct Link {
    ends: Ends,
    queue: mpsc::Receiver<Pending>,
    connected: Arc<AtomicBool>,
}

impl Link {
    /// Asks over `channel`, until `shutdown`.
    pub async fn keep(self, channel: Channel, shutdown: CancellationToken) {
        let Self {
            ends,
            queue,
            connected,
        } = self;
        let keeper = Keeper {
            channel,
            ends,
            queue,
            unanswered: HashMap::new(),
            batch: Vec::new(),
            next_id: 0,
            connected,
        };
        shutdown.run_until_cancelled(keeper.keep()).await;
    }
}

impl Stream {
    pub(super) fn new(ends: Ends) -> (Self, Link) {
        let (waiting, queue) = mpsc::channel(WAITING);
        let connected = Arc::new(AtomicBool::new(false));
        let link = Link {
            ends,
            queue,
            connected: connected.clone(),
        };
        (Self { waiting, connected }, link)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Asks, and waits for as long as the caller does.
    pub(super) async fn ask(&self, asking: Asking) -> Result<Opened, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.waiting
            .try_send(Pending { asking, answer })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => overloaded(),
                mpsc::error::TrySendError::Closed(_) => shutting_down(),
            })?;
        answered.await.unwrap_or_else(|_| Err(shutting_down()))
    }
}

fn overloaded() -> Refusal {
    Refusal::new(Reason::Overloaded, "too many calls wait for the vault; try again")
}

fn shutting_down() -> Refusal {
    Refusal::new(Reason::ShuttingDown, "the injector is shutting down")
}

/// The side that owns the connection.
struct Keeper {
    channel: Channel,
    ends: Ends,
    queue: mpsc::Receiver<Pending>,
    unanswered: HashMap<u64, Pending>,
    /// What goes into the next message; also in `unanswered`.
    batch: Vec<DecryptCall>,
    next_id: u64,
    connected: Arc<AtomicBool>,
}

/// Why a stream ended.
enum Ended {
    /// It may be opened again.
    Broken(Status),
    /// Nobody can ask any more.
    Done,
}

impl Ended {
    fn of(error: SealError) -> Self {
        Self::Broken(Status::data_loss(error.to_string()))
    }
}

impl Keeper {
    async fn keep(mut self) {
        let mut backoff = BACKOFF.0;
        loop {
            let ended = self.converse(&mut backoff).await;
            let was_connected = self.connected.swap(false, Ordering::Relaxed);
            let Ended::Broken(status) = ended else { return };
            if was_connected {
                tracing::warn!(code = ?status.code(), "the stream to the vault broke; opening another");
            } else {
                tracing::warn!(
                    code = ?status.code(),
                    error = proto::serve::telemetry::chain(&status),
                    "the vault does not answer"
                );
            }
            self.refuse_when_final(&status);
            time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Opens a stream and serves it until it ends.
    async fn converse(&mut self, backoff: &mut Duration) -> Ended {
        let (messages, outbound) = mpsc::channel(UNSENT);
        let mut client = DecryptServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let mut answers = match client.decrypt_stream(ReceiverStream::new(outbound)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ended::Broken(status),
        };
        if !self.connected.swap(true, Ordering::Relaxed) {
            tracing::info!("connected to the vault");
        }
        // Whoever gave up meanwhile is not asked for again; the others are, all of them.
        self.unanswered.retain(|_, pending| !pending.answer.is_closed());
        self.batch = self
            .unanswered
            .iter()
            .map(|(id, pending)| call(*id, &pending.asking))
            .collect();
        let mut keys = match Keys::new(self.ends.clone()) {
            Ok(keys) => keys,
            Err(error) => return Ended::Broken(Status::internal(error.to_string())),
        };
        loop {
            let ended = self.turn(&messages, &mut answers, &mut keys).await;
            match ended {
                Ok(()) => *backoff = BACKOFF.0,
                Err(ended) => return ended,
            }
        }
    }

    /// One step: an answer came, or there is room for a message, or somebody asks, or a key is old.
    ///
    /// Answers are read first and while nothing can be sent: the vault reads no more while its answers wait.
    async fn turn(
        &mut self,
        messages: &mpsc::Sender<DecryptStreamRequest>,
        answers: &mut Streaming<DecryptStreamResponse>,
        keys: &mut Keys,
    ) -> Result<(), Ended> {
        let broken = |status| Err(Ended::Broken(status));
        let due = keys.is_due();
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(message)) => self.take_all(message, keys)?,
                Ok(None) => return broken(Status::unavailable("the vault ended the stream")),
                Err(status) => return broken(status),
            },
            room = messages.reserve(), if due || !self.batch.is_empty() => {
                let Ok(room) = room else { return broken(Status::unavailable("the stream ended")) };
                // Whoever is about to ask gets to: under load that is many, and they share what a message costs.
                yield_now().await;
                while self.batch.len() < BATCH && let Ok(pending) = self.queue.try_recv() {
                    self.register(pending);
                }
                let calls = self.batch.drain(..self.batch.len().min(BATCH)).collect();
                let recipient = due.then(|| keys.renew()).transpose().map_err(Ended::of)?;
                room.send(DecryptStreamRequest { calls, recipient });
            }
            pending = self.queue.recv(), if self.batch.is_empty() => match pending {
                Some(pending) => self.register(pending),
                None => return Err(Ended::Done),
            },
            () = until(keys.due()), if !due => {}
        }
        Ok(())
    }

    /// Opens the answers of a message, in their order. One that does not open ends the stream, since nothing behind it
    /// can be opened either; whoever waits for it is refused, and the others are asked for again.
    fn take_all(&mut self, message: DecryptStreamResponse, keys: &mut Keys) -> Result<(), Ended> {
        let DecryptStreamResponse {
            answers,
            epoch,
            encapsulated_key,
        } = message;
        let turned = keys.turn_to(epoch, &encapsulated_key);
        for answer in answers {
            self.take(answer, turned, keys)?;
        }
        turned.map_err(Ended::of)
    }

    /// Puts a request into the next message, unless nobody waits for it any more, or too many wait already.
    fn register(&mut self, pending: Pending) {
        if pending.answer.is_closed() {
            return;
        }
        if self.unanswered.len() >= UNANSWERED {
            self.unanswered.retain(|_, pending| !pending.answer.is_closed());
        }
        if self.unanswered.len() >= UNANSWERED {
            drop(pending.answer.send(Err(overloaded())));
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.batch.push(call(id, &pending.asking));
        self.unanswered.insert(id, pending);
    }

    fn take(
        &mut self,
        answer: DecryptAnswer,
        turned: Result<(), SealError>,
        keys: &mut Keys,
    ) -> Result<(), Ended> {
        let DecryptAnswer { id, outcome } = answer;
        let pending = self.unanswered.remove(&id);
        let server = pending.as_ref().map(|pending| pending.asking.server());
        let mut ended = Ok(());
        let answer = match outcome {
            // Opened also when nobody waits for it, since the next one opens after it.
            Some(Outcome::Response(response)) => turned
                .and_then(|()| keys.open(id, server.unwrap_or_default(), response))
                .map_err(|error| {
                    ended = Err(Ended::of(error));
                    not_sealed_for_us(error)
                }),
            Some(Outcome::Error(error)) => Err(refused(error)),
            None => Err(Refusal::new(
                Reason::VaultAnswerInvalid,
                "the vault gave no answer; nothing was sent",
            )),
        };
        if let Some(pending) = pending {
            // Dropped, and wiped, when nobody waits any more.
            drop(pending.answer.send(answer));
        }
        ended
    }

    /// When the vault will not talk to this injector at all, whoever waits is told so at once.
    fn refuse_when_final(&mut self, status: &Status) {
        if !matches!(
            status.code(),
            Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
        ) {
            return;
        }
        let refusal = || {
            Refusal::new(
                Reason::VaultRefused,
                "the vault refuses this injector; nothing was sent",
            )
        };
        for (_, pending) in self.unanswered.drain() {
            drop(pending.answer.send(Err(refusal())));
        }
        while let Ok(pending) = self.queue.try_recv() {
            drop(pending.answer.send(Err(refusal())));
        }
    }
}

/// Waits until then, if ever.
async fn until(due: Option<time::Instant>) {
    match due {
        Some(due) => time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn call(id: u64, asking: &Asking) -> DecryptCall {
    DecryptCall {
        id,
        request: Some(asking.request()),
    }
}

/// What the vault's refusal means to who called the injector.
fn refused(error: DecryptError) -> Refusal {
    let reason = error.reason();
    let DecryptError {
        code: _,
        reason: _,
        message,
    } = error;
    match reason {
        Reason::PermissionDenied | Reason::Unauthenticated => Refusal::new(
            Reason::VaultRefused,
            "the vault does not let this injector decrypt in this workspace; nothing was sent",
        ),
        Reason::WorkspaceNotFound
        | Reason::WorkspaceReplaced
        | Reason::LimitExceeded
        | Reason::RecordCorrupt
        | Reason::KeyNotLoaded
        | Reason::Sealed
        | Reason::StorageUnavailable
        | Reason::StorageFull
        | Reason::ShuttingDown
        | Reason::Overloaded => Refusal::new(reason, message),
        _ => {
            tracing::error!(reason = reason.name(), message, "the vault refused a decrypt");
            Refusal::new(
                Reason::VaultAnswerInvalid,
                "the vault refused this decrypt; nothing was sent",
            )
        }
    }
}
