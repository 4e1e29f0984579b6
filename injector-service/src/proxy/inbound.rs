//! A request's body, read as far as is needed to know what becomes of it.

use std::sync::Arc;

use http::HeaderMap;
use proto::{Reason, Refusal};
use tokio::time::Instant;

use super::{
    body::{self, Fault, Json},
    call::within,
    grpc::{self, Later},
    received::Received,
    record::Afterwards,
};
use crate::{
    inject::{BodySecrets, Carrier},
    placement::AuthType,
    upstream::Body,
};

/// A request's body, as its server gets it.
pub(super) enum Inbound {
    /// As it comes.
    Passed(Body),
    /// With a member put into its JSON.
    Json(Json),
    /// With a field put into its messages.
    Messages(grpc::Inbound),
}

impl Inbound {
    /// Reads a body that `headers` describe.
    pub(super) async fn read(
        carrier: Carrier,
        auth_type: AuthType,
        headers: &mut HeaderMap,
        body: Received,
        deadline: Option<Instant>,
        fault: &Fault,
    ) -> Result<Self, Refusal> {
        match carrier {
            Carrier::None => Ok(Self::Passed(body::request(body, auth_type, fault))),
            Carrier::Json => Ok(Self::Json(Json::read(headers, body).await?)),
            Carrier::Protobuf(protobuf) => {
                let late = "the request's first message did not come within the call's deadline";
                let reading = grpc::Inbound::read(protobuf, auth_type, headers, body, fault);
                Ok(Self::Messages(within(deadline, late, reading).await?))
            }
        }
    }

    /// The body that is sent, with `secrets` in it; and if more of them follow, who tells of those.
    pub(super) fn with(
        self,
        secrets: BodySecrets,
        fault: &Fault,
        later: impl FnOnce() -> Later,
    ) -> Result<(Body, Option<Arc<Afterwards>>), Refusal> {
        match (self, secrets) {
            (Self::Passed(body), BodySecrets::None) => Ok((body, None)),
            (Self::Json(json), BodySecrets::Json(secrets)) => Ok((json.with(secrets, fault)?, None)),
            (Self::Messages(messages), BodySecrets::Protobuf(entries)) => {
                let later = later();
                let afterwards = later.afterwards.clone();
                Ok((messages.with(&entries, later)?, Some(afterwards)))
            }
            // Both follow from the one carrier.
            (Self::Passed(_) | Self::Json(_) | Self::Messages(_), _) => {
                Err(Refusal::new(Reason::Internal, "secrets and body do not fit"))
            }
        }
    }

    /// Whether secrets were to go into the body, and there is none.
    pub(super) fn lacks_a_body(&self) -> bool {
        match self {
            Self::Passed(_) => false,
            Self::Json(json) => matches!(json, Json::None),
            Self::Messages(messages) => messages.is_empty(),
        }
    }
}
