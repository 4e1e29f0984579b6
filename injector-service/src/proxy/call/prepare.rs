//! The request that the upstream gets, before any secret is put into it.

use std::sync::Arc;

use http::{HeaderMap, Method, uri::Authority};
use proto::Refusal;

use super::{Context, RoutedRequest};
use crate::{
    dialect::Dialect,
    fields,
    inject::Carrier,
    placement::AuthType,
    proxy::{
        answer, challenge, cookies, oauth, received_body::ReceivedBody, record::Record, target::Target,
        upgrade::UpgradeRequest,
    },
    registry::server::Spec,
    upstream::{RequiredVersion, Transport, Upstream},
};

/// A request that lacks only its secrets, and the plan for sending it.
pub(super) struct PreparedRequest<'c> {
    pub(super) plan: Plan<'c>,
    pub(super) unsent: UnsentRequest,
    pub(super) upgrade: Option<UpgradeRequest>,
}

/// The decisions about a call that hold for every attempt to send it.
pub(super) struct Plan<'c> {
    pub(super) context: Context<'c>,
    pub(super) target: Target,
    pub(super) authority: Authority,
    pub(super) method: Method,
    /// The part of the body that gets secrets.
    pub(super) carrier: Carrier,
    pub(super) upstream: Arc<Upstream>,
    pub(super) transport: Transport,
    /// True when a `401` of the upstream concerns a credential of the injector, and not one of the program.
    pub(super) is_credential_ours: bool,
}

/// Headers and body without secrets. Every attempt to send a request consumes them.
pub(super) struct UnsentRequest {
    pub(super) headers: HeaderMap,
    pub(super) body: ReceivedBody,
}

impl<'c> PreparedRequest<'c> {
    pub(super) fn new(routed: RoutedRequest, context: Context<'c>, record: &Record) -> Result<Self, Refusal> {
        let RoutedRequest {
            mut parts,
            body,
            authority,
            target,
        } = routed;
        let Context { proxy, dialect, .. } = context;
        let server = &target.entry.server;
        let upgrade = UpgradeRequest::find(&mut parts, dialect, &server.spec)?;
        let mut headers = parts.headers;
        fields::clean_request(&mut headers, server.spec.auth_type);
        cookies::send(&mut headers, server);
        oauth::ask(target.document, &mut headers);
        let is_credential_ours = challenge::is_for_us(server, &headers);
        answer::identify_upstream(&mut headers, &record.call_id);
        if let Some(upgrade) = &upgrade {
            upgrade.add_to(&mut headers)?;
        }
        let carrier = carrier(&target, dialect)?;
        let upstream = proxy.pools.of(&target.entry, &proxy.resolver)?;
        let needs = match dialect {
            Dialect::Grpc => RequiredVersion::Http2,
            Dialect::Http if upgrade.is_some() => RequiredVersion::Http1,
            Dialect::Http => RequiredVersion::Any,
        };
        Ok(Self {
            plan: Plan {
                context,
                authority,
                method: parts.method,
                carrier,
                transport: upstream.transport(needs),
                upstream,
                is_credential_ours,
                target,
            },
            unsent: UnsentRequest { headers, body },
            upgrade,
        })
    }
}

/// Returns the part of the body that gets secrets, or [`Carrier::None`] when the server's `paths` or `grpc_methods` leave
/// the call out. A document of OAuth describes the server, so fetching it is not a call of the server.
fn carrier(target: &Target, dialect: Dialect) -> Result<Carrier, Refusal> {
    let Spec {
        auth_type,
        body_calls,
        ..
    } = &target.entry.server.spec;
    let is_limited = match (auth_type, dialect) {
        (AuthType::Skill(Some(_)), _) | (AuthType::Skill(None), Dialect::Http) => true,
        (AuthType::Skill(None), Dialect::Grpc) | (AuthType::SecretHeaders | AuthType::Bearer, _) => false,
    };
    let is_left_out = is_limited && !body_calls.include(dialect, &target.rest);
    match target.document {
        "" if !is_left_out => Carrier::of(*auth_type, dialect),
        _ => Ok(Carrier::None),
    }
}
