//! The server that a request is for, and the permission of the sender to call that server.

use http::{Response, request::Parts, uri::Authority};
use proto::Refusal;

use super::{
    context::CallContext,
    identify::{IdentifiedRequest, RequestSender},
};
use crate::{
    proxy::{
        browser, call_record::CallRecord, cors, local_reply, received_body::ReceivedBody, target::CallTarget,
    },
    upstream::Body,
};

/// A request whose server is known, from a sender who may call that server.
pub(super) struct RoutedRequest {
    pub(super) parts: Parts,
    pub(super) body: ReceivedBody,
    pub(super) authority: Authority,
    pub(super) target: CallTarget,
}

#[expect(clippy::large_enum_variant, reason = "almost every request is for a server")]
pub(super) enum Routing {
    ToServer(RoutedRequest),
    AnsweredHere(Response<Body>),
}

impl RoutedRequest {
    pub(super) fn find(
        identified: IdentifiedRequest<'_>,
        context: CallContext<'_>,
        record: &mut CallRecord,
    ) -> Result<Routing, Refusal> {
        let IdentifiedRequest {
            parts,
            body,
            authority,
            host,
            sender,
        } = identified;
        let caller = match sender {
            RequestSender::Caller(caller) => caller,
            RequestSender::OfStatusRequest => {
                browser::page_origin(&parts.headers, &host, &[])?;
                // A status request is not a call, so neither the log nor the counters get a record of it.
                return Ok(Routing::AnsweredHere(local_reply::status()));
            }
        };
        let CallContext {
            proxy, downstream, ..
        } = context;
        let target = CallTarget::find(
            &parts,
            &host,
            &caller,
            &downstream.route,
            &proxy.hosts,
            &proxy.registry,
        );
        let allowed_origins = target
            .as_ref()
            .map_or(&[][..], |target| &target.entry.server.spec.allowed_origins);
        // This check comes before a missing server is reported, because a web page must not learn which servers exist.
        record.page = browser::page_origin(&parts.headers, &host, allowed_origins)?;
        let target = target?;
        record.set_server(&target.entry);
        if record.page.is_some() && cors::is_preflight(&parts) {
            record.log_answered_here("preflight");
            return Ok(Routing::AnsweredHere(cors::preflight(&parts.headers)));
        }
        Ok(Routing::ToServer(Self {
            parts,
            body,
            authority,
            target,
        }))
    }
}
