//! The body of a request, read as far as it has to be before secrets are put into it.

use std::sync::Arc;

use http::HeaderMap;
use http_body::Body as _;
use proto::{Reason, Refusal};
use tokio::time::{Instant, timeout};

use super::deadline::within;
use crate::{
    inject::{BodySecrets, Carrier},
    limits::Limits,
    placement::AuthType,
    proxy::{
        body::{self, Fault, Json, Unsent},
        buffer_budget::BufferBudget,
        grpc::{self, LaterMessages},
        received_body::ReceivedBody,
        record::Afterwards,
    },
    upstream::Body,
};

const NO_MESSAGE: &str = "the request's first message did not come within the call's deadline";

/// A body of a request, by what is put into it.
pub(super) enum RequestBody {
    /// Nothing is put in, and nothing was read.
    Unchanged(ReceivedBody),
    /// A member is put into the JSON.
    Json(Json),
    /// A field is put into the messages, of which the first was read.
    Messages(Box<grpc::GrpcBody>),
}

/// The limits on reading a body, and the places in which a body leaves news of itself while it is sent.
pub(super) struct Reading<'c> {
    pub(super) auth_type: AuthType,
    pub(super) limits: &'c Limits,
    pub(super) budget: &'c BufferBudget,
    pub(super) deadline: Option<Instant>,
    pub(super) fault: &'c Fault,
    pub(super) unsent: &'c Unsent,
}

impl RequestBody {
    /// Reads a body with the headers `headers`, which afterwards describe the body that is sent.
    pub(super) async fn read(
        body: ReceivedBody,
        carrier: Carrier,
        headers: &mut HeaderMap,
        reading: &Reading<'_>,
    ) -> Result<Self, Refusal> {
        let held = reading.budget.empty_reservation();
        match carrier {
            Carrier::None => Ok(Self::Unchanged(body)),
            Carrier::Json => {
                if !body.is_end_stream() {
                    body::check_type(headers)?;
                }
                let Limits {
                    max_buffered_body,
                    body_timeout,
                    ..
                } = *reading.limits;
                let json = timeout(body_timeout, Json::read(body, max_buffered_body, held)).await;
                let late = "the body did not come in time; see --body-timeout";
                Ok(Self::Json(
                    json.map_err(|_| Refusal::new(Reason::BodyTimeout, late))??,
                ))
            }
            // `--body-timeout` does not apply: a gRPC client may send its first message at any time before its deadline.
            Carrier::Protobuf(protobuf) => {
                let (auth_type, fault) = (reading.auth_type, reading.fault);
                // Boxed, because the future is large, and most calls do not need it.
                let mut messages = Box::pin(grpc::GrpcBody::read(
                    protobuf, auth_type, headers, body, fault, held,
                ));
                let messages = within(reading.deadline, NO_MESSAGE, messages.as_mut()).await?;
                Ok(Self::Messages(Box::new(messages)))
            }
        }
    }

    /// Returns the body to send, with `secrets` in it. Also returns the log for later messages when these get secrets,
    /// too, by `later`.
    pub(super) fn with(
        self,
        secrets: BodySecrets,
        reading: &Reading<'_>,
        later: impl FnOnce() -> LaterMessages,
    ) -> Result<(Body, Option<Arc<Afterwards>>), Refusal> {
        let fault = reading.fault;
        match (self, secrets) {
            (Self::Unchanged(body), BodySecrets::None) => {
                Ok((body::request(body, reading.auth_type, fault), None))
            }
            (Self::Json(json), BodySecrets::Json(secrets)) => {
                Ok((json.with(secrets, fault, reading.unsent)?, None))
            }
            (Self::Messages(messages), BodySecrets::Protobuf(entries)) => {
                let later = later();
                let afterwards = later.afterwards.clone();
                Ok((messages.with(&entries, later)?, Some(afterwards)))
            }
            // The call's `Carrier` decides both, so that both always fit.
            (Self::Unchanged(_) | Self::Json(_) | Self::Messages(_), _) => {
                Err(Refusal::new(Reason::Internal, "secrets and body do not fit"))
            }
        }
    }

    /// Returns true when the body is to carry secrets, and the request has none.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            Self::Unchanged(_) => false,
            Self::Json(json) => matches!(json, Json::None),
            Self::Messages(messages) => messages.is_empty(),
        }
    }
}
