//! The exchange with the upstream, which is repeated when the upstream did not process the request.

use std::{pin::pin, sync::Arc};

use http::{Response, Uri};
use hyper::body::Incoming;
use proto::Refusal;

use super::{
    attempt::Attempt,
    deadline::{NO_RESPONSE, within},
    prepare::{CallPlan, PreparedRequest},
    retry::{self, RequestCopy},
};
use crate::{
    proxy::{call_record::CallRecord, echo::EchoFilter, grpc::FailureTrailers, upgrade::UpgradeRequest},
    upstream::{AnswerConnection, Transport, UpstreamResponse},
};

/// The response of the upstream to a request that had its secrets.
pub(super) struct ReceivedResponse<'c> {
    pub(super) plan: CallPlan<'c>,
    pub(super) response: Response<Incoming>,
    /// Kept until the body of the response has ended.
    pub(super) connection: Arc<AnswerConnection>,
    /// The URL of the request as it was sent upstream, with `*` in place of the values in it.
    pub(super) url: Uri,
    /// The trailers for when a gRPC request fails after the response has begun.
    pub(super) failure_trailers: Option<FailureTrailers>,
    /// Finds the values of the request in the response.
    pub(super) echo_filter: Option<EchoFilter>,
    pub(super) upgrade: Option<UpgradeRequest>,
}

impl<'c> ReceivedResponse<'c> {
    /// Sends the request, and sends it again as long as the upstream did not process it. Secrets are decrypted for each
    /// attempt.
    pub(super) async fn fetch(
        prepared: PreparedRequest<'c>,
        record: &mut CallRecord,
    ) -> Result<Self, Refusal> {
        let PreparedRequest {
            plan,
            mut request,
            upgrade,
        } = prepared;
        let mut copy = match plan.transport {
            // Over HTTP/1.1, an upstream cannot say that it did not process a request.
            Transport::Http1 => None,
            Transport::Http2 | Transport::Negotiated => {
                let copy;
                (copy, request) = RequestCopy::of(request, plan.context);
                Some(copy)
            }
        };
        let mut refusing = Vec::new();
        loop {
            match plan.attempt(request, &refusing, record).await? {
                Attempt::Responded {
                    response: UpstreamResponse { response, connection },
                    url,
                    failure_trailers,
                    echo_filter,
                } => {
                    return Ok(Self {
                        plan,
                        response,
                        echo_filter: echo_filter.map(|filter| filter.of_answer(&connection)),
                        connection,
                        url,
                        failure_trailers,
                        upgrade,
                    });
                }
                Attempt::NotProcessed(connection) => {
                    let copy = copy.as_mut().ok_or_else(retry::not_copied)?;
                    request = within(plan.context.deadline, NO_RESPONSE, pin!(copy.again())).await?;
                    record.begin_retry();
                    refusing.push(connection);
                }
            }
        }
    }
}
