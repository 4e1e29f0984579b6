//! The body of a request, read as far as it has to be before secrets are put into it.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use http_body::Body as _;
use proto::{Reason, Refusal};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{context::CallContext, deadline::within};
use crate::{
    inject::{
        BodyPlacement, BodySecrets,
        json::{JsonMembers, insert_members},
    },
    proxy::{
        body,
        body_type::BodyTypes,
        buffered_body::{BufferedBody, WholeBody},
        call_record::LaterRecord,
        grpc::{GrpcBody, LaterMessages},
        json_body,
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
    /// The member `secrets` goes into a JSON body, which may be larger than what was read.
    Json(BufferedBody),
    /// Members go into a JSON body at JSON Pointers.
    Members(WholeBody),
    /// Fields go into a form.
    Form(WholeBody),
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
                check_present(&body, headers, BodyTypes::Json)?;
                let reading = BufferedBody::read(body, limits.max_buffered_body, reservation);
                Ok(Self::Json(in_time(limits.body_timeout, reading).await?))
            }
            BodyPlacement::Members { or_form } => {
                let types = match or_form {
                    true => BodyTypes::JsonAndForm,
                    false => BodyTypes::Json,
                };
                check_present(&body, headers, types)?;
                let reading = WholeBody::read(body, limits.max_buffered_body, reservation);
                Ok(Self::Members(in_time(limits.body_timeout, reading).await?))
            }
            BodyPlacement::Form => {
                check_present(&body, headers, BodyTypes::Form)?;
                let reading = WholeBody::read(body, limits.max_buffered_body, reservation);
                Ok(Self::Form(in_time(limits.body_timeout, reading).await?))
            }
            // `--body-timeout` does not apply: a gRPC client may send its first message at any time before its
            // deadline.
            BodyPlacement::Protobuf(messages) => {
                // Boxed, because the future is large, and most calls do not need it.
                let mut reading = Box::pin(GrpcBody::read(
                    messages,
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
    ) -> Result<(Body, Option<Arc<LaterRecord>>), Refusal> {
        match (self, secrets) {
            (Self::Unchanged(body), BodySecrets::None) => {
                Ok((body::request(body, entry.clone(), upload.clone()), None))
            }
            (Self::Json(json), BodySecrets::Json(secrets)) => {
                Ok((json_body::with_secrets(json, secrets, upload)?, None))
            }
            (Self::Members(json), BodySecrets::Members(members)) => {
                Ok((json.rewrite(|body| with_members(body, &members))?, None))
            }
            (Self::Form(form), BodySecrets::Form(fields)) => {
                Ok((form.rewrite(|body| Ok(fields.put_into(body)))?, None))
            }
            (Self::Grpc(messages), BodySecrets::Protobuf(entries)) => {
                let later = later();
                let record = later.record.clone();
                Ok((messages.with(&entries, later)?, Some(record)))
            }
            // The call's `BodyPlacement` decides both, so they always fit.
            (Self::Unchanged(_) | Self::Json(_) | Self::Members(_) | Self::Form(_) | Self::Grpc(_), _) => {
                Err(Refusal::new(Reason::Internal, "secrets and body do not fit"))
            }
        }
    }

    /// Returns true when the body is to carry secrets, and the request has none.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            Self::Unchanged(_) => false,
            Self::Json(json) => json.is_absent(),
            Self::Members(body) | Self::Form(body) => body.is_absent(),
            Self::Grpc(messages) => messages.is_empty(),
        }
    }
}

/// Checks the type of a body, if the request has one.
fn check_present(body: &ReceivedBody, headers: &HeaderMap, types: BodyTypes) -> Result<(), Refusal> {
    match body.is_end_stream() {
        true => Ok(()),
        false => types.check(headers),
    }
}

fn with_members(body: &[u8], members: &JsonMembers) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    insert_members(body, members).map_err(|error| Refusal::new(Reason::BodyInvalid, error))
}

async fn in_time<B>(
    limit: Duration,
    reading: impl Future<Output = Result<B, Refusal>>,
) -> Result<B, Refusal> {
    let read = timeout(limit, reading).await;
    read.map_err(|_| Refusal::new(Reason::BodyTimeout, NO_BODY))?
}
