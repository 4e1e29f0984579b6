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
    inject::{BodyPlacement, BodySecrets, RequestSecrets, ResolvedSecret},
    placement::AuthType,
    proxy::{
        call_record::{CallRecord, MessageRecord},
        grpc::{FailureTrailers, LaterMessages},
        http_server::STREAM_WINDOW,
        oauth_path,
        placeholders::CallPlaceholders,
        upload::UploadState,
    },
    registry::server::{Injection, Spec},
    resolve::Resolver,
    upstream::{Body, ClearValues, RefusingConnection, SendOutcome, UpstreamResponse},
};

#[expect(clippy::large_enum_variant, reason = "almost every attempt gets a response")]
pub(super) enum Attempt {
    Responded {
        response: UpstreamResponse,
        url: Uri,
        failure_trailers: Option<FailureTrailers>,
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
    url: Uri,
    placeholders: CallPlaceholders<'p>,
    upload: UploadState,
    /// The record of later messages, when every message of a gRPC request gets secrets.
    messages: Option<Arc<MessageRecord>>,
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
        let sending = pin!(
            self.upstream
                .send(request, self.transport, clear_values, refusing)
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
        let body = RequestBody::read(body, self.body_placement, &mut headers, &self.context, upload).await?;
        if body.is_missing() {
            check_body_is_optional(self.spec(), &self.context.proxy.resolver)?;
        }
        Ok(ReadRequest { headers, body })
    }

    /// Has the vault decrypt the secrets, unless they belong into the body and this call's body gets none.
    async fn resolve_secrets(&self, record: &mut CallRecord) -> Result<Vec<ResolvedSecret<'_>>, Refusal> {
        let secrets = match (self.spec().auth_type, self.body_placement) {
            (AuthType::Skill(_), BodyPlacement::None) => {
                record.add_withheld(&self.spec().injections);
                Vec::new()
            }
            (AuthType::Skill(_) | AuthType::SecretHeaders | AuthType::Bearer, _) => {
                let resolver = &self.context.proxy.resolver;
                resolver
                    .resolve(&self.target.entry, &record.call_id, self.context.deadline)
                    .await?
            }
        };
        record.add_resolved(&secrets);
        Ok(secrets)
    }

    /// Puts the secrets into the request, and wipes them everywhere else.
    fn insert_secrets(
        &self,
        request: ReadRequest,
        secrets: Vec<ResolvedSecret<'_>>,
        upload: UploadState,
        record: &mut CallRecord,
    ) -> Result<CompleteRequest<'_>, Refusal> {
        let ReadRequest { mut headers, body } = request;
        let mut placeholders = CallPlaceholders::new(self.upstream.placeholders(), self.transport.over());
        let body_secrets = RequestSecrets::new(self.body_placement, self.context.dialect, &secrets)?
            .insert(&mut headers, |name, value| placeholders.insert(name, value))?;
        drop(secrets);
        let clear_values = placeholders.clear_values(!matches!(body_secrets, BodySecrets::None));
        if body.is_missing() {
            record.set_body_missing();
        }
        let later = || LaterMessages {
            resolver: self.context.proxy.resolver.clone(),
            entry: self.target.entry.clone(),
            deadline: self.context.deadline,
            record: Arc::new(record.messages(&self.target.entry)),
        };
        let (body, messages) = body.with(body_secrets, &upload, later)?;
        deadline::write(&mut headers, self.context.deadline, self.context.dialect);
        let request = outgoing(self.uri()?, self.method.clone(), headers, body);
        Ok(CompleteRequest {
            clear_values,
            sent: RequestContext {
                url: request.uri().clone(),
                placeholders,
                upload,
                messages,
            },
            request,
        })
    }

    fn uri(&self) -> Result<Uri, Refusal> {
        let document = oauth_path::at_upstream(self.target.document);
        let uri = self.spec().url.request_uri(document, &self.target.rest);
        uri.map_err(|_| Refusal::new(Reason::PathInvalid, "the path and query do not make a URL"))
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
                })
            }
        }
    }
}

/// Refuses a call without a body when the server requires a secret, because only a body could carry the secret.
fn check_body_is_optional(spec: &Spec, resolver: &Resolver) -> Result<(), Refusal> {
    let required = spec
        .injections
        .iter()
        .find(|injection| resolver.requires(injection));
    required.map_or(Ok(()), |Injection { secret, .. }| {
        let message = format!(
            "this server requires secret {secret}, which goes into the request's body, and the call has no body; nothing was sent"
        );
        Err(Refusal::new(Reason::BodyMissing, message))
    })
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
