//! The request that the upstream gets, before any secret is put into it.

use std::sync::Arc;

use http::{HeaderMap, Method, header, uri::Authority};
use http_body::Body as _;
use proto::{Reason, Refusal};

use super::{context::CallContext, route::RoutedRequest};
use crate::{
    dialect::Dialect,
    header_rules,
    inject::BodyPlacement,
    placement::AuthType,
    proxy::{
        body_type::is_form, call_id, call_record::CallRecord, challenge, cookies, echo, oauth_metadata,
        received_body::ReceivedBody, target::CallTarget, upgrade::UpgradeRequest,
    },
    registry::server::{Scrub, Spec},
    upstream::{RequiredVersion, Transport, Upstream},
};

/// A request that lacks only its secrets, and the plan for sending it.
pub(super) struct PreparedRequest<'c> {
    pub(super) plan: CallPlan<'c>,
    pub(super) request: BareRequest,
    pub(super) upgrade: Option<UpgradeRequest>,
}

/// The decisions about a call that hold for every attempt to send it.
pub(super) struct CallPlan<'c> {
    pub(super) context: CallContext<'c>,
    pub(super) target: CallTarget,
    pub(super) authority: Authority,
    pub(super) method: Method,
    pub(super) body_placement: BodyPlacement,
    pub(super) upstream: Arc<Upstream>,
    pub(super) transport: Transport,
    /// True when a challenge of the upstream is for a credential of the injector, and not of the program.
    pub(super) challenge_is_for_injector: bool,
    /// The parts of the answer that are searched for the values of the request.
    pub(super) scrub: Scrub,
}

/// The headers and the body of a request without its secrets. An attempt to send the request consumes them.
pub(super) struct BareRequest {
    pub(super) headers: HeaderMap,
    pub(super) body: ReceivedBody,
}

impl<'c> PreparedRequest<'c> {
    pub(super) fn new(
        routed: RoutedRequest,
        context: CallContext<'c>,
        record: &CallRecord,
    ) -> Result<Self, Refusal> {
        let RoutedRequest {
            mut parts,
            body,
            authority,
            target,
        } = routed;
        let CallContext { proxy, dialect, .. } = context;
        let server = &target.entry.server;
        let upgrade = UpgradeRequest::find(&mut parts, dialect, server.spec.protocol)?;
        if !target.document.is_empty() && server.spec.has_place_in_bodies() {
            check_only_reads(&parts.method, &body, upgrade.as_ref())?;
        }
        let mut headers = parts.headers;
        let scrub = echo::scrub_for(&headers, server.spec.scrub)?;
        header_rules::clean_request(&mut headers, &server.spec.injections);
        cookies::filter_request(&mut headers, server);
        oauth_metadata::request_uncompressed(target.document, &mut headers);
        echo::request_plain_body(&mut headers, scrub, dialect);
        let challenge_is_for_injector = challenge::is_for_injector(server, &headers);
        call_id::add_to_request(&mut headers, &record.call_id);
        if let Some(upgrade) = &upgrade {
            upgrade.add_to(&mut headers)?;
        }
        check_one_content_type(&headers, &server.spec)?;
        let body_placement = body_placement(&target, dialect, is_form(&headers))?;
        if dialect == Dialect::Http && matches!(body_placement, BodyPlacement::None) && !body.is_end_stream()
        {
            check_is_no_message(&target)?;
        }
        let upstream = proxy.pools.of(&target.entry, &proxy.resolver)?;
        let required = match dialect {
            Dialect::Grpc => RequiredVersion::Http2,
            Dialect::Http if upgrade.is_some() => RequiredVersion::Http1,
            Dialect::Http => RequiredVersion::Any,
        };
        let plan = CallPlan {
            context,
            authority,
            method: parts.method,
            body_placement,
            transport: upstream.transport(required),
            upstream,
            challenge_is_for_injector,
            scrub,
            target,
        };
        Ok(Self {
            plan,
            request: BareRequest { headers, body },
            upgrade,
        })
    }
}

/// Refuses a request for an OAuth document that is more than a request to read it. The path of the document may be that of
/// a call with secrets in its body, and a document gets none there, so a body would go out without required secrets and
/// with whatever the program sends in their places.
fn check_only_reads(
    method: &Method,
    body: &ReceivedBody,
    upgrade: Option<&UpgradeRequest>,
) -> Result<(), Refusal> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match is_read && body.is_end_stream() && upgrade.is_none() {
        true => Ok(()),
        false => Err(Refusal::new(
            Reason::MethodRefused,
            "an OAuth document of a server is read with GET or HEAD, without a body and without an upgrade",
        )),
    }
}

/// Refuses the body of a method whose gRPC messages get secrets when the call is not gRPC. gRPC-Web and Connect could carry
/// the program's own entries in the fields of the injections.
fn check_is_no_message(target: &CallTarget) -> Result<(), Refusal> {
    let Spec {
        injections,
        body_calls,
        ..
    } = &target.entry.server.spec;
    let in_messages = injections
        .iter()
        .any(|injection| injection.placement.is_in_messages());
    match in_messages && body_calls.include(Dialect::Grpc, &target.rest) {
        false => Ok(()),
        true => Err(Refusal::new(
            Reason::BodyTypeUnsupported,
            "this method gets its secrets in gRPC messages, so the Content-Type of its calls has to be application/grpc",
        )),
    }
}

/// Refuses a gRPC call without secrets when the same path gets secrets in JSON bodies or forms. A server that ignores the
/// `Content-Type` would read a JSON body without the required secrets and with the program's own members.
fn check_is_no_http_body(target: &CallTarget) -> Result<(), Refusal> {
    let Spec {
        auth_type,
        injections,
        body_calls,
        ..
    } = &target.entry.server.spec;
    let in_http_bodies = injections
        .iter()
        .any(|injection| injection.placement.is_in_body() && !injection.placement.is_in_messages());
    let has_place = matches!(auth_type, AuthType::Skill(_)) || in_http_bodies;
    match has_place && body_calls.may_be_http(&target.rest) {
        false => Ok(()),
        true => Err(Refusal::new(
            Reason::BodyTypeUnsupported,
            "this path gets its secrets in a JSON body or a form, so the Content-Type cannot be application/grpc; gRPC methods \
             with secrets are named in grpc_methods, and those without have paths like /pkg.Service/Method",
        )),
    }
}

/// Refuses a request with several `Content-Type` fields to a server with secrets in bodies. The injector and the server
/// could take it for different kinds of calls.
fn check_one_content_type(headers: &HeaderMap, spec: &Spec) -> Result<(), Refusal> {
    match spec.has_place_in_bodies() && headers.get_all(header::CONTENT_TYPE).iter().count() > 1 {
        false => Ok(()),
        true => Err(Refusal::new(
            Reason::BodyTypeUnsupported,
            "this server gets secrets in bodies, so a request may have only one Content-Type",
        )),
    }
}

/// Returns the placement of secrets in the body, which is [`BodyPlacement::None`] when the server's `paths` or
/// `grpc_methods` leave the call out. An OAuth document describes the server, so a request for it is no call of the
/// server.
fn body_placement(target: &CallTarget, dialect: Dialect, is_form: bool) -> Result<BodyPlacement, Refusal> {
    let Spec {
        auth_type,
        injections,
        body_calls,
        ..
    } = &target.entry.server.spec;
    let is_limited = match (auth_type, dialect) {
        (AuthType::Skill(_) | AuthType::Custom(_), Dialect::Http)
        | (AuthType::Skill(Some(_)), Dialect::Grpc) => true,
        (AuthType::Custom(_), Dialect::Grpc) => injections
            .iter()
            .any(|injection| injection.placement.is_in_messages()),
        (AuthType::Skill(None), Dialect::Grpc) | (AuthType::SecretHeaders | AuthType::Bearer, _) => false,
    };
    let is_left_out = is_limited && !body_calls.include(dialect, &target.rest);
    if is_left_out && dialect == Dialect::Grpc {
        check_is_no_http_body(target)?;
    }
    match target.document {
        "" if !is_left_out => BodyPlacement::of(*auth_type, injections, dialect, is_form),
        _ => Ok(BodyPlacement::None),
    }
}
