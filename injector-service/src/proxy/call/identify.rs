//! The sender of a request, before the request's server is looked up.

use std::pin::pin;

use http::{request::Parts, uri::Authority};
use proto::Refusal;

use super::{check::CheckedRequest, context::CallContext, deadline::within};
use crate::{
    callers::{Caller, CallerToken},
    proxy::{call_record::CallRecord, received_body::ReceivedBody, target},
};

/// The detail of the refusal when a call's deadline passes while the key of its token is awaited.
const NOT_IDENTIFIED: &str = "the caller's token could not be verified within the call's deadline";

/// A request whose sender is known. The token of the sender is not among the headers any more.
pub(super) struct IdentifiedRequest<'c> {
    pub(super) parts: Parts,
    pub(super) body: ReceivedBody,
    pub(super) authority: Authority,
    pub(super) host: String,
    pub(super) sender: RequestSender<'c>,
}

pub(super) enum RequestSender<'c> {
    Caller(Caller<'c>),
    /// The request is for the status page, which answers everyone.
    OfStatusRequest,
}

impl<'c> IdentifiedRequest<'c> {
    pub(super) async fn of(
        checked: CheckedRequest,
        context: CallContext<'c>,
        record: &mut CallRecord,
    ) -> Result<Self, Refusal> {
        let CheckedRequest {
            mut parts,
            body,
            authority,
            host,
        } = checked;
        let CallContext {
            proxy,
            downstream,
            deadline,
            ..
        } = context;
        let token = CallerToken::take(&mut parts.headers)?;
        let sender = if target::is_status_request(&parts, &host, &downstream.route, &proxy.hosts) {
            RequestSender::OfStatusRequest
        } else {
            let identifying = pin!(proxy.callers.identify(&downstream.peer, token.as_ref()));
            let caller = within(deadline, NOT_IDENTIFIED, identifying).await?;
            record.set_caller(caller.name());
            RequestSender::Caller(caller)
        };
        Ok(Self {
            parts,
            body,
            authority,
            host,
            sender,
        })
    }
}
