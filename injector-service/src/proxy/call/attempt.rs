//! One attempt to send a request: the secrets are decrypted, put in and sent, all or nothing.
//!
//! The decrypted values live in this attempt alone. They are wiped once they are in the request, and the request is
//! dropped with the attempt.

use std::{pin::pin, sync::Arc};

use http::{HeaderMap, Method, Request, Uri, Version, header};
use proto::{Reason, Refusal};

use super::{
    body::{Reading, RequestBody},
    deadline::{self, NO_ANSWER, within},
    prepare::{Plan, UnsentRequest},
};
use crate::{
    inject::{BodySecrets, Carrier, Resolved, inject},
    placement::AuthType,
    proxy::{
        STREAM_WINDOW,
        body::{Fault, Unsent},
        grpc::{FailureTrailers, LaterMessages},
        oauth,
        placeholders::CallPlaceholders,
        record::{Afterwards, Record},
    },
    registry::server::{Injection, Spec},
    resolve::Resolver,
    upstream::{Body, ClearValues, RefusingConnection, SendOutcome, UpstreamResponse},
};

/// The result of an attempt.
#[expect(clippy::large_enum_variant, reason = "almost every attempt is answered")]
pub(super) enum Attempt {
    Answered(Delivered),
    /// The request may be sent again, on another connection than this one.
    NotProcessed(RefusingConnection),
}

/// An answer, with the facts about its request that are needed to pass the answer on.
pub(super) struct Delivered {
    pub(super) answer: UpstreamResponse,
    pub(super) url: Uri,
    pub(super) ending: Option<FailureTrailers>,
}

/// A request whose body was read as far as it has to be before secrets are put in.
struct ReadRequest {
    headers: HeaderMap,
    body: RequestBody,
}

/// A request with its secrets.
struct CompleteRequest<'p> {
    request: Request<Body>,
    placeholders: CallPlaceholders<'p>,
    clear_values: ClearValues,
    /// The log of the messages that get secrets after the first, for a gRPC stream.
    afterwards: Option<Arc<Afterwards>>,
}

impl Plan<'_> {
    pub(super) async fn attempt(
        &self,
        unsent: UnsentRequest,
        refusing: &[RefusingConnection],
        record: &mut Record,
    ) -> Result<Attempt, Refusal> {
        let (fault, body_unsent) = (Fault::default(), Unsent::default());
        let reading = Reading {
            auth_type: self.spec().auth_type,
            limits: &self.context.proxy.limits,
            budget: &self.context.proxy.budget,
            deadline: self.context.deadline,
            fault: &fault,
            unsent: &body_unsent,
        };
        let request = self.read(unsent, &reading).await?;
        let resolved = self.resolve(record).await?;
        let CompleteRequest {
            request,
            placeholders,
            clear_values,
            afterwards,
        } = self.complete(request, resolved, &reading, record)?;
        let url = request.uri().clone();
        let delivery = pin!(
            self.upstream
                .send(request, self.transport, clear_values, refusing)
        );
        let delivery = within(self.context.deadline, NO_ANSWER, delivery).await;
        match delivery.map_err(|refusal| fault.found().unwrap_or(refusal))? {
            SendOutcome::NotProcessed(connection) => match fault.found() {
                None => Ok(Attempt::NotProcessed(connection)),
                Some(refusal) => Err(refusal),
            },
            SendOutcome::Answered(answer) => {
                placeholders.check_substituted()?;
                if body_unsent.is_true() {
                    record.unsent();
                }
                let ending = afterwards.map(|afterwards| FailureTrailers {
                    fault,
                    afterwards,
                    trailers: self.context.version == Version::HTTP_2,
                });
                Ok(Attempt::Answered(Delivered { answer, url, ending }))
            }
        }
    }

    async fn read(&self, unsent: UnsentRequest, reading: &Reading<'_>) -> Result<ReadRequest, Refusal> {
        let UnsentRequest {
            mut headers,
            mut body,
        } = unsent;
        body.reserve_read_ahead(reading.budget, STREAM_WINDOW)?;
        let body = RequestBody::read(body, self.carrier, &mut headers, reading).await?;
        if body.is_missing() {
            check_body_is_optional(self.spec(), &self.context.proxy.resolver)?;
        }
        Ok(ReadRequest { headers, body })
    }

    /// Has the vault decrypt the secrets, unless they would go into a body that does not get any.
    async fn resolve(&self, record: &mut Record) -> Result<Vec<Resolved<'_>>, Refusal> {
        let resolved = match (self.spec().auth_type, self.carrier) {
            (AuthType::Skill(_), Carrier::None) => {
                record.withheld(&self.spec().injections);
                Vec::new()
            }
            (AuthType::Skill(_) | AuthType::SecretHeaders | AuthType::Bearer, _) => {
                let resolver = &self.context.proxy.resolver;
                resolver
                    .resolve(&self.target.entry, &record.call_id, self.context.deadline)
                    .await?
            }
        };
        record.resolved(&resolved);
        Ok(resolved)
    }

    /// Puts the secrets into the request, and wipes them everywhere else.
    fn complete(
        &self,
        request: ReadRequest,
        resolved: Vec<Resolved<'_>>,
        reading: &Reading<'_>,
        record: &mut Record,
    ) -> Result<CompleteRequest<'_>, Refusal> {
        let ReadRequest { mut headers, body } = request;
        let mut placeholders = CallPlaceholders::new(self.upstream.placeholders(), self.transport.over());
        let secrets = inject(self.carrier, self.context.dialect, &resolved)?
            .apply(&mut headers, |name, value| placeholders.insert(name, value))?;
        drop(resolved);
        let clear_values = placeholders.clear_values(!matches!(secrets, BodySecrets::None));
        if body.is_missing() {
            record.no_body();
        }
        let later = || LaterMessages {
            resolver: self.context.proxy.resolver.clone(),
            entry: self.target.entry.clone(),
            deadline: self.context.deadline,
            afterwards: Arc::new(record.afterwards(&self.target.entry)),
        };
        let (body, afterwards) = body.with(secrets, reading, later)?;
        deadline::tell(&mut headers, self.context.deadline, self.context.dialect);
        let path = oauth::of_upstream(self.target.document);
        let uri = self.spec().url.request_uri(path, &self.target.rest);
        let request = outgoing(uri, self.method.clone(), headers, body)?;
        Ok(CompleteRequest {
            request,
            placeholders,
            clear_values,
            afterwards,
        })
    }

    fn spec(&self) -> &Spec {
        &self.target.entry.server.spec
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

/// Returns the request that goes upstream, without `Host` and `Content-Length`: hyper writes both anew, from the URL and
/// the body.
fn outgoing(
    uri: Result<Uri, http::Error>,
    method: Method,
    mut headers: HeaderMap,
    body: Body,
) -> Result<Request<Body>, Refusal> {
    for name in [header::HOST, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    let uri = uri.map_err(|_| Refusal::new(Reason::PathInvalid, "the path and query do not make a URL"))?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Ok(request)
}
