//! The response to the program, made from the answer of the upstream.

use std::{mem, pin::pin};

use http::{Method, Response, Uri, header, response::Parts};
use proto::Refusal;

use super::{
    UpstreamAnswer,
    deadline::{NO_ANSWER, within},
    prepare::Plan,
};
use crate::{
    fields,
    proxy::{
        body, challenge, cookies, framing, oauth, received_body::ReceivedBody, record::Record, sse_endpoint,
        upgrade::UpgradeResponse,
    },
    upstream::Body,
};

/// The kinds of bodies that name URLs of the server itself.
enum UrlsInBody {
    None,
    OauthMetadata,
    /// The event stream in which MCP's older transport names its endpoint.
    EventStream,
}

impl UpstreamAnswer<'_> {
    pub(super) async fn respond(self, record: &mut Record) -> Result<Response<Body>, Refusal> {
        let Self {
            plan,
            mut response,
            slot,
            url,
            ending,
            upgrade,
        } = self;
        framing::check(response.status(), response.headers_mut())?;
        let switched_to = UpgradeResponse::find(upgrade, &mut response, &record.call_id)?;
        let (mut head, body) = response.into_parts();
        // The version of the upstream's connection does not apply to the downstream's connection.
        let version = mem::take(&mut head.version);
        let body = ReceivedBody::response(body, version, slot);
        rewrite_head(&mut head, &plan, &url, record)?;
        let Plan {
            context,
            target,
            authority,
            method,
            ..
        } = plan;
        let scheme = context.proxy.hosts.scheme;
        let body = match UrlsInBody::find(&mut head, target.document, &method) {
            UrlsInBody::None => body::response(body),
            UrlsInBody::OauthMetadata => {
                let addresses = target.addresses(scheme, &authority, &url);
                let moving = pin!(oauth::move_resource(body, &addresses));
                within(context.deadline, NO_ANSWER, moving).await?
            }
            UrlsInBody::EventStream => body::events(body, move |reference| {
                target.addresses(scheme, &authority, &url).reference(reference)
            }),
        };
        record.forwarded(head.status, &context.proxy.metrics);
        let mut response = Response::from_parts(head, body);
        if let Some(switched_to) = switched_to {
            switched_to.add_to(&mut response);
        }
        Ok(match ending {
            None => response,
            Some(ending) => response.map(|body| ending.wrap(body)),
        })
    }
}

/// Leaves the headers that the program may get, with URLs and cookies as the program has to see them. Refuses the call
/// when the answer only demands a credential of the injector.
fn rewrite_head(head: &mut Parts, plan: &Plan<'_>, url: &Uri, record: &Record) -> Result<(), Refusal> {
    let (proxy, target) = (plan.context.proxy, &plan.target);
    let headers = &mut head.headers;
    fields::clean_response(headers);
    if plan.is_credential_ours {
        challenge::replace(head.status, headers, record)
            .inspect_err(|_| record.count_injected(&proxy.metrics))?;
    }
    target
        .addresses(proxy.hosts.scheme, &plan.authority, url)
        .rewrite(headers);
    cookies::keep(headers, &target.entry.server, &target.apart(url));
    Ok(())
}

impl UrlsInBody {
    /// Returns the kind of an answer's body, and removes the length of a body that may change.
    fn find(head: &mut Parts, document: &str, method: &Method) -> Self {
        let found = if oauth::names_resource(document, head.status, &head.headers) {
            Self::OauthMetadata
        } else if sse_endpoint::may_have_endpoint(method, &head.headers) {
            Self::EventStream
        } else {
            return Self::None;
        };
        head.headers.remove(header::CONTENT_LENGTH);
        found
    }
}
