//! The exchange with the upstream, which is repeated when the upstream did not process the request.

use std::{pin::pin, sync::Arc};

use http::{Response, Uri};
use hyper::body::Incoming;
use proto::Refusal;

use super::{
    PreparedRequest,
    attempt::{Attempt, Delivered},
    deadline::{NO_ANSWER, within},
    prepare::Plan,
    retry::{self, KeptRequest},
};
use crate::{
    proxy::{grpc::FailureTrailers, record::Record, upgrade::UpgradeRequest},
    upstream::{StreamSlot, Transport, UpstreamResponse},
};

/// The answer of the upstream to a request that had its secrets.
pub(super) struct UpstreamAnswer<'c> {
    pub(super) plan: Plan<'c>,
    pub(super) response: Response<Incoming>,
    /// The slot of the call on its HTTP/2 connection, to be kept until the answer's body has ended.
    pub(super) slot: Option<Arc<StreamSlot>>,
    /// The URL that the answer is about.
    pub(super) url: Uri,
    /// The end of the answer when the request breaks off while the answer is read.
    pub(super) ending: Option<FailureTrailers>,
    pub(super) upgrade: Option<UpgradeRequest>,
}

impl<'c> UpstreamAnswer<'c> {
    /// Sends the request, and sends it again as long as the upstream did not process it. Secrets are decrypted for each
    /// attempt.
    pub(super) async fn fetch(prepared: PreparedRequest<'c>, record: &mut Record) -> Result<Self, Refusal> {
        let PreparedRequest {
            plan,
            mut unsent,
            upgrade,
        } = prepared;
        let mut kept = match plan.transport {
            Transport::Http1 => None,
            Transport::Http2 | Transport::Negotiated => {
                let kept;
                (kept, unsent) = KeptRequest::new(unsent, plan.context);
                Some(kept)
            }
        };
        let mut refusing = Vec::new();
        let Delivered { answer, url, ending } = loop {
            match plan.attempt(unsent, &refusing, record).await? {
                Attempt::Answered(delivered) => break delivered,
                Attempt::NotProcessed(connection) => {
                    let kept = kept.as_mut().ok_or_else(retry::not_kept)?;
                    unsent = within(plan.context.deadline, NO_ANSWER, pin!(kept.again())).await?;
                    record.repeated();
                    refusing.push(connection);
                }
            }
        };
        let UpstreamResponse { response, slot } = answer;
        Ok(Self {
            plan,
            response,
            slot,
            url,
            ending,
            upgrade,
        })
    }
}
