//! `vault.v1.DecryptService`.

use std::{sync::Arc, time::Instant};

use chassis::{authz::Authorized, caller::Caller};
use prost::Message as _;
use proto::{
    CallId, Principal, Reason, Refusal, SecretName, SecretValue, Uid,
    secret_name::distinct,
    vault::v1::{
        DecryptRequest, DecryptResponse, DecryptStatus, DecryptStreamRequest, DecryptStreamResponse,
        DecryptedSecret, decrypt_service_server::DecryptService,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    conversation::Conversation,
    quota::{Quotas, SEALING},
    sealing::{Answer, required, seal_one},
    server_text,
    stream_audit::{Refused, StreamAudit},
    subject::{About, Subject},
    workspace_name,
};
use crate::{
    audit_log::AuditLog,
    authz::DecryptPermit,
    metrics::Metrics,
    status::{duplicate_name, refusal, secret_name},
    vault::{Decrypted, MAX_NAMES, Reader, VaultError, Wanted},
};

/// Number of answer messages that may wait for a slow client before the stream stops decrypting more of its calls.
const UNREAD: usize = 1;
/// Bytes of a gRPC message's head.
pub(super) const MESSAGE_HEAD: usize = 5;

/// Answers from a [`Reader`].
#[derive(Clone)]
pub(crate) struct Decrypting {
    pub(crate) reader: Reader,
    pub(crate) metrics: Metrics,
    pub(crate) audit_log: AuditLog,
    /// Quotas of the principals.
    pub(crate) quotas: Quotas,
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
        let subject = Subject::of(&request);
        subject.asked(request.get_ref());
        let authorized = Authorized::of(&request)?;
        let recipient = &request.get_ref().recipient_key;
        if recipient.is_empty() && self.require_sealed {
            return Err(required().into());
        }
        let quota = self.quotas.admit(authorized.principal()?)?;
        if !recipient.is_empty() {
            quota.spend(SEALING);
        }
        let room = quota.room().await;
        let answer = self.answer(Asked::parse(authorized, request.get_ref())).await?;
        subject.answered(&answer.response.secrets);
        let response = if recipient.is_empty() {
            answer.in_clear()
        } else {
            seal_one(answer, recipient, &self.id, authorized.principal()?)?
        };
        room.settle(response.secrets.len(), response.encoded_len() + MESSAGE_HEAD);
        let mut response = Response::new(response);
        response.extensions_mut().insert(quota.charge());
        Ok(response)
    }

    type DecryptStreamStream = ReceiverStream<Result<DecryptStreamResponse, Status>>;

    async fn decrypt_stream(
        &self,
        request: Request<Streaming<DecryptStreamRequest>>,
    ) -> Result<Response<Self::DecryptStreamStream>, Status> {
        let authorized = Authorized::of(&request)?.clone();
        let caller = request.extensions().get::<Caller>().cloned();
        let quota = self.quotas.admit(authorized.principal()?)?;
        let (answers, stream) = mpsc::channel(UNREAD);
        let mut response = Response::new(ReceiverStream::new(stream));
        response.extensions_mut().insert(quota.charge());
        let audit = StreamAudit {
            log: self.audit_log.clone(),
            caller,
        };
        let conversation = Conversation::new(self.clone(), authorized, quota, audit, answers);
        tokio::spawn(conversation.hold(request.into_inner()));
        Ok(response)
    }
}

impl Decrypting {
    /// The answer to one decrypt.
    async fn answer(&self, asked: Result<Asked, Refusal>) -> Result<Answer, Refusal> {
        let began = Instant::now();
        let decrypted = match &asked {
            Ok(asked) => self.reader.decrypt(vec![asked.wanted.clone()]).await.pop(),
            Err(_) => None,
        };
        let answer = match (asked, decrypted) {
            (Ok(asked), Some(decrypted)) => {
                let answer = asked.answer(decrypted, &self.metrics);
                answer.map_err(|refused| refused.refusal)
            }
            (Ok(_), None) => Err(refusal(VaultError::Stopped)),
            (Err(refusal), _) => Err(refusal),
        };
        self.count(answer, began)
    }

    /// Counts one decrypt that began at `began`, and returns its answer.
    pub(super) fn count(&self, answer: Result<Answer, Refusal>, began: Instant) -> Result<Answer, Refusal> {
        let refused = answer.as_ref().err().map(|refusal| refusal.reason);
        self.metrics.decrypt(refused);
        self.metrics
            .decrypt_seconds
            .observe(began.elapsed().as_secs_f64());
        answer
    }
}

/// One decrypt, parsed and permitted.
pub(super) struct Asked {
    pub(super) wanted: Arc<Wanted>,
    pub(super) call_id: Option<CallId>,
}

impl Asked {
    pub(super) fn parse(authorized: &Authorized, request: &DecryptRequest) -> Result<Self, Refusal> {
        let DecryptRequest {
            workspace,
            workspace_uid,
            server,
            names,
            check_only,
            recipient_key: _,
            call_id,
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
        let call_id = match call_id.as_str() {
            "" => None,
            text => Some(CallId::parse(text).map_err(|error| Refusal::new(Reason::RequestMalformed, error))?),
        };
        let server = server_text(server);
        Ok(Self {
            wanted: Arc::new(Wanted {
                permit,
                workspace_uid,
                names,
                check_only: *check_only,
                server,
            }),
            call_id,
        })
    }

    /// The answer of the vault, as it is sent.
    pub(super) fn answer(
        self,
        decrypted: Result<(Uid, Vec<Decrypted>), VaultError>,
        metrics: &Metrics,
    ) -> Result<Answer, Refused> {
        let (workspace, secrets) = decrypted.map_err(|error| Refused {
            refusal: refusal(error),
            about: Box::new(About::wanted(&self.wanted, self.call_id.clone())),
        })?;
        tracing::debug!(
            principal = %self.wanted.permit.principal(),
            workspace = %self.wanted.permit.workspace(),
            server = self.wanted.server,
            names = secrets.len(),
            check_only = self.wanted.check_only,
            call_id = self.call_id.as_ref().map(CallId::as_str),
            "decrypted"
        );
        let secrets = self.wanted.names.iter().zip(secrets);
        let (secrets, values) = secrets
            .map(|(name, secret)| {
                let (shown, value) = shown(name, secret);
                metrics.secret(shown.status());
                (shown, value)
            })
            .unzip();
        Ok(Answer {
            response: DecryptResponse {
                workspace_uid: workspace.to_string(),
                secrets,
                ..Default::default()
            },
            values,
            wanted: self.wanted,
            call_id: self.call_id,
        })
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
            facts,
        } => {
            let shown = DecryptedSecret {
                version,
                upstream_origins: origins.iter().map(ToString::to_string).collect(),
                facts,
                ..status(DecryptStatus::Ok)
            };
            (shown, value)
        }
        Decrypted::NotFound => (status(DecryptStatus::NotFound), None),
        Decrypted::Expired => (status(DecryptStatus::Expired), None),
        Decrypted::DataLoss => (status(DecryptStatus::DataLoss), None),
        Decrypted::KeyNotLoaded => (status(DecryptStatus::KeyNotLoaded), None),
    }
}
