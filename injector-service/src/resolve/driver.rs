//! The task that owns the stream to the vault: it opens streams, sends batches of requests, and opens the answers.

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
        DecryptAnswer, DecryptCall, DecryptRequest, DecryptStreamRequest, DecryptStreamResponse,
        decrypt_answer::Outcome,
    },
};
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{self, Instant},
};
use tonic::{Code, Status, Streaming};

use super::{
    backoff::{self, Backoff},
    condition::{ConnectionFault, VaultCondition},
    link::{OpenStream, VaultConnection, VaultLink},
    pending::{PendingRequest, PendingRequests, SentRequest},
    seal_keys::{Rotation, SealKeys, not_sealed_for_us},
    vault_refusal::vault_refusal,
};

/// Upper bound for the requests in one `DecryptStreamRequest`.
const MAX_BATCH: usize = 256;
/// A message with more bytes than this takes no further request. A request has at most 9 KiB, and the vault takes messages
/// of 64 KiB.
const FULL_MESSAGE_BYTES: usize = 48 * 1024;
/// A message with more names than this takes no further request. A request has at most 64 names, and the vault takes
/// messages of 1,024 names.
const FULL_MESSAGE_NAMES: usize = 1024 - 64;
/// Time for which the driver goes on reading a stream that was replaced, until its requests are answered. Requests without an
/// answer after this time are sent again over the new stream.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct StreamDriver {
    link: VaultLink,
    /// The connection of the latest stream. When this stream breaks, the next stream is opened over the same connection.
    connection: VaultConnection,
    condition: VaultCondition,
    fault: ConnectionFault,
    queue: mpsc::Receiver<PendingRequest>,
    pending: PendingRequests,
    connected: Arc<AtomicBool>,
    backoff: Backoff,
}

enum StreamEnd {
    /// Another stream may be opened.
    Broken(Status),
    /// A stream with the new credentials took the place of this one.
    Replaced(Box<OpenStream>),
    /// Every `StreamHandle` was dropped.
    NoCallers,
}

impl From<SealError> for StreamEnd {
    fn from(error: SealError) -> Self {
        Self::Broken(Status::data_loss(error.to_string()))
    }
}

/// The stream that the driver serves.
struct ServedStream {
    messages: mpsc::Sender<DecryptStreamRequest>,
    answers: Streaming<DecryptStreamResponse>,
    /// Boxed, so that the keys are never moved, and are wiped when the stream ends.
    keys: Box<SealKeys>,
    /// Time at which the token of the stream expires.
    expiry: Option<Instant>,
}

impl ServedStream {
    fn new(stream: OpenStream) -> Result<Self, SealError> {
        let OpenStream {
            messages,
            answers,
            connection: _,
            credentials,
        } = stream;
        Ok(Self {
            messages,
            answers,
            expiry: credentials.expiry(),
            keys: Box::new(SealKeys::new(credentials.identities)?),
        })
    }
}

impl StreamDriver {
    pub(super) fn new(
        link: VaultLink,
        (condition, fault): (VaultCondition, ConnectionFault),
        queue: mpsc::Receiver<PendingRequest>,
        connected: Arc<AtomicBool>,
    ) -> Self {
        Self {
            connection: link.connect(),
            link,
            condition,
            fault,
            queue,
            pending: PendingRequests::new(),
            connected,
            backoff: Backoff::new(),
        }
    }

    /// Serves one stream after the other, with pauses between them, until no caller is left.
    pub(super) async fn run(mut self) {
        let mut replacement = None;
        loop {
            let status = match self.serve_stream(replacement.take()).await {
                StreamEnd::Broken(status) => status,
                StreamEnd::Replaced(stream) => {
                    replacement = Some(stream);
                    continue;
                }
                StreamEnd::NoCallers => break,
            };
            let was_connected = self.connected.swap(false, Ordering::Relaxed);
            if was_connected {
                self.condition.broke(&status, &self.fault);
            } else {
                self.condition.failed(&status, &self.fault);
            }
            self.pending.requeue_sent();
            self.refuse_when_final(&status);
            let pause = self.backoff.pause();
            self.admit_during(time::sleep(pause)).await;
        }
        self.connected.store(false, Ordering::Relaxed);
    }

    /// Serves a stream, which is opened unless it is given.
    async fn serve_stream(&mut self, opened: Option<Box<OpenStream>>) -> StreamEnd {
        let stream = match opened {
            Some(stream) => *stream,
            None => match self.open_stream().await {
                Ok(stream) => stream,
                Err(status) => return StreamEnd::Broken(status),
            },
        };
        self.connection = stream.connection.clone();
        self.connected.store(true, Ordering::Relaxed);
        self.condition.connected(&self.fault);
        let mut replacement = pin!(self.link.replacement(&stream));
        let mut stream = match ServedStream::new(stream) {
            Ok(stream) => stream,
            Err(error) => return StreamEnd::Broken(Status::internal(error.to_string())),
        };
        let opened = Instant::now();
        loop {
            // `step` loses nothing when it is given up at one of its awaits.
            let stepped = tokio::select! {
                biased;
                replacing = &mut replacement => {
                    self.drain(&mut stream).await;
                    Err(StreamEnd::Replaced(Box::new(replacing)))
                }
                stepped = self.step(&mut stream) => stepped,
            };
            if let Err(end) = stepped {
                if opened.elapsed() > backoff::LONGEST {
                    self.backoff.reset();
                }
                return end;
            }
        }
    }

    async fn open_stream(&mut self) -> Result<OpenStream, Status> {
        let (link, connection) = (self.link.clone(), self.connection.clone());
        self.admit_during(link.open(&connection)).await
    }

    /// Reads the answers to the requests that were sent over `stream`, and sends no more over it. Requests that get no answer
    /// are to be sent again.
    async fn drain(&mut self, stream: &mut ServedStream) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while self.pending.awaits_answers() {
            tokio::select! {
                answer = stream.answers.message() => {
                    let Ok(Some(message)) = answer else { break };
                    if self.receive(message, &mut stream.keys).is_err() {
                        break;
                    }
                }
                Some(pending) = self.queue.recv() => self.pending.admit(pending),
                () = sleep_until(deadline) => break,
            }
        }
        self.pending.requeue_sent();
    }

    /// Awaits `future`, and admits requests at the same time. If they stayed in the queue, requests whose callers gave up
    /// would fill it before a stream is open.
    async fn admit_during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => return output,
                Some(pending) = self.queue.recv() => self.pending.admit(pending),
            }
        }
    }

    /// Receives an answer message, sends a batch, admits a request, or rotates the key, whichever is possible first.
    ///
    /// Answers come first, and are received also while nothing can be sent: the vault stops reading requests while its
    /// answers wait.
    async fn step(&mut self, stream: &mut ServedStream) -> Result<(), StreamEnd> {
        let ServedStream {
            messages,
            answers,
            keys,
            expiry,
        } = stream;
        let broken = |status| Err(StreamEnd::Broken(status));
        let (announce, wake_at) = match keys.rotation() {
            Rotation::NotBefore(time) => (false, time),
            Rotation::Announce { deadline } => (true, deadline),
            Rotation::Overdue => return broken(Status::deadline_exceeded("the vault took up no new key")),
        };
        let wake_at = expiry.map_or(wake_at, |expiry| expiry.min(wake_at));
        if expiry.is_some_and(|expiry| expiry <= Instant::now()) {
            return broken(Status::unauthenticated("the injector's token has expired"));
        }
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(message)) => self.receive(message, keys)?,
                Ok(None) => return broken(Status::unavailable("the vault ended the stream")),
                Err(status) => return broken(status),
            },
            room = messages.reserve(), if announce || self.pending.unsent() > 0 => {
                let Ok(room) = room else { return broken(Status::unavailable("the stream ended")) };
                // Lets other tasks queue their requests first: under load these are many, and share one message's cost.
                yield_now().await;
                let calls = self.next_batch();
                let recipient = announce.then(|| keys.announce()).transpose()?;
                if recipient.is_some() || !calls.is_empty() {
                    room.send(DecryptStreamRequest { calls, recipient });
                }
            }
            pending = self.queue.recv() => match pending {
                Some(pending) => self.pending.admit(pending),
                None => return Err(StreamEnd::NoCallers),
            },
            () = sleep_until(wake_at) => {}
        }
        Ok(())
    }

    /// Takes as many requests as fit into one message.
    fn next_batch(&mut self) -> Vec<DecryptCall> {
        let most = self.pending.unsent() + self.queue.len();
        let mut calls = Vec::with_capacity(most.min(MAX_BATCH));
        let (mut bytes, mut names) = (0, 0);
        while calls.len() < MAX_BATCH
            && bytes <= FULL_MESSAGE_BYTES
            && names <= FULL_MESSAGE_NAMES
            && let Some(pending) = self.pending.pop_unsent().or_else(|| self.queue.try_recv().ok())
        {
            let call = self.pending.send(pending);
            for request in call.iter().flat_map(|call| &call.request) {
                names += request.names.len();
                bytes += max_size(request);
            }
            calls.extend(call);
        }
        calls
    }

    /// Opens the answers of a message in their order. An answer that does not open ends the stream, because the answers
    /// after it cannot be opened either: its caller is refused, and the other requests are sent again.
    fn receive(&mut self, message: DecryptStreamResponse, keys: &mut SealKeys) -> Result<(), StreamEnd> {
        let DecryptStreamResponse {
            answers,
            epoch,
            encapsulated_key,
        } = message;
        let switched = keys.switch_to(epoch, &encapsulated_key);
        let has_answers = !answers.is_empty();
        for answer in answers {
            self.receive_one(answer, switched, keys)?;
        }
        if has_answers {
            self.backoff.reset();
        }
        switched.map_err(StreamEnd::from)
    }

    fn receive_one(
        &mut self,
        answer: DecryptAnswer,
        switched: Result<(), SealError>,
        keys: &mut SealKeys,
    ) -> Result<(), StreamEnd> {
        let DecryptAnswer { id, outcome } = answer;
        let sent = self.pending.take_sent(id);
        let server = sent.as_ref().map(SentRequest::server).unwrap_or_default();
        let mut end = Ok(());
        let answer = match outcome {
            // Opened also when the caller gave up, because the next answer opens only after this one.
            Some(Outcome::Response(response)) => switched
                .and_then(|()| keys.open(id, server, response))
                .map_err(|error| {
                    end = Err(error.into());
                    not_sealed_for_us(error)
                }),
            Some(Outcome::Error(error)) => Err(vault_refusal(error)),
            None => Err(Refusal::new(
                Reason::VaultAnswerInvalid,
                "the vault gave no answer",
            )),
        };
        if let Some(pending) = sent.and_then(SentRequest::caller) {
            pending.complete(answer);
        }
        end
    }

    /// Refuses all requests when the vault refused the stream itself: another attempt would not help them.
    fn refuse_when_final(&mut self, status: &Status) {
        if !matches!(
            status.code(),
            Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
        ) {
            return;
        }
        let message = self.link.refused_message();
        let refusal = || Refusal::new(Reason::VaultRefused, message);
        self.pending.refuse_all(refusal);
        while let Ok(pending) = self.queue.try_recv() {
            pending.complete(Err(refusal()));
        }
    }
}

/// Returns an upper bound for the bytes of a request on the wire, with 64 bytes for the fields of fixed length.
fn max_size(request: &DecryptRequest) -> usize {
    let texts = [&request.workspace, &request.workspace_uid, &request.server];
    let texts = texts.into_iter().chain(&request.names);
    64 + texts.map(|text| text.len() + 4).sum::<usize>()
}

/// Makes a timer only when it is polled, which under load it is not.
async fn sleep_until(time: Instant) {
    time::sleep_until(time).await;
}
