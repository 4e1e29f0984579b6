//! One attempt to send a request: the secrets are decrypted, put in and sent, all or nothing.
//!
//! The decrypted values live in an attempt only. They are wiped as soon as they are in the request, and the request is
//! dropped at the end of the attempt.

use std::{pin::pin, sync::Arc};

use http::{HeaderMap, Method, Request, Uri, Version, header};
use proto::{Reason, Refusal};

use super::{
    context::CallContext,
    deadline::{self, NO_RESPONSE, within},
    prepare::{BareRequest, CallPlan},
    request_body::RequestBody,
};
use crate::{
    inject::{
        BodySecrets, RequestSecrets, ResolvedSecrets,
        request_target::{OwnedParameters, RequestTarget, TargetParts, TargetValues},
    },
    placement::{Injection, distinct_secrets},
    proxy::{
        call_record::{CallRecord, LaterRecord},
        echo::EchoFilter,
        grpc::{FailureTrailers, LaterMessages},
        http_server::STREAM_WINDOW,
        oauth_path,
        placeholders::CallPlaceholders,
        upload::UploadState,
    },
    registry::server::Spec,
    upstream::{Body, ClearValues, RefusingConnection, SendOutcome, UpstreamResponse},
};

#[expect(clippy::large_enum_variant, reason = "almost every attempt gets a response")]
pub(super) enum Attempt {
    Responded {
        response: UpstreamResponse,
        url: Uri,
        failure_trailers: Option<FailureTrailers>,
        echo_filter: Option<EchoFilter>,
    },
    /// The request may be sent again, on another connection than this one.
    NotProcessed(RefusingConnection),
}

/// A request whose body was read as far as it has to be before secrets are put in.
struct ReadRequest {
    headers: HeaderMap,
    body: RequestBody,
}

/// A request with its secrets.
struct CompleteRequest<'p> {
    request: Request<Body>,
    clear_values: ClearValues,
    sent: RequestContext<'p>,
}

/// The facts about a request that are needed once the upstream has responded.
struct RequestContext<'p> {
    /// The URL of the request, with `*` in place of the values in it.
    url: Uri,
    placeholders: CallPlaceholders<'p>,
    upload: UploadState,
    /// The record of later messages, when every message of a gRPC request gets secrets.
    messages: Option<Arc<LaterRecord>>,
    /// Finds the values of the request in the response.
    echo_filter: Option<EchoFilter>,
}

impl CallPlan<'_> {
    pub(super) async fn attempt(
        &self,
        request: BareRequest,
        refusing: &[RefusingConnection],
        record: &mut CallRecord,
    ) -> Result<Attempt, Refusal> {
        let upload = UploadState::default();
        let request = self.read_body(request, &upload).await?;
        let secrets = self.resolve_secrets(record).await?;
        let CompleteRequest {
            request,
            clear_values,
            sent,
        } = self.insert_secrets(request, secrets, upload, record)?;
        let call_id = record.call_id.clone();
        let sending = pin!(
            self.upstream
                .send(request, self.transport, clear_values, refusing, &call_id)
        );
        let outcome = within(self.context.deadline, NO_RESPONSE, sending).await;
        sent.conclude(outcome, self.context, record)
    }

    async fn read_body(&self, request: BareRequest, upload: &UploadState) -> Result<ReadRequest, Refusal> {
        let BareRequest {
            mut headers,
            mut body,
        } = request;
        body.reserve_read_ahead(&self.context.proxy.budget, STREAM_WINDOW)?;
        let body = RequestBody::read(
            body,
            self.body_placement,
            &self.target.entry,
            &mut headers,
            &self.context,
            upload,
        )
        .await?;
        if body.is_missing() {
            self.check_body_is_optional()?;
        }
        Ok(ReadRequest { headers, body })
    }

    /// Has the vault decrypt the secrets that this call carries. Secrets that belong only into bodies are withheld from a
    /// call whose body gets none.
    async fn resolve_secrets(&self, record: &mut CallRecord) -> Result<ResolvedSecrets<'_>, Refusal> {
        let carried = distinct_secrets(self.carried_injections());
        if self.carried_injections().count() < self.spec().injections.len() {
            for secret in self.spec().secrets() {
                if !carried.iter().any(|carried| carried.name == secret.name) {
                    record.add_withheld(&secret);
                }
            }
        }
        let resolver = &self.context.proxy.resolver;
        let entry = &self.target.entry;
        let secrets = resolver
            .resolve(entry, &carried, &record.call_id, self.context.deadline)
            .await?;
        record.add_resolved(&secrets, self.carried_injections());
        Ok(secrets)
    }

    /// Returns the injections whose places this call has.
    fn carried_injections(&self) -> impl Iterator<Item = &Injection> + Clone {
        let injections = self.spec().injections.iter();
        injections.filter(|injection| self.body_placement.carries(&injection.placement))
    }

    /// Puts the secrets into the request, and wipes them everywhere else.
    fn insert_secrets(
        &self,
        request: ReadRequest,
        secrets: ResolvedSecrets<'_>,
        upload: UploadState,
        record: &mut CallRecord,
    ) -> Result<CompleteRequest<'_>, Refusal> {
        let ReadRequest { mut headers, body } = request;
        let mut placeholders = CallPlaceholders::new(self.upstream.placeholders(), self.transport.over());
        let injections = &self.spec().injections;
        let target = self.request_target(&TargetValues::new(injections, &secrets)?)?;
        let body_secrets =
            RequestSecrets::new(self.body_placement, self.context.dialect, injections, &secrets)?
                .insert(&mut headers, |name, value| placeholders.insert(name, value))?;
        let echo_filter = EchoFilter::new(&self.target.entry, &record.call_id, &secrets, self.scrub);
        drop(secrets);
        let written_target = target.insert(|secret| placeholders.insert_target(secret))?;
        let clear_values = placeholders.clear_values(!matches!(body_secrets, BodySecrets::None));
        if body.is_missing() {
            record.set_body_missing();
        }
        let later = || LaterMessages {
            resolver: self.context.proxy.resolver.clone(),
            entry: self.target.entry.clone(),
            deadline: self.context.deadline,
            record: Arc::new(record.later(&self.target.entry)),
        };
        let (body, messages) = body.with(body_secrets, &self.target.entry, &upload, later)?;
        deadline::write(&mut headers, self.context.deadline, self.context.dialect);
        let url = &self.spec().url;
        let uri = url.with_target(written_target).map_err(not_a_url)?;
        let request = outgoing(uri, self.method.clone(), headers, body);
        Ok(CompleteRequest {
            clear_values,
            sent: RequestContext {
                url: url.with_target(target.shown).map_err(not_a_url)?,
                placeholders,
                upload,
                messages,
                echo_filter,
            },
            request,
        })
    }

    /// Refuses a call without a body when the server requires a secret in the body.
    fn check_body_is_optional(&self) -> Result<(), Refusal> {
        let in_body = self
            .carried_injections()
            .filter(|injection| injection.placement.is_in_body());
        let resolver = &self.context.proxy.resolver;
        let mut secrets = distinct_secrets(in_body).into_iter();
        let required = secrets.find(|secret| resolver.requires(secret));
        required.map_or(Ok(()), |secret| {
            let message = format!(
                "this server requires secret {}, which goes into the request's body, and the call has no body; nothing was sent",
                secret.name
            );
            Err(Refusal::new(Reason::BodyMissing, message))
        })
    }

    fn request_target(&self, values: &TargetValues<'_>) -> Result<RequestTarget, Refusal> {
        let url = &self.spec().url;
        let parts = TargetParts {
            document: oauth_path::at_upstream(self.target.document),
            path: url.path_parts(),
            fixed_query: url.fixed_query(),
            rest: &self.target.rest,
        };
        let owned = OwnedParameters::of(url.fixed_query(), &self.spec().injections);
        RequestTarget::new(&parts, &owned, values)
    }

    fn spec(&self) -> &Spec {
        &self.target.entry.server.spec
    }
}

impl RequestContext<'_> {
    fn conclude(
        self,
        outcome: Result<SendOutcome, Refusal>,
        context: CallContext<'_>,
        record: &mut CallRecord,
    ) -> Result<Attempt, Refusal> {
        let upload = self.upload;
        // When the program's body has failed, this failure is the cause of whatever the upstream did.
        match outcome.map_err(|refusal| upload.failure().unwrap_or(refusal))? {
            SendOutcome::NotProcessed(connection) => match upload.failure() {
                None => Ok(Attempt::NotProcessed(connection)),
                Some(refusal) => Err(refusal),
            },
            SendOutcome::Answered(response) => {
                self.placeholders.check_substituted()?;
                if upload.are_secrets_pending() {
                    record.set_unsent();
                }
                let failure_trailers = self.messages.map(|record| FailureTrailers {
                    upload,
                    record,
                    trailers: context.version == Version::HTTP_2,
                });
                Ok(Attempt::Responded {
                    response,
                    url: self.url,
                    failure_trailers,
                    echo_filter: self.echo_filter,
                })
            }
        }
    }
}

fn not_a_url(_: http::Error) -> Refusal {
    Refusal::new(Reason::PathInvalid, "the path and query do not make a URL")
}

/// Returns the request that goes upstream, without `Host` and `Content-Length`. Both are written anew, from the URL and
/// from the body.
fn outgoing(uri: Uri, method: Method, mut headers: HeaderMap, body: Body) -> Request<Body> {
    for name in [header::HOST, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    request
}
