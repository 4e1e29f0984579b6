//! The server that a request is for, and the permission of a web page to call that server.

use http::{Method, Response, header, request::Parts, uri::Authority};
use proto::Refusal;

use super::{CheckedRequest, Context};
use crate::{
    proxy::{
        answer,
        guard::{self, Sender},
        received_body::ReceivedBody,
        record::Record,
        target::{self, Target},
    },
    upstream::Body,
};

/// A request whose server is known, from a sender who may call that server.
pub(super) struct RoutedRequest {
    pub(super) parts: Parts,
    pub(super) body: ReceivedBody,
    pub(super) authority: Authority,
    pub(super) target: Target,
}

/// The destination of a request.
pub(super) enum Routing {
    ToServer(RoutedRequest),
    /// The injector answers the request itself.
    AnsweredHere(Response<Body>),
}

impl RoutedRequest {
    pub(super) fn find(
        checked: CheckedRequest,
        context: Context<'_>,
        record: &mut Record,
    ) -> Result<Routing, Refusal> {
        let CheckedRequest {
            parts,
            body,
            authority,
            host,
        } = checked;
        let Context { proxy, route, .. } = context;
        let target = Target::find(&parts, &host, route, &proxy.hosts, &proxy.registry);
        let allowed = target
            .as_ref()
            .map_or(&[][..], |target| &target.entry.server.spec.allowed_origins);
        // Checked even without a target: a web page must not learn from the refusal whether a server exists.
        if let Sender::AllowedPage(origin) = guard::sender(&parts.headers, &host, allowed)? {
            record.page = Some(origin);
        }
        if target::asks_for_status(&parts, &host, route, &proxy.hosts) {
            // A status request is not a call, so the log and the counters do not get one.
            return Ok(Routing::AnsweredHere(answer::status()));
        }
        let target = target?;
        record.server(&target.entry);
        if record.page.is_some() && is_preflight(&parts) {
            record.answered("preflight");
            return Ok(Routing::AnsweredHere(answer::preflight(&parts.headers)));
        }
        Ok(Routing::ToServer(Self {
            parts,
            body,
            authority,
            target,
        }))
    }
}

fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}
