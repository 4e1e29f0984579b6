//! One `DecryptStream`: its messages in turn, each answered piece by piece.
//!
//! A piece is as much as [`Reader::decrypt`](crate::vault::Reader::decrypt) does in one turn. The stream decrypts and
//! seals a piece and hands it to the connection before it begins the next one. So a stream holds the values of one
//! piece at the most, however much a message asks for and however slowly the client reads.

use std::{collections::VecDeque, sync::Arc, time::Instant, vec};

use chassis::authz::Authorized;
use prost::Message as _;
use proto::{
    Reason, Refusal,
    vault::v1::{
        DecryptAnswer, DecryptCall, DecryptError, DecryptResponse, DecryptStreamRequest,
        DecryptStreamResponse, decrypt_answer::Outcome,
    },
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    decrypt::{Asked, Decrypting, MESSAGE_HEAD},
    quota::{CallQuota, SEALING},
    sealing::{Sealing, required},
    stream_audit::{Refused, StreamAudit},
};
use crate::vault::{MAX_NAMES, Wanted};

/// Maximum number of calls in one message.
const MAX_BATCH: usize = 256;
/// Maximum number of secret names in one message.
const MAX_BATCH_NAMES: usize = 1024;

/// The vault's side of a stream.
pub(super) struct Conversation {
    decrypting: Decrypting,
    authorized: Authorized,
    sealing: Sealing,
    quota: CallQuota,
    audit: StreamAudit,
    answers: mpsc::Sender<Result<DecryptStreamResponse, Status>>,
}

/// Why a stream ends before its client ends it.
enum End {
    /// The vault refuses the stream, and sends the refusal to the client.
    Refused(Refusal),
    /// The client no longer listens.
    Unheard,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Conversation {
    pub(super) fn new(
        decrypting: Decrypting,
        authorized: Authorized,
        quota: CallQuota,
        audit: StreamAudit,
        answers: mpsc::Sender<Result<DecryptStreamResponse, Status>>,
    ) -> Self {
        Self {
            decrypting,
            authorized,
            sealing: Sealing::Clear,
            quota,
            audit,
            answers,
        }
    }

    /// Answers messages until the stream ends. Requests that arrive meanwhile gather in the next message, so the busier
    /// the stream, the cheaper each.
    pub(super) async fn hold(mut self, mut messages: Streaming<DecryptStreamRequest>) {
        match self.answer_all(&mut messages).await {
            Ok(()) | Err(End::Unheard) => {}
            Err(End::Refused(refusal)) => drop(self.answers.send(Err(refusal.into())).await),
        }
    }

    async fn answer_all(&mut self, messages: &mut Streaming<DecryptStreamRequest>) -> Result<(), End> {
        loop {
            let message = tokio::select! {
                message = messages.message() => message,
                () = self.decrypting.shutdown.cancelled() => {
                    let ended = "the vault is shutting down; open another stream";
                    return Err(Refusal::new(Reason::ShuttingDown, ended).into());
                }
                () = self.answers.closed() => return Err(End::Unheard),
            };
            match message {
                Ok(Some(message)) => {
                    let answered = self.answer(message).await;
                    if let Err(End::Refused(refusal)) = &answered {
                        self.audit.refused_message(refusal).await;
                    }
                    answered?;
                }
                // The client half-closed the stream, or the stream broke; in both cases no further message can arrive.
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }

    /// Answers one message.
    async fn answer(&mut self, message: DecryptStreamRequest) -> Result<(), End> {
        let DecryptStreamRequest { calls, recipient } = message;
        check_size(&calls)?;
        let is_new_epoch = recipient.is_some();
        if let Some(recipient) = recipient {
            let injector = self.authorized.principal()?;
            self.quota.spend(SEALING);
            self.sealing.begin(&recipient, &self.decrypting.id, injector)?;
        }
        if self.decrypting.require_sealed && !self.sealing.is_on() {
            return Err(required().into());
        }
        if let Err(refusal) = self.audit.admit() {
            return self.refuse(calls, &refusal).await;
        }
        let _held = match self.quota.hold(&calls) {
            Ok(held) => held,
            Err(refusal) => {
                self.record_refusal(&calls, &refusal).await;
                return self.refuse(calls, &refusal).await;
            }
        };
        if is_new_epoch && calls.is_empty() {
            // The client uses the previous key until it learns of the new one, so the new key is sent even when the
            // message has no calls.
            let message = signed(&mut self.sealing, Vec::new());
            self.send(message).await?;
        }
        let mut batch = Batch::new(calls);
        while batch.parse(&self.authorized) {
            self.piece(&mut batch).await?;
        }
        Ok(())
    }

    /// Writes the audit lines of a message whose calls are all refused alike.
    async fn record_refusal(&self, calls: &[DecryptCall], refusal: &Refusal) {
        let refused = calls.iter().map(|DecryptCall { id, request }| {
            let request = request.clone().unwrap_or_default();
            (*id, Err(Refused::new(refusal.clone(), &request)))
        });
        // The result is not needed: the calls are refused whether or not the lines are written.
        self.audit.record(refused.collect()).await;
    }

    /// Answers all calls of a message with the same refusal. The answers are small, and the stream reads no further
    /// message before the connection takes the answers.
    async fn refuse(&mut self, calls: Vec<DecryptCall>, refusal: &Refusal) -> Result<(), End> {
        let answers = calls.into_iter().map(|DecryptCall { id, request: _ }| {
            self.decrypting.metrics.decrypt(Some(refusal.reason));
            wire_answer(id, Err(refusal.clone()))
        });
        let message = signed(&mut self.sealing, answers.collect());
        self.send(message).await
    }

    /// Answers the next calls of a batch that was parsed, once there is room for the answers.
    async fn piece(&mut self, batch: &mut Batch) -> Result<(), End> {
        let room = tokio::select! {
            room = self.quota.room() => room,
            () = self.answers.closed() => return Err(End::Unheard),
        };
        let answers = decrypted(&self.decrypting, &self.audit, &mut self.sealing, batch).await;
        let names = answers.iter().map(names_of).sum();
        let message = signed(&mut self.sealing, answers);
        room.settle(names, message.encoded_len() + MESSAGE_HEAD);
        self.send(message).await
    }

    async fn send(&self, message: DecryptStreamResponse) -> Result<(), End> {
        let sent = self.answers.send(Ok(message)).await;
        sent.map_err(|_| End::Unheard)
    }
}

fn check_size(calls: &[DecryptCall]) -> Result<(), Refusal> {
    let names = calls
        .iter()
        .flat_map(|call| &call.request)
        .map(|request| request.names.len());
    if calls.len() > MAX_BATCH || names.sum::<usize>() > MAX_BATCH_NAMES {
        let limit = format!("a message has at most {MAX_BATCH} calls and {MAX_BATCH_NAMES} names");
        return Err(Refusal::new(Reason::RequestMalformed, limit));
    }
    Ok(())
}

/// The answers to the next calls of a batch that was parsed, in the order in which they are sealed and have to be sent.
async fn decrypted(
    decrypting: &Decrypting,
    audit: &StreamAudit,
    sealing: &mut Sealing,
    batch: &mut Batch,
) -> Vec<DecryptAnswer> {
    let began = Instant::now();
    let decrypted = decrypting.reader.decrypt(batch.wanted()).await;
    let mut decrypted = decrypted.into_iter();
    let mut answers = Vec::new();
    while let Some((id, asked)) = batch.parsed.pop_front() {
        let answer = match asked {
            Err(refused) => Err(refused),
            Ok(asked) => match decrypted.next() {
                Some(decrypted) => asked.answer(decrypted, &decrypting.metrics),
                None => {
                    batch.parsed.push_front((id, Ok(asked)));
                    break;
                }
            },
        };
        answers.push((id, answer));
    }
    let answers = audit.record(answers).await.into_iter();
    answers
        .map(|(id, answer)| {
            let answer = decrypting.count(answer, began);
            let response = answer.and_then(|answer| sealing.answer(answer, id));
            wire_answer(id, response)
        })
        .collect()
}

/// A message that says whose key its answers are sealed to.
fn signed(sealing: &mut Sealing, answers: Vec<DecryptAnswer>) -> DecryptStreamResponse {
    let mut message = DecryptStreamResponse {
        answers,
        ..Default::default()
    };
    sealing.sign(&mut message);
    message
}

/// The names that an answer is about; one for a refusal.
fn names_of(answer: &DecryptAnswer) -> usize {
    match &answer.outcome {
        Some(Outcome::Response(response)) => response.secrets.len().max(1),
        Some(Outcome::Error(_)) | None => 1,
    }
}

/// The calls of one message that are not answered yet.
struct Batch {
    calls: vec::IntoIter<DecryptCall>,
    /// The first of the unanswered calls, as many as one turn may handle, parsed.
    parsed: VecDeque<(u64, Result<Asked, Refused>)>,
}

impl Batch {
    fn new(calls: Vec<DecryptCall>) -> Self {
        Self {
            calls: calls.into_iter(),
            parsed: VecDeque::new(),
        }
    }

    /// Parses the next calls. Returns true when the batch has any.
    fn parse(&mut self, authorized: &Authorized) -> bool {
        let mut names: usize = self.wanted().iter().map(|wanted| wanted.names.len()).sum();
        while names < MAX_NAMES
            && self.parsed.len() < MAX_NAMES
            && let Some(DecryptCall { id, request }) = self.calls.next()
        {
            let request = request.unwrap_or_default();
            let asked = Asked::parse(authorized, &request);
            let asked = asked.map_err(|refusal| Refused::new(refusal, &request));
            names += asked.as_ref().map_or(0, |asked| asked.wanted.names.len());
            self.parsed.push_back((id, asked));
        }
        !self.parsed.is_empty()
    }

    /// Returns the decrypts that the valid ones of the parsed calls ask for.
    fn wanted(&self) -> Vec<Arc<Wanted>> {
        let asked = self.parsed.iter().filter_map(|(_, asked)| asked.as_ref().ok());
        asked.map(|asked| asked.wanted.clone()).collect()
    }
}

fn wire_answer(id: u64, response: Result<DecryptResponse, Refusal>) -> DecryptAnswer {
    let outcome = match response {
        Ok(response) => Outcome::Response(response),
        Err(Refusal { reason, message }) => Outcome::Error(DecryptError {
            code: reason.code().into(),
            reason: reason.into(),
            message,
        }),
    };
    DecryptAnswer {
        id,
        outcome: Some(outcome),
    }
}
