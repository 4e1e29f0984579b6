//! The body of a request, read as far as it has to be before secrets are put into it.

use std::sync::Arc;

use http::HeaderMap;
use http_body::Body as _;
use proto::{Reason, Refusal};
use tokio::time::timeout;

use super::{context::CallContext, deadline::within};
use crate::{
    inject::{BodyPlacement, BodySecrets},
    proxy::{
        body,
        call_record::MessageRecord,
        grpc::{GrpcBody, LaterMessages},
        json_body::{self, JsonBody},
        received_body::ReceivedBody,
        upload::UploadState,
    },
    registry::Entry,
    upstream::Body,
};

const NO_BODY: &str = "the body did not come in time; see --body-timeout";
const NO_MESSAGE: &str = "the request's first message did not come within the call's deadline";

pub(super) enum RequestBody {
    /// The body passes unchanged, and was not read.
    Unchanged(ReceivedBody),
    Json(JsonBody),
    /// Secrets go into the messages, of which the first was read.
    Grpc(Box<GrpcBody>),
}

impl RequestBody {
    /// Reads a body with the headers `headers`, which afterwards describe the body that is sent.
    pub(super) async fn read(
        body: ReceivedBody,
        placement: BodyPlacement,
        entry: &Arc<Entry>,
        headers: &mut HeaderMap,
        context: &CallContext<'_>,
        upload: &UploadState,
    ) -> Result<Self, Refusal> {
        let limits = &context.proxy.limits;
        let reservation = context.proxy.budget.empty_reservation();
        match placement {
            BodyPlacement::None => Ok(Self::Unchanged(body)),
            BodyPlacement::Json => {
                if !body.is_end_stream() {
                    json_body::check_type(headers)?;
                }
                let reading = JsonBody::read(body, limits.max_buffered_body, reservation);
                let json = timeout(limits.body_timeout, reading).await;
                Ok(Self::Json(
                    json.map_err(|_| Refusal::new(Reason::BodyTimeout, NO_BODY))??,
                ))
            }
            // `--body-timeout` does not apply: a gRPC client may send its first message at any time before its
            // deadline.
            BodyPlacement::Protobuf(protobuf) => {
                // Boxed, because the future is large, and most calls do not need it.
                let mut reading = Box::pin(GrpcBody::read(
                    protobuf,
                    entry.clone(),
                    headers,
                    body,
                    upload,
                    reservation,
                ));
                let messages = within(context.deadline, NO_MESSAGE, reading.as_mut()).await?;
                Ok(Self::Grpc(Box::new(messages)))
            }
        }
    }

    /// Returns the body to send, with `secrets` in it, and the record of later messages when they get secrets as well.
    pub(super) fn with(
        self,
        secrets: BodySecrets,
        entry: &Arc<Entry>,
        upload: &UploadState,
        later: impl FnOnce() -> LaterMessages,
    ) -> Result<(Body, Option<Arc<MessageRecord>>), Refusal> {
        match (self, secrets) {
            (Self::Unchanged(body), BodySecrets::None) => {
                Ok((body::request(body, entry.clone(), upload.clone()), None))
            }
            (Self::Json(json), BodySecrets::Json(secrets)) => Ok((json.with(secrets, upload)?, None)),
            (Self::Grpc(messages), BodySecrets::Protobuf(entries)) => {
                let later = later();
                let record = later.record.clone();
                Ok((messages.with(&entries, later)?, Some(record)))
            }
            // The call's `BodyPlacement` decides both, so they always fit.
            (Self::Unchanged(_) | Self::Json(_) | Self::Grpc(_), _) => {
                Err(Refusal::new(Reason::Internal, "secrets and body do not fit"))
            }
        }
    }

    /// Returns true when the body is to carry secrets, and the request has none.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            Self::Unchanged(_) => false,
            Self::Json(json) => matches!(json, JsonBody::Absent),
            Self::Grpc(messages) => messages.is_empty(),
        }
    }
}
