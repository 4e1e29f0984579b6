//! One call, from the head of its request to the head of its response.
//!
//! [`Context::forward`] lists the stages. Each stage consumes the stage before it, so that none can be left out, repeated or
//! reordered. A refusal by any stage ends the call, and nothing that a later stage would have sent leaves the process.
//!
//! | stage | file | afterwards |
//! |---|---|---|
//! | [`CheckedRequest`] | `check.rs` | the head is acceptable, whichever server the request is for |
//! | [`RoutedRequest`] | `route.rs` | the server is known, and the sender may call it |
//! | [`PreparedRequest`] | `prepare.rs` | the headers are those that the upstream gets, except for secrets |
//! | [`UpstreamAnswer`] | `exchange.rs`, `attempt.rs` | the secrets were decrypted and sent, and the upstream has answered |
//! | `Response` | `respond.rs` | headers, URLs, cookies and body are those that the program gets |

mod attempt;
mod body;
mod check;
mod deadline;
mod exchange;
mod prepare;
mod respond;
mod retry;
mod route;

use http::{Request, Response, Version, request::Parts};
use hyper::body::Incoming;
use proto::Refusal;
use tokio::time::Instant;

use super::{
    ListenerRoute, Proxy, answer,
    deadline_body::{AtDeadline, DeadlineBody},
    received_body::ReceivedBody,
    record::Record,
    request_head,
    watchdog::ActiveCall,
};
use crate::{dialect::Dialect, upstream::Body};
use check::CheckedRequest;
use exchange::UpstreamAnswer;
use prepare::PreparedRequest;
use route::{RoutedRequest, Routing};

/// The facts about a call that no stage changes.
#[derive(Clone, Copy)]
struct Context<'c> {
    proxy: &'c Proxy,
    route: &'c ListenerRoute,
    dialect: Dialect,
    /// The HTTP version of the downstream connection.
    version: Version,
    /// The earlier one of the program's own deadline and the end of `--max-call-duration`.
    deadline: Option<Instant>,
}

impl Proxy {
    /// Answers one call, which ends at `until` at the latest.
    pub(super) async fn call(
        &self,
        route: &ListenerRoute,
        request: Request<Incoming>,
        until: Option<Instant>,
        call: ActiveCall,
    ) -> Response<DeadlineBody> {
        let (parts, body) = request.into_parts();
        let body = ReceivedBody::request(body, &parts, &call);
        let dialect = Dialect::of(&parts.headers);
        let context = Context {
            proxy: self,
            route,
            dialect,
            version: parts.version,
            deadline: deadline::of(&parts.headers, dialect)
                .into_iter()
                .chain(until)
                .min(),
        };
        let mut record = Record::new(parts.method.clone());
        let answered = match request_head::refusal(&call, &parts.method) {
            Some(refusal) => Err(refusal),
            None => context.forward(parts, body, &mut record).await,
        };
        let late = context.late();
        let mut response = match answered {
            Ok(response) => response.map(|body| DeadlineBody::new(body, context.deadline, late, call)),
            Err(refusal) => {
                record.refused(&refusal, &self.metrics);
                let response = answer::refusal(&refusal, dialect, &record.call_id);
                // Without a deadline, because a call that is refused at its deadline must still hear of it.
                response.map(|body| DeadlineBody::new(body, None, late, call))
            }
        };
        answer::identify(response.headers_mut(), &record.call_id);
        if let Some(origin) = &record.page {
            answer::allow(response.headers_mut(), origin);
        }
        response
    }
}

impl Context<'_> {
    async fn forward(
        self,
        parts: Parts,
        body: ReceivedBody,
        record: &mut Record,
    ) -> Result<Response<Body>, Refusal> {
        let checked = CheckedRequest::new(parts, body, self.proxy)?;
        let routed = match RoutedRequest::find(checked, self, record)? {
            Routing::ToServer(routed) => routed,
            Routing::AnsweredHere(response) => return Ok(response),
        };
        let prepared = PreparedRequest::new(routed, self, record)?;
        let answer = UpstreamAnswer::fetch(prepared, record).await?;
        answer.respond(record).await
    }

    /// Returns how a response ends that is not complete at the deadline. Only a gRPC client over HTTP/2 is certain to get
    /// trailers.
    fn late(&self) -> AtDeadline {
        match (self.dialect, self.version) {
            (Dialect::Grpc, Version::HTTP_2) => AtDeadline::GrpcTrailers,
            (Dialect::Grpc | Dialect::Http, _) => AtDeadline::Abort,
        }
    }
}
