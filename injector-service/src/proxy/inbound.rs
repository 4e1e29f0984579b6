//! A request's body, read as far as is needed to know what becomes of it.

use std::sync::Arc;

use http::HeaderMap;
use http_body::Body as _;
use proto::{Reason, Refusal};
use tokio::time::{Instant, timeout};

use super::{
    body::{self, Fault, Json, Unsent},
    buffer_budget::BufferBudget,
    call::within,
    grpc::{self, LaterMessages},
    received_body::ReceivedBody,
    record::Afterwards,
};
use crate::{
    inject::{BodySecrets, Carrier},
    limits::Limits,
    placement::AuthType,
    upstream::Body,
};

/// A request's body, as its server gets it.
pub(super) enum Inbound {
    /// As it comes: not read yet.
    Passed,
    /// With a member put into its JSON.
    Json(Json),
    /// With a field put into its messages.
    Messages(Box<grpc::GrpcBody>),
}

/// How a request's body is read.
pub(super) struct Reading<'c> {
    pub(super) auth_type: AuthType,
    pub(super) limits: &'c Limits,
    pub(super) budget: &'c BufferBudget,
    pub(super) deadline: Option<Instant>,
    pub(super) fault: &'c Fault,
    /// Tells whether secrets in a JSON body were sent.
    pub(super) unsent: &'c Unsent,
}

impl Reading<'_> {
    /// Reads a body that `headers` describe, if it has to be read; else it stays where it is.
    pub(super) async fn read(
        &self,
        carrier: Carrier,
        headers: &mut HeaderMap,
        body: &mut Option<ReceivedBody>,
    ) -> Result<Inbound, Refusal> {
        match carrier {
            Carrier::None => Ok(Inbound::Passed),
            Carrier::Json => {
                if body.as_ref().is_some_and(|body| !body.is_end_stream()) {
                    body::check_type(headers)?;
                }
                let reading = Json::read(taken(body)?, self.limits.max_buffered_body, self.budget.none());
                let json = timeout(self.limits.body_timeout, reading).await;
                let late = "the body did not come in time; see --body-timeout";
                Ok(Inbound::Json(
                    json.map_err(|_| Refusal::new(Reason::BodyTimeout, late))??,
                ))
            }
            // Whoever calls decides when its first message comes, and says by when it wants an answer.
            Carrier::Protobuf(protobuf) => {
                let late = "the request's first message did not come within the call's deadline";
                let body = taken(body)?;
                // Seldom there, and large: not a part of every call's state.
                let mut reading = Box::pin(grpc::GrpcBody::read(
                    protobuf,
                    self.auth_type,
                    headers,
                    body,
                    self.fault,
                    self.budget.none(),
                ));
                let messages = within(self.deadline, late, reading.as_mut()).await?;
                Ok(Inbound::Messages(Box::new(messages)))
            }
        }
    }
}

/// A body is read once.
fn taken(body: &mut Option<ReceivedBody>) -> Result<ReceivedBody, Refusal> {
    body.take()
        .ok_or_else(|| Refusal::new(Reason::Internal, "the body was read already"))
}

impl Inbound {
    /// The body that is sent, with `secrets` in it; and if more of them follow, who tells of those.
    pub(super) fn with(
        self,
        secrets: BodySecrets,
        reading: &Reading<'_>,
        body: &mut Option<ReceivedBody>,
        later: impl FnOnce() -> LaterMessages,
    ) -> Result<(Body, Option<Arc<Afterwards>>), Refusal> {
        let fault = reading.fault;
        match (self, secrets) {
            (Self::Passed, BodySecrets::None) => {
                Ok((body::request(taken(body)?, reading.auth_type, fault), None))
            }
            (Self::Json(json), BodySecrets::Json(secrets)) => {
                Ok((json.with(secrets, fault, reading.unsent)?, None))
            }
            (Self::Messages(messages), BodySecrets::Protobuf(entries)) => {
                let later = later();
                let afterwards = later.afterwards.clone();
                Ok((messages.with(&entries, later)?, Some(afterwards)))
            }
            // Both follow from the one carrier.
            (Self::Passed | Self::Json(_) | Self::Messages(_), _) => {
                Err(Refusal::new(Reason::Internal, "secrets and body do not fit"))
            }
        }
    }

    /// Whether secrets were to go into the body, and there is none.
    pub(super) fn lacks_a_body(&self) -> bool {
        match self {
            Self::Passed => false,
            Self::Json(json) => matches!(json, Json::None),
            Self::Messages(messages) => messages.is_empty(),
        }
    }
}
