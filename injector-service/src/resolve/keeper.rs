//! The side that owns the connection to the vault.

use std::{
    pin::pin,
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
        DecryptAnswer, DecryptCall, DecryptError, DecryptRequest, DecryptStreamRequest,
        DecryptStreamResponse, decrypt_answer::Outcome, decrypt_service_client::DecryptServiceClient,
    },
};
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{
    backoff::{self, Backoff},
    condition::{ConnectionFault, VaultCondition},
    sealed::{Due, Identities, Keys, not_sealed_for_us},
    waiting::{Pending, Unanswered, Waiting},
};

/// Requests in one message.
const BATCH: usize = 256;
/// The bytes and the names at which a message takes no further request. A request has at most 64 names and 9 KiB, and
/// the vault takes messages of 1,024 names and 64 KiB.
const MESSAGE: (usize, usize) = (48 * 1024, 1024 - 64);
/// Messages that may wait in the connection.
const UNSENT: usize = 4;
/// How long the vault may take to open a stream, once there is a connection or while one is made.
const OPENING: Duration = Duration::from_secs(5);

/// Asks for all who ask, over one stream at a time.
pub(super) struct Keeper {
    channel: Channel,
    condition: VaultCondition,
    fault: ConnectionFault,
    ends: Identities,
    queue: mpsc::Receiver<Pending>,
    waiting: Waiting,
    connected: Arc<AtomicBool>,
    backoff: Backoff,
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

type Answers = Streaming<DecryptStreamResponse>;
type Messages = mpsc::Sender<DecryptStreamRequest>;

impl Keeper {
    pub(super) fn new(
        channel: Channel,
        (condition, fault): (VaultCondition, ConnectionFault),
        ends: Identities,
        queue: mpsc::Receiver<Pending>,
        connected: Arc<AtomicBool>,
    ) -> Self {
        Self {
            channel,
            condition,
            fault,
            ends,
            queue,
            waiting: Waiting::new(),
            connected,
            backoff: Backoff::new(),
        }
    }

    pub(super) async fn keep(mut self) {
        loop {
            let ended = self.converse().await;
            let was_connected = self.connected.swap(false, Ordering::Relaxed);
            let Ended::Broken(status) = ended else { return };
            if was_connected {
                self.condition.broke(&status, &self.fault);
            } else {
                self.condition.failed(&status, &self.fault);
            }
            self.waiting.again();
            self.refuse_when_final(&status);
            let pause = self.backoff.pause();
            self.meanwhile(time::sleep(pause)).await;
        }
    }

    /// Opens a stream and serves it until it ends.
    async fn converse(&mut self) -> Ended {
        let (messages, mut answers) = match self.open().await {
            Ok(stream) => stream,
            Err(status) => return Ended::Broken(status),
        };
        self.connected.store(true, Ordering::Relaxed);
        self.condition.connected(&self.fault);
        // In a place of their own, which is wiped when the stream ends.
        let mut keys = match Keys::new(self.ends.clone()) {
            Ok(keys) => Box::new(keys),
            Err(error) => return Ended::Broken(Status::internal(error.to_string())),
        };
        let opened = Instant::now();
        loop {
            if let Err(ended) = self.turn(&messages, &mut answers, &mut keys).await {
                if opened.elapsed() > backoff::LONGEST {
                    self.backoff.reset();
                }
                return ended;
            }
        }
    }

    async fn open(&mut self) -> Result<(Messages, Answers), Status> {
        let (messages, outbound) = mpsc::channel(UNSENT);
        let mut client = DecryptServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let opening = time::timeout(OPENING, client.decrypt_stream(ReceiverStream::new(outbound)));
        match self.meanwhile(opening).await {
            Ok(opened) => Ok((messages, opened?.into_inner())),
            Err(_) => Err(Status::deadline_exceeded("the vault opens no stream")),
        }
    }

    /// Waits, and meanwhile takes in who asks: who gives up before there is a stream must not take the place of others.
    async fn meanwhile<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        let mut awaited = pin!(awaited);
        loop {
            tokio::select! {
                biased;
                done = &mut awaited => return done,
                Some(pending) = self.queue.recv() => self.waiting.admit(pending),
            }
        }
    }

    /// One step: an answer came, or there is room for a message, or somebody asks, or a key is old.
    ///
    /// Answers are read first and while nothing can be sent: the vault reads no more while its answers wait.
    async fn turn(
        &mut self,
        messages: &Messages,
        answers: &mut Answers,
        keys: &mut Keys,
    ) -> Result<(), Ended> {
        let broken = |status| Err(Ended::Broken(status));
        let (renew, then) = match keys.due() {
            Due::Later(then) => (false, then),
            Due::Renewal { by } => (true, by),
            Due::End => return broken(Status::deadline_exceeded("the vault took up no new key")),
        };
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(message)) => self.take_all(message, keys)?,
                Ok(None) => return broken(Status::unavailable("the vault ended the stream")),
                Err(status) => return broken(status),
            },
            room = messages.reserve(), if renew || self.waiting.unsent() > 0 => {
                let Ok(room) = room else { return broken(Status::unavailable("the stream ended")) };
                // Whoever is about to ask gets to: under load that is many, and they share what a message costs.
                yield_now().await;
                let calls = self.next_calls();
                let recipient = renew.then(|| keys.renew()).transpose().map_err(Ended::of)?;
                if recipient.is_some() || !calls.is_empty() {
                    room.send(DecryptStreamRequest { calls, recipient });
                }
            }
            pending = self.queue.recv() => match pending {
                Some(pending) => self.waiting.admit(pending),
                None => return Err(Ended::Done),
            },
            () = until(then) => {}
        }
        Ok(())
    }

    /// As many as go into a message, of those who still wait.
    fn next_calls(&mut self) -> Vec<DecryptCall> {
        let most = self.waiting.unsent() + self.queue.len();
        let mut calls = Vec::with_capacity(most.min(BATCH));
        let (mut bytes, mut names) = (0, 0);
        while calls.len() < BATCH
            && bytes <= MESSAGE.0
            && names <= MESSAGE.1
            && let Some(pending) = self.waiting.pop().or_else(|| self.queue.try_recv().ok())
        {
            let call = self.waiting.ask(pending);
            for request in call.iter().flat_map(|call| &call.request) {
                names += request.names.len();
                bytes += size_of_request(request);
            }
            calls.extend(call);
        }
        calls
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
        let is_answered = !answers.is_empty();
        for answer in answers {
            self.take(answer, turned, keys)?;
        }
        if is_answered {
            self.backoff.reset();
        }
        turned.map_err(Ended::of)
    }

    fn take(
        &mut self,
        answer: DecryptAnswer,
        turned: Result<(), SealError>,
        keys: &mut Keys,
    ) -> Result<(), Ended> {
        let DecryptAnswer { id, outcome } = answer;
        let call = self.waiting.answered(id);
        let server = call.as_ref().map(Unanswered::server);
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
        if let Some(pending) = call.and_then(Unanswered::caller) {
            pending.tell(answer);
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
        self.waiting.refuse(refusal);
        while let Ok(pending) = self.queue.try_recv() {
            pending.tell(Err(refusal()));
        }
    }
}

/// Returns an upper bound for the bytes of a request on the wire, with 64 bytes for the fields of fixed length.
fn size_of_request(request: &DecryptRequest) -> usize {
    let texts = [&request.workspace, &request.workspace_uid, &request.server];
    let texts = texts.into_iter().chain(&request.names);
    64 + texts.map(|text| text.len() + 4).sum::<usize>()
}

/// Waits until then. Not a timer until it is polled, which under load it is not.
async fn until(then: Instant) {
    time::sleep_until(then).await;
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
        Reason::PermissionDenied => Refusal::new(
            Reason::VaultRefused,
            "the vault does not let this injector decrypt in this workspace; nothing was sent",
        ),
        Reason::Unauthenticated => Refusal::new(
            Reason::VaultRefused,
            "the vault does not accept this injector's certificate, which may have expired; nothing was sent",
        ),
        Reason::WorkspaceNotFound
        | Reason::WorkspaceReplaced
        | Reason::LimitExceeded
        | Reason::QuotaExceeded
        | Reason::RecordCorrupt
        | Reason::KeyNotLoaded
        | Reason::Sealed
        | Reason::StorageUnavailable
        | Reason::StorageFull
        | Reason::AuditUnavailable
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
