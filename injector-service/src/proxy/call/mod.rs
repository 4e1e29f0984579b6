//! One call, from the head of its request to the head of its response.
//!
//! [`CallContext::forward`] lists the stages. Each stage consumes the one before it, so that none can be left out,
//! repeated or reordered. A refusal in any stage ends the call, and nothing that a later stage would have sent leaves
//! the process.
//!
//! | stage | file | afterwards |
//! |---|---|---|
//! | [`CheckedRequest`] | `check.rs` | the head is acceptable, whichever server the request is for |
//! | [`IdentifiedRequest`] | `identify.rs` | the sender is known, and the sender's token is removed |
//! | [`RoutedRequest`] | `route.rs` | the server is known, and the sender may call it |
//! | [`PreparedRequest`] | `prepare.rs` | the headers are those that the upstream gets, except for secrets |
//! | [`ReceivedResponse`] | `exchange.rs`, `attempt.rs` | the request was sent with its secrets, and the upstream has responded |
//! | `Response` | `respond.rs` | headers, URLs, cookies and body are those that the program gets |

mod attempt;
mod check;
mod context;
mod deadline;
mod exchange;
mod identify;
mod prepare;
mod request_body;
mod respond;
mod retry;
mod route;

use http::{Request, Response, request::Parts};
use hyper::body::Incoming;
use proto::Refusal;
use tokio::time::Instant;

use super::{
    Proxy, call_id, call_record::CallRecord, cors, deadline_body::DeadlineBody, downstream::Downstream,
    local_reply, received_body::ReceivedBody, request_head, watchdog::ActiveCall,
};
use crate::{dialect::Dialect, upstream::Body};
use check::CheckedRequest;
use context::CallContext;
use exchange::ReceivedResponse;
use identify::{IdentifiedRequest, RequestSender};
use prepare::PreparedRequest;
use route::{RoutedRequest, Routing};

impl Proxy {
    /// Answers one call, which ends at `until` at the latest.
    pub(super) async fn call(
        &self,
        downstream: &Downstream,
        request: Request<Incoming>,
        until: Option<Instant>,
        call: ActiveCall,
    ) -> Response<DeadlineBody> {
        let (parts, body) = request.into_parts();
        let body = ReceivedBody::request(body, &parts, &call);
        let dialect = Dialect::of(&parts.headers);
        let program_deadline = deadline::read(&parts.headers, dialect);
        let mut context = CallContext {
            proxy: self,
            downstream,
            dialect,
            version: parts.version,
            deadline: program_deadline.into_iter().chain(until).min(),
            identity_end: None,
        };
        let mut record = CallRecord::new(parts.method.clone());
        let responded = match request_head::refusal(&call, &parts.method) {
            Some(refusal) => Err(refusal),
            None => context.forward(parts, body, &mut record).await,
        };
        let (mut response, deadline) = match responded {
            Ok(response) => (response, context.deadline),
            Err(refusal) => {
                record.log_refused(&refusal, &self.metrics);
                // A refusal has no deadline, because the program must also receive a refusal that is made after the deadline.
                (local_reply::refusal(&refusal, dialect, &record.call_id), None)
            }
        };
        call_id::add_to_response(response.headers_mut(), &record.call_id);
        if let Some(origin) = &record.page {
            cors::allow(response.headers_mut(), origin);
        }
        response.map(|body| DeadlineBody::new(body, deadline, context.at_deadline(), call))
    }
}

impl CallContext<'_> {
    async fn forward(
        &mut self,
        parts: Parts,
        body: ReceivedBody,
        record: &mut CallRecord,
    ) -> Result<Response<Body>, Refusal> {
        let checked = CheckedRequest::new(parts, body, self.proxy)?;
        let identified = IdentifiedRequest::of(checked, *self, record).await?;
        if let RequestSender::Caller(caller) = &identified.sender {
            self.end_with_identity(caller.not_after());
        }
        let routed = match RoutedRequest::find(identified, *self, record)? {
            Routing::ToServer(routed) => routed,
            Routing::AnsweredHere(response) => return Ok(response),
        };
        let prepared = PreparedRequest::new(routed, *self, record)?;
        let received = ReceivedResponse::fetch(prepared, record).await?;
        received.respond(record).await
    }
}
