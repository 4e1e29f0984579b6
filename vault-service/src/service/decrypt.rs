//! `vault.v1.DecryptService`.

use std::sync::Arc;

use prost::Message as _;
use proto::{
    Reason, Refusal, SecretName, SecretValue, Uid,
    secret_name::distinct,
    serve::{authz::Authorized, caller::Principal},
    vault::v1::{
        DecryptAnswer, DecryptCall, DecryptError, DecryptRequest, DecryptResponse, DecryptStatus,
        DecryptStreamRequest, DecryptStreamResponse, DecryptedSecret, decrypt_answer::Outcome,
        decrypt_service_server::DecryptService,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    sealing::{Answer, Sealing, required, seal_one},
    workspace_name,
};
use crate::{
    authz::DecryptPermit,
    metrics::Metrics,
    status::{duplicate_name, refusal, secret_name},
    vault::{Decrypted, MAX_ANSWER, MAX_NAMES, Reader, VaultError, Wanted},
};

/// The most calls in one message of a stream.
const MAX_BATCH: usize = 256;
/// Answers that may wait for a slow client before its next message is read.
const UNREAD: usize = 4;

/// Answers from a [`Reader`].
#[derive(Clone)]
pub(crate) struct Decrypting {
    pub(crate) reader: Reader,
    pub(crate) metrics: Metrics,
    /// Who this vault is, as its certificate names it.
    pub(crate) id: Principal,
    /// Whether values are given sealed or not at all.
    pub(crate) require_sealed: bool,
    /// Streams end when the service does, or it would wait for them for ever.
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl DecryptService for Decrypting {
    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let authorized = Authorized::of(&request)?;
        let recipient = &request.get_ref().recipient_key;
        if recipient.is_empty() && self.require_sealed {
            return Err(required().into());
        }
        let asked = Asked::parse(authorized, request.get_ref());
        let answer = self.answer(vec![asked]).await.pop();
        let answer = answer.unwrap_or_else(|| Err(Refusal::new(Reason::Internal, "no answer")))?;
        Ok(Response::new(if recipient.is_empty() {
            answer.in_clear()
        } else {
            seal_one(answer, recipient, &self.id, authorized.principal()?)?
        }))
    }

    type DecryptStreamStream = ReceiverStream<Result<DecryptStreamResponse, Status>>;

    async fn decrypt_stream(
        &self,
        request: Request<Streaming<DecryptStreamRequest>>,
    ) -> Result<Response<Self::DecryptStreamStream>, Status> {
        let authorized = Authorized::of(&request)?.clone();
        let (answers, stream) = mpsc::channel(UNREAD);
        tokio::spawn(self.clone().converse(authorized, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Decrypting {
    /// Answers the messages of one stream in turn. Requests that arrive meanwhile gather in the next message, so the
    /// busier the stream, the cheaper each.
    async fn converse(
        self,
        authorized: Authorized,
        mut messages: Streaming<DecryptStreamRequest>,
        answers: mpsc::Sender<Result<DecryptStreamResponse, Status>>,
    ) {
        let mut sealing = Sealing::Clear;
        loop {
            let message = tokio::select! {
                message = messages.message() => message,
                () = self.shutdown.cancelled() => {
                    let ended = Refusal::new(Reason::ShuttingDown, "the vault is shutting down; open another stream");
                    drop(answers.send(Err(ended.into())).await);
                    return;
                }
                () = answers.closed() => return,
            };
            let answered = match message {
                Ok(Some(message)) => self.message(&authorized, message, &mut sealing).await,
                // Half-closed, or broken: either way there is nobody left to answer.
                Ok(None) | Err(_) => return,
            };
            match answered {
                Ok(messages) => {
                    for message in messages {
                        if answers.send(Ok(message)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(refusal) => {
                    drop(answers.send(Err(refusal.into())).await);
                    return;
                }
            }
        }
    }

    /// The answers to one message; a refusal ends the stream.
    async fn message(
        &self,
        authorized: &Authorized,
        message: DecryptStreamRequest,
        sealing: &mut Sealing,
    ) -> Result<Vec<DecryptStreamResponse>, Refusal> {
        let DecryptStreamRequest { calls, recipient } = message;
        if calls.len() > MAX_BATCH {
            let limit = format!("a message has at most {MAX_BATCH} calls");
            return Err(Refusal::new(Reason::RequestMalformed, limit));
        }
        let is_new_epoch = recipient.is_some();
        if let Some(recipient) = recipient {
            sealing.begin(&recipient, &self.id, authorized.principal()?)?;
        }
        if self.require_sealed && !sealing.is_on() {
            return Err(required());
        }
        let answers = self.batch(authorized, calls, sealing).await;
        let mut messages = messages_of(answers);
        if is_new_epoch && messages.is_empty() {
            // The key before is needed until the client hears of the new one, so it does, whether or not it asked.
            messages.push(DecryptStreamResponse::default());
        }
        for message in &mut messages {
            sealing.sign(message);
        }
        Ok(messages)
    }

    /// Answers, in the order in which they are sealed and have to be sent.
    async fn batch(
        &self,
        authorized: &Authorized,
        calls: Vec<DecryptCall>,
        sealing: &mut Sealing,
    ) -> Vec<DecryptAnswer> {
        let (ids, asked): (Vec<u64>, Vec<_>) = calls
            .into_iter()
            .map(|DecryptCall { id, request }| (id, Asked::parse(authorized, &request.unwrap_or_default())))
            .unzip();
        let answers = self.answer(asked).await;
        ids.into_iter()
            .zip(answers)
            .map(|(id, answer)| {
                let outcome = match answer.and_then(|answer| sealing.answer(answer, id)) {
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
            })
            .collect()
    }

    /// Answers in the order asked, with one hop to a reading thread for all.
    async fn answer(&self, asked: Vec<Result<Asked, Refusal>>) -> Vec<Result<Answer, Refusal>> {
        let wanted = asked
            .iter()
            .filter_map(|asked| asked.as_ref().ok())
            .map(|asked| asked.wanted.clone())
            .collect();
        let mut decrypted = self.reader.decrypt(wanted).await.into_iter();
        let answers = asked.into_iter().map(|asked| -> Result<Answer, Refusal> {
            let asked = asked?;
            let nothing = || Err(VaultError::Stopped);
            let (uid, secrets) = decrypted.next().unwrap_or_else(nothing).map_err(refusal)?;
            Ok(asked.answer(uid, secrets, &self.metrics))
        });
        answers
            .inspect(|answer| {
                self.metrics
                    .decrypt(answer.as_ref().err().map(|refusal| refusal.reason))
            })
            .collect()
    }
}

/// As few messages as hold the answers, none larger than one answer may be and another one.
fn messages_of(answers: Vec<DecryptAnswer>) -> Vec<DecryptStreamResponse> {
    let mut messages = Vec::new();
    let (mut message, mut size) = (Vec::new(), 0);
    for answer in answers {
        size += answer.encoded_len();
        message.push(answer);
        if size > MAX_ANSWER {
            messages.push(DecryptStreamResponse {
                answers: std::mem::take(&mut message),
                ..Default::default()
            });
            size = 0;
        }
    }
    if !message.is_empty() {
        messages.push(DecryptStreamResponse {
            answers: message,
            ..Default::default()
        });
    }
    messages
}

/// One decrypt, parsed and permitted.
struct Asked {
    wanted: Arc<Wanted>,
}

impl Asked {
    fn parse(authorized: &Authorized, request: &DecryptRequest) -> Result<Self, Refusal> {
        let DecryptRequest {
            workspace,
            workspace_uid,
            server,
            names,
            check_only,
            recipient_key: _,
        } = request;
        let permit = DecryptPermit::decide(authorized, &workspace_name(workspace)?)?;
        if names.len() > MAX_NAMES {
            return Err(Refusal::new(
                Reason::RequestMalformed,
                format!("names: at most {MAX_NAMES} at once"),
            ));
        }
        let names = names
            .iter()
            .map(|name| SecretName::parse(name))
            .collect::<Result<_, _>>();
        let names = distinct(names.map_err(secret_name)?).map_err(duplicate_name)?;
        let workspace_uid = match workspace_uid.as_str() {
            "" => None,
            text => Some(Uid::parse(text).map_err(|error| Refusal::new(Reason::RequestMalformed, error))?),
        };
        let server = server.chars().take(63).collect();
        Ok(Self {
            wanted: Arc::new(Wanted {
                permit,
                workspace_uid,
                names,
                check_only: *check_only,
                server,
            }),
        })
    }

    fn answer(self, workspace: Uid, secrets: Vec<Decrypted>, metrics: &Metrics) -> Answer {
        tracing::debug!(
            principal = %self.wanted.permit.principal(),
            workspace = %self.wanted.permit.workspace(),
            server = self.wanted.server,
            names = secrets.len(),
            check_only = self.wanted.check_only,
            "decrypted"
        );
        let secrets = self.wanted.names.iter().zip(secrets);
        let (secrets, values) = secrets
            .map(|(name, secret)| {
                let (shown, value) = shown(name, secret);
                metrics.secret(shown.status());
                (shown, value.filter(|_| !self.wanted.check_only))
            })
            .unzip();
        Answer {
            response: DecryptResponse {
                workspace_uid: workspace.to_string(),
                secrets,
                ..Default::default()
            },
            values,
            wanted: self.wanted,
        }
    }
}

/// What is said of a secret, and its value.
fn shown(name: &SecretName, secret: Decrypted) -> (DecryptedSecret, Option<SecretValue>) {
    let status = |status: DecryptStatus| DecryptedSecret {
        name: name.to_string(),
        status: status.into(),
        ..Default::default()
    };
    match secret {
        Decrypted::Value {
            version,
            origins,
            value,
        } => {
            let shown = DecryptedSecret {
                version,
                upstream_origins: origins.iter().map(ToString::to_string).collect(),
                ..status(DecryptStatus::Ok)
            };
            (shown, Some(value))
        }
        Decrypted::NotFound => (status(DecryptStatus::NotFound), None),
        Decrypted::DataLoss => (status(DecryptStatus::DataLoss), None),
        Decrypted::KeyNotLoaded => (status(DecryptStatus::KeyNotLoaded), None),
    }
}
