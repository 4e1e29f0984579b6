//! `vault.v1.DecryptService`.

mod call;
mod sealing;
mod stream;
mod stream_audit;

use chassis::{authz::Authorized, caller::Caller};
use prost::Message as _;
use proto::vault::v1::{
    DecryptRequest, DecryptResponse, DecryptStreamRequest, DecryptStreamResponse,
    decrypt_service_server::DecryptService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use call::DecryptRpcs;

use super::{quota::SEALING, subject::Subject};
use call::{MESSAGE_HEAD, ParsedDecrypt};
use sealing::{seal_unary, sealing_required};
use stream::StreamSession;
use stream_audit::StreamAudit;

/// Number of answer messages that may wait for a slow client before the stream stops decrypting more of its calls.
const UNREAD: usize = 1;

#[tonic::async_trait]
impl DecryptService for DecryptRpcs {
    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let subject = Subject::of(&request);
        subject.note_request(request.get_ref());
        let authorized = Authorized::of(&request)?;
        let recipient = &request.get_ref().recipient_key;
        if recipient.is_empty() && self.require_sealed {
            return Err(sealing_required().into());
        }
        let quota = self.quotas.admit(authorized.principal()?)?;
        if !recipient.is_empty() {
            quota.spend(SEALING);
        }
        let room = quota.room().await;
        let parsed = ParsedDecrypt::parse(authorized, request.get_ref());
        let answer = self.answer(parsed, request.get_ref().check_only).await?;
        subject.note_outcomes(&answer.response.secrets);
        let response = if recipient.is_empty() {
            answer.in_clear()
        } else {
            seal_unary(answer, recipient, &self.id()?, authorized.principal()?)?
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
        let session = StreamSession::new(self.clone(), authorized, quota, audit, answers);
        tokio::spawn(session.run(request.into_inner()));
        Ok(response)
    }
}
