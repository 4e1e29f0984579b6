//! One call, from its head to the head of its answer.

use std::{
    mem,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header, request::Parts};
use hyper::body::Incoming;
use proto::{Reason, Refusal};
use tokio::time::{Instant, timeout_at};

use super::{
    ListenerRoute, Proxy, STREAM_WINDOW, answer,
    body::{self, Fault, Unsent},
    challenge, cookies, framing,
    grpc::{FailureTrailers, LaterMessages},
    guard::{self, Sender},
    inbound::Reading,
    oauth,
    placeholders::CallPlaceholders,
    received_body::ReceivedBody,
    record::Record,
    repeat::{self, KeptRequest},
    sse_endpoint,
    target::{self, Target},
    upgrade::{UpgradeRequest, UpgradeResponse},
    watchdog::{ActiveCall, AtDeadline, DeadlineBody},
};
use crate::{
    fields,
    inject::{BodySecrets, Carrier, Dialect, inject},
    placeholder::PossibleVersions,
    placement::AuthType,
    registry::server::{Injection, Spec},
    resolve::Resolver,
    upstream::{
        Body, RefusingConnection, RequiredVersion, SendOutcome, StreamSlot, Transport, Upstream,
        UpstreamResponse,
    },
};

const LATE: &str = "the upstream did not answer within the call's deadline";

/// The unit letters of `grpc-timeout` and what they stand for, largest first.
const TIMEOUT_UNITS: [(char, Duration); 6] = [
    ('H', Duration::from_secs(3600)),
    ('M', Duration::from_secs(60)),
    ('S', Duration::from_secs(1)),
    ('m', Duration::from_millis(1)),
    ('u', Duration::from_micros(1)),
    ('n', Duration::from_nanos(1)),
];

impl Proxy {
    /// Answers one call, which may not last longer than `until`.
    pub(super) async fn call(
        &self,
        route: &ListenerRoute,
        request: Request<Incoming>,
        until: Option<Instant>,
        call: ActiveCall,
    ) -> Response<DeadlineBody> {
        let (mut parts, body) = request.into_parts();
        let mut body = Some(ReceivedBody::request(body, &parts, &call));
        let dialect = dialect(&parts.headers);
        let deadlines = [deadline(&parts.headers, dialect), until];
        let deadline = deadlines.into_iter().flatten().min();
        let late = match (dialect, parts.version) {
            (Dialect::Grpc, Version::HTTP_2) => AtDeadline::GrpcTrailers,
            // Trailers do not reach everyone.
            (Dialect::Grpc | Dialect::Http, _) => AtDeadline::Abort,
        };
        let mut record = Record::new(parts.method.clone());
        let answered = match call.malformed(&parts.method) {
            Some(refusal) => Err(refusal),
            None => {
                self.forward(route, dialect, &mut parts, &mut body, deadline, &mut record)
                    .await
            }
        };
        let mut response = match answered {
            Ok(response) => response.map(|body| DeadlineBody::new(body, deadline, late, call)),
            Err(refusal) => {
                record.refused(&refusal, &self.metrics);
                let response = answer::refusal(&refusal, dialect, &record.call_id);
                // To be told also when the call has lasted too long.
                response.map(|body| DeadlineBody::new(body, None, late, call))
            }
        };
        answer::identify(response.headers_mut(), &record.call_id);
        if let Some(origin) = &record.page {
            answer::allow(response.headers_mut(), origin);
        }
        response
    }

    async fn forward(
        &self,
        route: &ListenerRoute,
        dialect: Dialect,
        parts: &mut Parts,
        body: &mut Option<ReceivedBody>,
        deadline: Option<Instant>,
        record: &mut Record,
    ) -> Result<Response<Body>, Refusal> {
        guard::size(parts, &self.limits)?;
        guard::method(&parts.method)?;
        let authority = guard::authority(parts)?;
        let host = authority.host().to_ascii_lowercase();
        self.hosts.check(&host)?;
        guard::expectation(&parts.headers)?;
        let target = Target::find(parts, &host, route, &self.hosts, &self.registry);
        let allowed = target
            .as_ref()
            .map_or(&[][..], |target| &target.entry.server.spec.allowed_origins);
        // Before a missing server is told of: a page learns nothing.
        if let Sender::AllowedPage(origin) = guard::sender(&parts.headers, &host, allowed)? {
            record.page = Some(origin);
        }
        if target::asks_for_status(parts, &host, route, &self.hosts) {
            // Not a call: it is neither logged nor counted.
            return Ok(answer::status());
        }
        let target = target?;
        record.server(&target.entry);
        if record.page.is_some()
            && parts.method == Method::OPTIONS
            && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            record.answered("preflight");
            return Ok(answer::preflight(&parts.headers));
        }
        let Exchanged {
            mut response,
            slot,
            request,
            is_credential_ours,
            ending,
            switched,
        } = self
            .exchange(&target, dialect, deadline, parts, body, record)
            .await?;
        fields::clean_response(response.headers_mut());
        // The upstream's version is about the upstream's connection.
        let (status, version) = (response.status(), mem::take(response.version_mut()));
        let headers = response.headers_mut();
        if is_credential_ours {
            challenge::replace(status, headers, record)
                .inspect_err(|_| record.count_injected(&self.metrics))?;
        }
        let scheme = self.hosts.scheme;
        target.addresses(scheme, &authority, &request).rewrite(headers);
        cookies::keep(headers, &target.entry.server, &target.apart(&request));
        let names_resource = oauth::names_resource(target.document, status, headers);
        let may_have_endpoint = sse_endpoint::may_have_endpoint(&parts.method, headers);
        if names_resource || may_have_endpoint {
            headers.remove(header::CONTENT_LENGTH);
        }
        let (head, body) = response.into_parts();
        let body = ReceivedBody::answer(body, version).on(slot);
        let body = if names_resource {
            let addresses = target.addresses(scheme, &authority, &request);
            within(deadline, LATE, pin!(oauth::move_resource(body, &addresses))).await?
        } else if may_have_endpoint {
            let moved = move |url: &str| target.addresses(scheme, &authority, &request).reference(url);
            body::events(body, moved)
        } else {
            body::response(body)
        };
        record.forwarded(status, &self.metrics);
        let mut response = Response::from_parts(head, body);
        if let Some(switched) = switched {
            switched.put(&mut response);
        }
        Ok(match ending {
            None => response,
            Some(ending) => response.map(|body| ending.of(body)),
        })
    }

    /// Sends the request with its secrets, and again when the upstream did not process it.
    async fn exchange(
        &self,
        target: &Target,
        dialect: Dialect,
        deadline: Option<Instant>,
        parts: &mut Parts,
        body: &mut Option<ReceivedBody>,
        record: &mut Record,
    ) -> Result<Exchanged, Refusal> {
        let server = &target.entry.server;
        let asked = UpgradeRequest::find(parts, dialect, &server.spec)?;
        let mut headers = mem::take(&mut parts.headers);
        fields::clean_request(&mut headers, server.spec.auth_type);
        cookies::send(&mut headers, server);
        oauth::ask(target.document, &mut headers);
        let is_credential_ours = challenge::is_for_us(server, &headers);
        answer::identify_upstream(&mut headers, &record.call_id);
        if let Some(asked) = &asked {
            asked.put(&mut headers)?;
        }
        let upstream = self.pools.of(&target.entry, &self.resolver)?;
        let forwarding = Forwarding {
            target,
            dialect,
            deadline,
            method: parts.method.clone(),
            carrier: match target.document {
                "" => carrier(&server.spec, dialect, &target.rest)?,
                // A document of OAuth is about the server, and no call of it.
                _ => Carrier::None,
            },
            transport: upstream.transport(match dialect {
                Dialect::Grpc => RequiredVersion::Http2,
                Dialect::Http if asked.is_some() => RequiredVersion::Http1,
                Dialect::Http => RequiredVersion::Any,
            }),
            upstream,
            trailers: parts.version == Version::HTTP_2,
        };
        let mut kept = (forwarding.transport.over() == PossibleVersions::Any).then(|| {
            let limit = self.limits.max_buffered_body;
            KeptRequest::new(&headers, body, parts.version, limit, self.budget.none())
        });
        let mut refusing = Vec::new();
        let Sent { answer, url, ending } = loop {
            match self
                .attempt(&forwarding, headers, body, &refusing, record)
                .await?
            {
                Attempt::Answered(sent) => break sent,
                Attempt::NotProcessed(by) => {
                    let kept = kept.as_mut().ok_or_else(repeat::not_kept)?;
                    headers = within(deadline, LATE, pin!(kept.again(body))).await?;
                    record.repeated();
                    refusing.push(by);
                }
            }
        };
        let UpstreamResponse { mut response, slot } = answer;
        framing::check(response.status(), response.headers_mut())?;
        let switched = UpgradeResponse::find(asked, &mut response, &record.call_id)?;
        Ok(Exchanged {
            response,
            slot,
            request: url,
            is_credential_ours,
            ending,
            switched,
        })
    }

    /// Has the secrets decrypted, puts them in, and sends the request once, all or nothing.
    async fn attempt(
        &self,
        forwarding: &Forwarding<'_>,
        mut headers: HeaderMap,
        body: &mut Option<ReceivedBody>,
        refusing: &[RefusingConnection],
        record: &mut Record,
    ) -> Result<Attempt, Refusal> {
        let Forwarding {
            target,
            dialect,
            deadline,
            carrier,
            transport,
            ..
        } = *forwarding;
        let server = &target.entry.server;
        let auth_type = server.spec.auth_type;
        let (fault, unsent) = (Fault::default(), Unsent::default());
        let reading = Reading {
            auth_type,
            limits: &self.limits,
            budget: &self.budget,
            deadline,
            fault: &fault,
            unsent: &unsent,
        };
        if let Some(body) = body {
            body.count_read_ahead(&self.budget, STREAM_WINDOW)?;
        }
        let inbound = reading.read(carrier, &mut headers, body).await?;
        if inbound.lacks_a_body() {
            body_is_needed(&server.spec, &self.resolver)?;
        }
        let resolved = match (auth_type, carrier) {
            (AuthType::Skill(_), Carrier::None) => {
                record.withheld(&server.spec.injections);
                Vec::new()
            }
            (AuthType::Skill(_) | AuthType::SecretHeaders | AuthType::Bearer, _) => {
                self.resolver
                    .resolve(&target.entry, &record.call_id, deadline)
                    .await?
            }
        };
        record.resolved(&resolved);
        let mut covers =
            CallPlaceholders::new(forwarding.upstream.placeholders(), forwarding.transport.over());
        let secrets = inject(carrier, dialect, &resolved)?
            .apply(&mut headers, |name, value| covers.cover(name, value))?;
        // Wiped as soon as they are in place.
        drop(resolved);
        let uncovered = covers.uncovered(!matches!(secrets, BodySecrets::None));
        if inbound.lacks_a_body() {
            record.no_body();
        }
        let later = || LaterMessages {
            resolver: self.resolver.clone(),
            entry: target.entry.clone(),
            deadline,
            afterwards: Arc::new(record.afterwards(&target.entry)),
        };
        let (body, afterwards) = inbound.with(secrets, &reading, body, later)?;
        if let (Some(deadline), Dialect::Grpc) = (deadline, dialect) {
            let left = deadline.saturating_duration_since(Instant::now());
            headers.insert("grpc-timeout", timeout_value(left));
        }
        let uri = server
            .spec
            .url
            .request_uri(oauth::of_upstream(target.document), &target.rest);
        let request = outgoing(uri, forwarding.method.clone(), headers, body)?;
        let url = request.uri().clone();
        let delivery = pin!(forwarding.upstream.send(request, transport, uncovered, refusing));
        let delivery = within(deadline, LATE, delivery).await;
        match delivery.map_err(|refusal| fault.found().unwrap_or(refusal))? {
            SendOutcome::NotProcessed(refusing) => match fault.found() {
                None => Ok(Attempt::NotProcessed(refusing)),
                Some(refusal) => Err(refusal),
            },
            SendOutcome::Answered(answer) => {
                covers.were_placed()?;
                if unsent.is_true() {
                    record.unsent();
                }
                Ok(Attempt::Answered(Sent {
                    answer,
                    url,
                    ending: afterwards.map(|afterwards| FailureTrailers {
                        fault,
                        afterwards,
                        trailers: forwarding.trailers,
                    }),
                }))
            }
        }
    }
}

/// What each attempt to send a request has in common.
struct Forwarding<'c> {
    target: &'c Target,
    dialect: Dialect,
    deadline: Option<Instant>,
    method: Method,
    carrier: Carrier,
    transport: Transport,
    upstream: Arc<Upstream>,
    /// Whether the answer may have trailers of ours.
    trailers: bool,
}

/// What became of sending a request once.
#[expect(clippy::large_enum_variant, reason = "almost every attempt is answered")]
enum Attempt {
    Answered(Sent),
    /// The request may be sent again, on another connection than this one.
    NotProcessed(RefusingConnection),
}

/// An answer, the URL of what it answers, and how it ends if it breaks off.
struct Sent {
    answer: UpstreamResponse,
    url: Uri,
    ending: Option<FailureTrailers>,
}

/// A response and its slot, the URL of what it answers, how it ends if that breaks off, and what comes after it.
struct Exchanged {
    response: Response<Incoming>,
    slot: Option<Arc<StreamSlot>>,
    request: Uri,
    /// True when the upstream's demand for a credential is not for the program.
    is_credential_ours: bool,
    ending: Option<FailureTrailers>,
    switched: Option<UpgradeResponse>,
}

fn dialect(headers: &HeaderMap) -> Dialect {
    let grpc = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    match grpc {
        // Not grpc-web, which is plain HTTP to a proxy.
        Some([] | [b'+' | b';', ..]) => Dialect::Grpc,
        Some(_) | None => Dialect::Http,
    }
}

/// Returns the part of a call's body that carries secrets, or [`Carrier::None`] when the server does not name the call.
fn carrier(spec: &Spec, dialect: Dialect, path: &str) -> Result<Carrier, Refusal> {
    match (spec.auth_type, dialect) {
        (AuthType::Skill(Some(_)), _) | (AuthType::Skill(None), Dialect::Http)
            if !spec.body_calls.include(dialect, path) =>
        {
            Ok(Carrier::None)
        }
        (auth_type, dialect) => Carrier::of(auth_type, dialect),
    }
}

/// Refuses a call without a body when the server requires a secret, because only a body could carry the secret.
fn body_is_needed(spec: &Spec, resolver: &Resolver) -> Result<(), Refusal> {
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

/// The request that goes upstream. Its framing is made anew from its body.
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

/// Until when a gRPC call wants its answer.
fn deadline(headers: &HeaderMap, dialect: Dialect) -> Option<Instant> {
    if dialect != Dialect::Grpc {
        return None;
    }
    Instant::now().checked_add(parse_timeout(headers.get("grpc-timeout")?.to_str().ok()?)?)
}

/// At most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.get(..text.len() - unit.len_utf8())?;
    let number: u32 = digits
        .parse()
        .ok()
        .filter(|_| digits.len() <= 8 && !digits.starts_with('+'))?;
    let (_, unit) = TIMEOUT_UNITS.into_iter().find(|(letter, _)| *letter == unit)?;
    unit.checked_mul(number)
}

/// In the finest unit that eight digits hold.
fn timeout_value(left: Duration) -> HeaderValue {
    let fits = TIMEOUT_UNITS.into_iter().rev().find_map(|(letter, unit)| {
        let number = left.as_nanos() / unit.as_nanos();
        (number < 100_000_000).then(|| format!("{number}{letter}"))
    });
    fits.and_then(|text| HeaderValue::from_str(&text).ok())
        .unwrap_or(HeaderValue::from_static("99999999H"))
}

/// What `doing` gives, or that it was `late`. It is pinned where it is: it is large, and not to be moved here.
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    late: &str,
    doing: Pin<&mut impl Future<Output = Result<T, Refusal>>>,
) -> Result<T, Refusal> {
    let late = || Err(Refusal::new(Reason::DeadlineExceeded, late));
    match deadline {
        None => doing.await,
        // Asked even once, it might send something that nobody waits for.
        Some(deadline) if deadline <= Instant::now() => late(),
        Some(deadline) => timeout_at(deadline, doing).await.unwrap_or_else(|_| late()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", Dialect::Grpc),
            ("application/grpc+proto", Dialect::Grpc),
            ("application/grpc;x=y", Dialect::Grpc),
            ("application/grpc-web", Dialect::Http),
            ("application/grpc-web+proto", Dialect::Http),
            ("application/json", Dialect::Http),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(dialect(&headers), expected, "{value}");
        }
    }

    #[test]
    fn timeouts_are_read_and_written() {
        for (text, duration) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("15M", Some(Duration::from_secs(900))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("1u", Some(Duration::from_micros(1))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("+1S", None),
            ("-1S", None),
            ("100000000S", None),
            ("1é", None),
        ] {
            assert_eq!(parse_timeout(text), duration, "{text}");
        }
        for (duration, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_millis(99), "99000000n"),
            (Duration::from_millis(250), "250000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::from_secs(99_999_999), "99999999S"),
        ] {
            assert_eq!(timeout_value(duration), text);
        }
    }
}
