//! The layer that authorizes and logs every call.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Instant, SystemTime},
};

use proto::{Principal, Reason, Refusal};
use rustls_pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    access::{Access, AccessTable, MAX_SERVICE_CALLS, permission_denied, unauthenticated},
    permit::Authorized,
    policy::Policy,
};
use crate::{
    caller::{Caller, Peer},
    guarded_response::GuardedResponse,
    jwt::TokenKey,
    log_limit::LogLimit,
    telemetry::{self, field},
};

/// The refusal of a request's token. A request that has it is refused unless anyone may make the call, whatever the client's
/// certificate allows.
#[derive(Debug, Clone)]
pub(crate) struct RefusedToken(pub(crate) Refusal);

/// Authorizes every call by an [`AccessTable`] and a [`Policy`], and writes one log line for each call that needs a role.
#[derive(Clone)]
pub struct AuthzLayer {
    table: Arc<BTreeMap<&'static str, Access>>,
    policy: Arc<Policy>,
    /// Semaphores with one slot for each call of [`Access::AnyRole`] that a principal may still start.
    service_calls: Arc<BTreeMap<Principal, Arc<Semaphore>>>,
    /// Limits the lines about refused calls of peers without a role.
    refused_strangers: Arc<LogLimit>,
}

impl AuthzLayer {
    /// Makes a layer for the RPCs in `table`.
    pub fn new(table: AccessTable, policy: Arc<Policy>) -> Self {
        let service_calls = policy
            .principals()
            .map(|principal| (principal.clone(), Arc::new(Semaphore::new(MAX_SERVICE_CALLS))));
        Self {
            table: Arc::new(table.iter().copied().collect()),
            service_calls: Arc::new(service_calls.collect()),
            refused_strangers: Arc::new(LogLimit::for_strangers()),
            policy,
        }
    }

    /// Reads the certificate in `chain`, which TLS must have verified. A certificate with several names counts when exactly one
    /// of them holds a role.
    pub(crate) fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Peer {
        Peer::of_client(chain, |principal| self.policy.has_role(principal))
    }

    /// Returns the principal of `peer` if the principal holds a role.
    pub(crate) fn with_role<'a>(&self, peer: &'a Peer) -> Option<&'a Principal> {
        peer.principal_at(SystemTime::now())
            .filter(|principal| self.policy.has_role(principal))
    }

    /// Returns a call slot that must be held until an authorized call ends; `None` when the call's row needs no slot.
    fn service_call(
        &self,
        path: &str,
        authorized: &Authorized,
    ) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        if self.table.get(path) != Some(&Access::AnyRole) {
            return Ok(None);
        }
        let principal = authorized.principal()?;
        let calls = self
            .service_calls
            .get(principal)
            .ok_or_else(|| permission_denied(principal))?;
        let permit = calls.clone().try_acquire_owned().map_err(|_| {
            let message = format!(
                "{principal} has {MAX_SERVICE_CALLS} calls of health watches and reflection under way, as many as it may"
            );
            Refusal::new(Reason::LimitExceeded, message)
        })?;
        Ok(Some(permit))
    }

    /// Returns true when callers without an identity may call the RPC with this path, such as a health check.
    pub(crate) fn is_for_anyone(&self, path: &str) -> bool {
        self.table.get(path) == Some(&Access::Anyone)
    }

    /// Refuses a call whose token was refused, unless it is for anyone.
    fn check_token(&self, path: &str, refused: Option<&RefusedToken>) -> Result<(), Refusal> {
        match refused {
            Some(RefusedToken(refusal)) if !self.is_for_anyone(path) => Err(refusal.clone()),
            Some(_) | None => Ok(()),
        }
    }

    /// Logs a refused call. The path of a peer without a role is logged only when the table has it: it is the text of a stranger.
    fn log_refused(&self, path: &str, peer: &Peer, response: &http::Response<Body>, started: Instant) {
        if self.with_role(peer).is_some() {
            return log(path, peer, response, started, None);
        }
        let Some(suppressed) = self.refused_strangers.admit(Instant::now()) else {
            return;
        };
        let path = if self.table.contains_key(path) { path } else { "-" };
        log(path, peer, response, started, Some(suppressed));
    }

    /// Decides whether `peer` may call the RPC with this path in any workspace. Returns `None` when the table lets
    /// anyone call it.
    pub fn authorize(&self, path: &str, peer: &Arc<Peer>) -> Result<Option<Authorized>, Refusal> {
        let access = self.table.get(path).copied();
        if access == Some(Access::Anyone) {
            return Ok(None);
        }
        let known = peer.principal_at(SystemTime::now());
        let principal = known.ok_or_else(|| unauthenticated(peer))?;
        let access = access
            .filter(|access| self.policy.allows(principal, *access))
            .ok_or_else(|| permission_denied(principal))?;
        let roles = match access {
            Access::Roles(roles) => roles,
            Access::Anyone | Access::AnyRole => &[],
        };
        Ok(Some(Authorized {
            peer: peer.clone(),
            policy: self.policy.clone(),
            token_key: None,
            roles,
        }))
    }
}

impl<S> Layer<S> for AuthzLayer {
    type Service = AuthzService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthzService {
            authz: self.clone(),
            inner,
        }
    }
}

/// The service that [`AuthzLayer`] makes.
#[derive(Clone)]
pub struct AuthzService<S> {
    authz: AuthzLayer,
    inner: S,
}

impl<S> Service<http::Request<Body>> for AuthzService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let started = Instant::now();
        let peer = request
            .extensions()
            .get::<Caller>()
            .map(|caller| caller.peer.clone())
            .unwrap_or_else(|| Arc::new(Peer::Anonymous));
        let path = request.uri().path().to_owned();
        let refused = request.extensions().get::<RefusedToken>();
        let checked = self.authz.check_token(&path, refused);
        let authorized = checked.and_then(|()| self.authz.authorize(&path, &peer));
        let decided = authorized.and_then(|authorized| {
            let Some(authorized) = authorized else {
                return Ok(None);
            };
            let permit = self.authz.service_call(&path, &authorized)?;
            Ok(Some((authorized, permit)))
        });
        match decided {
            Ok(None) => Box::pin(self.inner.call(request)),
            Ok(Some((mut authorized, permit))) => {
                authorized.token_key = request.extensions_mut().remove::<TokenKey>();
                request.extensions_mut().insert(authorized);
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let response = with_reason(answer.await?);
                    log(&path, &peer, &response, started, None);
                    Ok(match permit {
                        Some(permit) => response.map(|body| Body::new(GuardedResponse::new(body, permit))),
                        None => response,
                    })
                })
            }
            Err(refusal) => {
                let response = Status::from(refusal).into_http();
                self.authz.log_refused(&path, &peer, &response, started);
                Box::pin(async move { Ok(response) })
            }
        }
    }
}

/// Adds a [`Reason`] to a refusal that tonic made before a handler saw the request: `OUT_OF_RANGE` for a message that is
/// too large, `INTERNAL` for one that does not decode. tonic's texts quote nothing of the message. A refusal of a handler
/// already has details and stays unchanged.
fn with_reason(response: http::Response<Body>) -> http::Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    let reason = match (status.code(), status.details()) {
        (tonic::Code::OutOfRange, []) => Reason::LimitExceeded,
        (tonic::Code::Internal, []) => Reason::RequestMalformed,
        _ => return response,
    };
    Status::from(Refusal::new(reason, status.message())).into_http()
}

/// Prints the principal of a peer, or `-` for a peer without one.
struct PrincipalField<'a>(&'a Peer);

impl fmt::Display for PrincipalField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Peer::Anonymous | Peer::Unusable(_) => f.write_str("-"),
            Peer::Known { principal, .. } => principal.fmt(f),
        }
    }
}

/// Logs the result of a call. A failed unary call has its status in the response head ("Trailers-Only" in gRPC's
/// specification); a call without a status in the head counts as answered.
fn log(path: &str, peer: &Peer, response: &http::Response<Body>, started: Instant, suppressed: Option<u64>) {
    let method = path.trim_start_matches('/');
    let ms = telemetry::ms(started);
    let principal = PrincipalField(peer);
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != tonic::Code::Ok => {
            tracing::info!({ field::METHOD } = method, { field::PRINCIPAL } = %principal, { field::CODE } = ?status.code(),
                { field::DETAIL } = status.message(), { field::MS } = ms, { field::SUPPRESSED } = suppressed, "rpc refused");
        }
        _ if method.starts_with("vault.v1.DecryptService/") || method.starts_with("grpc.") => {
            tracing::debug!({ field::METHOD } = method, { field::PRINCIPAL } = %principal, { field::MS } = ms, "rpc answered");
        }
        _ => {
            tracing::info!({ field::METHOD } = method, { field::PRINCIPAL } = %principal, { field::MS } = ms, "rpc answered");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use super::{
        super::{Binding, Role, Scope},
        *,
    };
    use crate::test_log::TestLog;

    #[tokio::test]
    async fn a_flood_of_refused_strangers_writes_few_lines_and_none_of_their_texts() {
        const FLOOD: usize = 1000;
        let (log, _captured) = TestLog::capture();
        let table = &[("/x.S/Known", Access::Roles(&[Role::Admin]))];
        let answer = tower::service_fn(|_| async { Ok::<_, Infallible>(http::Response::new(Body::empty())) });
        let mut service = AuthzLayer::new(table, Arc::new(Policy::default())).layer(answer);
        let mut call = async |path: &str| {
            let request = http::Request::builder().uri(path).body(Body::empty());
            let answer = service.call(request.unwrap()).await.unwrap();
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
        };
        call("/x.S/Known").await;
        for _ in 0..FLOOD {
            call(&format!("/{}", "forged".repeat(100))).await;
        }
        let lines = log.count("rpc refused");
        assert!((2..=FLOOD / 2).contains(&lines), "{lines}");
        let text = log.text();
        assert!(
            text.contains("method=\"x.S/Known\"") && text.contains("method=\"-\""),
            "{text}"
        );
        assert!(!text.contains("forged"), "{text}");
    }

    #[test]
    fn an_rpc_that_is_not_in_the_table_is_refused() {
        let principal = Principal::parse("dns:a").unwrap();
        let binding = Binding {
            principal: principal.clone(),
            role: Role::Admin,
            scope: Scope::All,
        };
        let policy = Arc::new(Policy::new([binding]).unwrap());
        let authz = AuthzLayer::new(
            &[
                ("/x.S/Known", Access::Roles(&[Role::Admin])),
                ("/x.S/Open", Access::Anyone),
            ],
            policy,
        );
        let not_after = SystemTime::now() + Duration::from_secs(60);
        let admin = Arc::new(Peer::Known { principal, not_after });
        let nobody = Arc::new(Peer::Anonymous);
        let reason = |path, peer| authz.authorize(path, peer).err().map(|refusal| refusal.reason);
        assert_eq!(reason("/x.S/Known", &admin), None);
        assert_eq!(reason("/x.S/Unknown", &admin), Some(Reason::PermissionDenied));
        assert_eq!(reason("/x.S/Known", &nobody), Some(Reason::Unauthenticated));
        assert_eq!(reason("/x.S/Unknown", &nobody), Some(Reason::Unauthenticated));
        assert_eq!(reason("/x.S/Open", &nobody), None);
        let refused = RefusedToken(Refusal::new(Reason::Unauthenticated, "expired"));
        assert!(authz.check_token("/x.S/Known", Some(&refused)).is_err());
        assert!(authz.check_token("/x.S/Unknown", Some(&refused)).is_err());
        assert!(authz.check_token("/x.S/Open", Some(&refused)).is_ok());
        assert!(authz.check_token("/x.S/Known", None).is_ok());
    }
}
