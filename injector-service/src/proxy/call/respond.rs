//! The response to the program, made from the response of the upstream.

use std::{mem, pin::pin, sync::Arc};

use http::{Method, Response, header, response::Parts};
use http_body::Body as _;
use proto::Refusal;

use super::{
    context::CallContext,
    deadline::{NO_RESPONSE, within},
    exchange::ReceivedResponse,
    prepare::CallPlan,
};
use crate::{
    header_rules,
    proxy::{
        body,
        buffer_budget::BufferBudget,
        call_record::CallRecord,
        challenge, cookies,
        deadline_body::AtDeadline,
        echo::{self, EchoFilter, MaskedBody},
        grpc::FailureTrailers,
        oauth_metadata,
        received_body::ReceivedBody,
        response_framing,
        sent_url::SentUrl,
        sse_endpoint,
        upgrade::UpgradeResponse,
        upload::UploadState,
    },
    upstream::Body,
};

/// The bodies of responses in which URLs of the server are rewritten.
enum UrlsInBody {
    None,
    OauthMetadata,
    /// The event stream in which MCP's older transport names its endpoint.
    EventStream,
}

impl ReceivedResponse<'_> {
    pub(super) async fn respond(self, record: &mut CallRecord) -> Result<Response<Body>, Refusal> {
        let Self {
            plan,
            mut response,
            connection,
            url,
            failure_trailers,
            echo_filter,
            upgrade,
        } = self;
        response_framing::check(response.status(), response.headers_mut())
            .inspect_err(|_| connection.retire())?;
        let upgrade = UpgradeResponse::find(
            upgrade,
            &mut response,
            &record.call_id,
            echo_filter.as_ref(),
            plan.context.identity_end,
        )?;
        let (mut head, body) = response.into_parts();
        // The version of the connection to the upstream says nothing about the connection to the program.
        let version = mem::take(&mut head.version);
        let body = ReceivedBody::response(body, version, connection);
        let failure_trailers =
            failure_trailers.or_else(|| trailers_of_broken_answer(&plan.context, echo_filter.as_ref()?));
        let proxy = plan.context.proxy;
        let body = mask(&mut head, body, echo_filter, &proxy.budget)
            .inspect_err(|_| record.count_injected(&proxy.metrics))?;
        let url = SentUrl::new(url);
        rewrite_head(&mut head, &plan, &url, record)?;
        let CallPlan {
            context,
            target,
            authority,
            method,
            ..
        } = plan;
        let scheme = context.downstream.scheme;
        let body = match UrlsInBody::find(&mut head, target.document, &method) {
            UrlsInBody::None => body::response(body),
            UrlsInBody::OauthMetadata => {
                let urls = target.urls(scheme, &authority, &url);
                let rewriting = pin!(oauth_metadata::rewrite(body, &urls));
                within(context.deadline, NO_RESPONSE, rewriting).await?
            }
            UrlsInBody::EventStream => body::event_stream(body, move |endpoint| {
                target.urls(scheme, &authority, &url).rewrite_url(endpoint)
            }),
        };
        if failure_trailers.as_ref().is_some_and(|failure| failure.trailers) && !body.is_end_stream() {
            // Trailers before as many bytes would be an error of HTTP/2 (RFC 9113, section 8.1.1).
            head.headers.remove(header::CONTENT_LENGTH);
        }
        record.log_forwarded(head.status, &context.proxy.metrics);
        let mut response = Response::from_parts(head, body);
        if let Some(upgrade) = upgrade {
            upgrade.add_to(&mut response);
        }
        Ok(match failure_trailers {
            None => response,
            Some(trailers) => response.map(|body| trailers.wrap(body)),
        })
    }
}

/// Masks the values of the request in the head, and returns the body with values masked. This comes before URLs are
/// rewritten, because the URL of the request has masks in the place of values as well.
fn mask(
    head: &mut Parts,
    body: ReceivedBody,
    filter: Option<EchoFilter>,
    budget: &BufferBudget,
) -> Result<MaskedBody, Refusal> {
    if let Some(filter) = &filter {
        filter.mask_head(head)?;
    }
    echo::mask_body(body, filter, head, budget)
}

/// Returns the trailers for an answer that is broken off while its values are masked.
fn trailers_of_broken_answer(context: &CallContext<'_>, filter: &EchoFilter) -> Option<FailureTrailers> {
    filter.may_break_off().then(|| FailureTrailers {
        upload: UploadState::default(),
        record: Arc::new(filter.record()),
        trailers: context.at_deadline() == AtDeadline::GrpcTrailers,
    })
}

/// Removes the headers that the program must not get, and rewrites URLs and cookies for the program. Refuses the call
/// when the response only demands a credential of the injector.
fn rewrite_head(
    head: &mut Parts,
    plan: &CallPlan<'_>,
    url: &SentUrl,
    record: &CallRecord,
) -> Result<(), Refusal> {
    let CallContext {
        proxy, downstream, ..
    } = plan.context;
    let target = &plan.target;
    let headers = &mut head.headers;
    header_rules::clean_response(headers);
    if plan.challenge_is_for_injector {
        challenge::remove(head.status, headers, record)
            .inspect_err(|_| record.count_injected(&proxy.metrics))?;
    }
    let urls = target.urls(downstream.scheme, &plan.authority, url);
    urls.rewrite_headers(headers);
    cookies::confine_response(headers, &target.entry.server, &target.cookie_scope(url));
    Ok(())
}

impl UrlsInBody {
    /// Returns the kind of a response's body, and removes the length of a body that may change.
    fn find(head: &mut Parts, document: &str, method: &Method) -> Self {
        let found = if oauth_metadata::is_metadata(document, head.status, &head.headers) {
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
