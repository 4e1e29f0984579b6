//! One `DecryptStream`: its messages in turn, each answered piece by piece.
//!
//! A piece is the part of a message that [`Reader::decrypt`](crate::vault::Reader::decrypt) answers in one turn. The stream
//! decrypts and seals a piece and hands it to the connection before it begins the next one. So a stream holds the values of
//! at most one piece, however much a message asks for and however slowly the client reads.
//!
//! When the token of the client has expired, or the issuer has withdrawn the token's key, the vault refuses each further decrypt
//! and leaves the stream open; only a message with a new sealing key then ends the stream. The injector replaces the stream when its token is
//! renewed, and drops the stream when the token expires (`resolve/driver.rs` of the injector).

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
    call::{DecryptRpcs, MESSAGE_HEAD, ParsedDecrypt},
    sealing::{DecryptedAnswer, StreamSealing, sealing_required},
    stream_audit::{RefusedDecrypt, StreamAudit},
};
use crate::{
    service::quota::{CallQuota, SEALING},
    vault::{DecryptQuery, MAX_NAMES},
};

const MAX_CALLS: usize = 256;
const MAX_MESSAGE_NAMES: usize = 1024;

pub(super) struct StreamSession {
    rpcs: DecryptRpcs,
    authorized: Authorized,
    sealing: StreamSealing,
    quota: CallQuota,
    audit: StreamAudit,
    answers: mpsc::Sender<Result<DecryptStreamResponse, Status>>,
}

/// Reason to end a stream before its client ends it.
enum StreamEnd {
    /// The vault refuses the stream, and sends the refusal to the client.
    Refused(Refusal),
    /// The client no longer reads the answers.
    ClientGone,
}

impl From<Refusal> for StreamEnd {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl StreamSession {
    pub(super) fn new(
        rpcs: DecryptRpcs,
        authorized: Authorized,
        quota: CallQuota,
        audit: StreamAudit,
        answers: mpsc::Sender<Result<DecryptStreamResponse, Status>>,
    ) -> Self {
        Self {
            rpcs,
            authorized,
            sealing: StreamSealing::Clear,
            quota,
            audit,
            answers,
        }
    }

    pub(super) async fn run(mut self, mut messages: Streaming<DecryptStreamRequest>) {
        match self.answer_all(&mut messages).await {
            Ok(()) | Err(StreamEnd::ClientGone) => {}
            Err(StreamEnd::Refused(refusal)) => drop(self.answers.send(Err(refusal.into())).await),
        }
    }

    async fn answer_all(&mut self, messages: &mut Streaming<DecryptStreamRequest>) -> Result<(), StreamEnd> {
        loop {
            let message = tokio::select! {
                message = messages.message() => message,
                () = self.rpcs.shutdown.cancelled() => {
                    let ended = "the vault is shutting down; open another stream";
                    return Err(Refusal::new(Reason::ShuttingDown, ended).into());
                }
                () = self.answers.closed() => return Err(StreamEnd::ClientGone),
            };
            match message {
                Ok(Some(message)) => {
                    let answered = self.answer(message).await;
                    if let Err(StreamEnd::Refused(refusal)) = &answered {
                        self.audit.record_refused_message(refusal).await;
                    }
                    answered?;
                }
                // The client half-closed the stream, or the stream broke; in both cases no further message can arrive.
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }

    async fn answer(&mut self, message: DecryptStreamRequest) -> Result<(), StreamEnd> {
        let DecryptStreamRequest { calls, recipient } = message;
        check_size(&calls)?;
        let is_new_epoch = recipient.is_some();
        if let Some(recipient) = recipient {
            let injector = self.authorized.principal()?;
            self.quota.spend(SEALING);
            self.sealing.begin(&recipient, &self.rpcs.id()?, injector)?;
        }
        if self.rpcs.require_sealed && !self.sealing.is_on() {
            return Err(sealing_required().into());
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
            let message = with_epoch(&mut self.sealing, Vec::new());
            self.send(message).await?;
        }
        let mut batch = CallBatch::new(calls);
        while batch.parse(&self.authorized) {
            self.answer_piece(&mut batch).await?;
        }
        Ok(())
    }

    /// Writes the audit lines of a message whose calls are all refused alike.
    async fn record_refusal(&self, calls: &[DecryptCall], refusal: &Refusal) {
        let refused = calls.iter().map(|DecryptCall { id, request }| {
            let request = request.clone().unwrap_or_default();
            (*id, Err(RefusedDecrypt::new(refusal.clone(), &request)))
        });
        // The result is not needed: the calls are refused whether or not the lines are written.
        self.audit.record(refused.collect()).await;
    }

    /// Answers all calls of a message with the same refusal. The answers are small, and the stream reads no further
    /// message before the connection takes the answers.
    async fn refuse(&mut self, calls: Vec<DecryptCall>, refusal: &Refusal) -> Result<(), StreamEnd> {
        let answers = calls.into_iter().map(|DecryptCall { id, request }| {
            let check_only = request.is_some_and(|request| request.check_only);
            self.rpcs.metrics.decrypt(check_only, Some(refusal.reason));
            wire_answer(id, Err(refusal.clone()))
        });
        let message = with_epoch(&mut self.sealing, answers.collect());
        self.send(message).await
    }

    /// Answers the next parsed calls of a batch, once there is room for the answers.
    async fn answer_piece(&mut self, batch: &mut CallBatch) -> Result<(), StreamEnd> {
        let room = tokio::select! {
            room = self.quota.room() => room,
            () = self.answers.closed() => return Err(StreamEnd::ClientGone),
        };
        let answers = decrypt_piece(&self.rpcs, &self.audit, &mut self.sealing, batch).await;
        let names = answers.iter().map(names_of).sum();
        let message = with_epoch(&mut self.sealing, answers);
        room.settle(names, message.encoded_len() + MESSAGE_HEAD);
        self.send(message).await
    }

    async fn send(&self, message: DecryptStreamResponse) -> Result<(), StreamEnd> {
        let sent = self.answers.send(Ok(message)).await;
        sent.map_err(|_| StreamEnd::ClientGone)
    }
}

fn check_size(calls: &[DecryptCall]) -> Result<(), Refusal> {
    let names = calls
        .iter()
        .flat_map(|call| &call.request)
        .map(|request| request.names.len());
    if calls.len() > MAX_CALLS || names.sum::<usize>() > MAX_MESSAGE_NAMES {
        let limit = format!("a message has at most {MAX_CALLS} calls and {MAX_MESSAGE_NAMES} names");
        return Err(Refusal::new(Reason::RequestMalformed, limit));
    }
    Ok(())
}

/// Decrypts and seals the next calls of a batch. The answers must be sent in this order, because the client opens sealed
/// values in sequence.
async fn decrypt_piece(
    rpcs: &DecryptRpcs,
    audit: &StreamAudit,
    sealing: &mut StreamSealing,
    batch: &mut CallBatch,
) -> Vec<DecryptAnswer> {
    let began = Instant::now();
    let decrypted = rpcs.reader.decrypt(batch.queries()).await;
    let mut decrypted = decrypted.into_iter();
    let mut answers = Vec::new();
    while let Some((id, parsed)) = batch.parsed.pop_front() {
        let answer = match parsed {
            Err(refused) => Err(refused),
            Ok(parsed) => match decrypted.next() {
                Some(decrypted) => parsed.answer(decrypted, &rpcs.metrics),
                None => {
                    batch.parsed.push_front((id, Ok(parsed)));
                    break;
                }
            },
        };
        answers.push((id, answer));
    }
    let checks: Vec<_> = answers.iter().map(|(_, answer)| is_check(answer)).collect();
    let answers = audit.record(answers).await.into_iter();
    answers
        .zip(checks)
        .map(|((id, answer), check_only)| {
            let answer = rpcs.count(check_only, answer, began);
            let response = answer.and_then(|answer| sealing.answer(answer, id));
            wire_answer(id, response)
        })
        .collect()
}

/// Returns true for a decrypt with `check_only`.
fn is_check(answer: &Result<DecryptedAnswer, RefusedDecrypt>) -> bool {
    match answer {
        Ok(answer) => answer.query.check_only,
        Err(refused) => refused.subject.check_only,
    }
}

/// Makes a message with the epoch of its answers.
fn with_epoch(sealing: &mut StreamSealing, answers: Vec<DecryptAnswer>) -> DecryptStreamResponse {
    let mut message = DecryptStreamResponse {
        answers,
        ..Default::default()
    };
    sealing.add_epoch(&mut message);
    message
}

/// Returns the number of names in an answer. A refusal counts as one.
fn names_of(answer: &DecryptAnswer) -> usize {
    match &answer.outcome {
        Some(Outcome::Response(response)) => response.secrets.len().max(1),
        Some(Outcome::Error(_)) | None => 1,
    }
}

struct CallBatch {
    calls: vec::IntoIter<DecryptCall>,
    /// The first of these calls, as many as one turn may answer, parsed.
    parsed: VecDeque<(u64, Result<ParsedDecrypt, RefusedDecrypt>)>,
}

impl CallBatch {
    fn new(calls: Vec<DecryptCall>) -> Self {
        Self {
            calls: calls.into_iter(),
            parsed: VecDeque::new(),
        }
    }

    /// Parses the next calls. Returns true when the batch has any.
    fn parse(&mut self, authorized: &Authorized) -> bool {
        let mut names: usize = self.queries().iter().map(|query| query.names.len()).sum();
        while names < MAX_NAMES
            && self.parsed.len() < MAX_NAMES
            && let Some(DecryptCall { id, request }) = self.calls.next()
        {
            let request = request.unwrap_or_default();
            let parsed = ParsedDecrypt::parse(authorized, &request);
            let parsed = parsed.map_err(|refusal| RefusedDecrypt::new(refusal, &request));
            names += parsed.as_ref().map_or(0, |parsed| parsed.query.names.len());
            self.parsed.push_back((id, parsed));
        }
        !self.parsed.is_empty()
    }

    /// Returns the queries of the parsed calls that are valid.
    fn queries(&self) -> Vec<Arc<DecryptQuery>> {
        let parsed = self.parsed.iter().filter_map(|(_, parsed)| parsed.as_ref().ok());
        parsed.map(|parsed| parsed.query.clone()).collect()
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
