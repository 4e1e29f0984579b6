//! Who may call what: one table per service from RPC to roles, and bindings of principals to roles from settings.
//!
//! [`Authz`] is the layer before every handler. It refuses what the table does not allow, and hands on an
//! [`Authorized`], from which a handler gets a [`Permit`] for the one workspace that the request is about. What needs
//! a permit cannot be called without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Instant, SystemTime},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    caller::{Caller, Peer},
    guarded::Guarded,
    telemetry::{self, field},
};
use proto::{Principal, Reason, Refusal, WorkspaceName};

/// What a principal may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Administers workspaces, secrets and servers.
    Admin,
    /// Edits secrets and servers.
    Editor,
    /// Sees names and metadata.
    Viewer,
    /// Has secrets decrypted. Never together with a role that administers.
    Injector,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Editor, Self::Viewer, Self::Injector];

    /// The word that settings and logs use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
            Self::Injector => "injector",
        }
    }
}

/// Who may call an RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone, also without a certificate.
    Anyone,
    /// Any principal that holds a role. This row is for calls about the service itself, whose duration the client
    /// chooses, so a principal may have at most [`MAX_SERVICE_CALLS`] of these calls running.
    AnyRole,
    /// Principals that hold one of these roles in the workspace in question.
    Roles(&'static [Role]),
}

/// Maximum number of running calls of [`Access::AnyRole`] of one principal. A call takes about 10 KiB of memory.
pub const MAX_SERVICE_CALLS: usize = 128;

/// One row for each RPC, by its full path. What has no row is refused.
pub type Table = &'static [(&'static str, Access)];

/// The workspaces of a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All, also those still to come.
    All,
    /// These.
    Only(BTreeSet<WorkspaceName>),
}

impl Scope {
    /// Whether a workspace is among them.
    pub fn contains(&self, workspace: &WorkspaceName) -> bool {
        match self {
            Self::All => true,
            Self::Only(workspaces) => workspaces.contains(workspace),
        }
    }

    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(mut some), Self::Only(more)) => {
                some.extend(more);
                Self::Only(some)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

/// A principal, its role and where it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Whose.
    pub principal: Principal,
    /// Which role.
    pub role: Role,
    /// In which workspaces.
    pub scope: Scope,
}

/// All bindings.
#[derive(Debug, Default)]
pub struct Policy(BTreeMap<Principal, BTreeMap<Role, Scope>>);

/// One principal was given roles that no one may hold together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is given both the role injector and one that administers; no principal may both administer and decrypt"
)]
pub struct AdministersAndDecrypts(Principal);

impl Policy {
    /// Gathers bindings; those of one principal and role add up.
    pub fn new(bindings: impl IntoIterator<Item = Binding>) -> Result<Self, AdministersAndDecrypts> {
        let mut policy = BTreeMap::<Principal, BTreeMap<Role, Scope>>::new();
        for Binding {
            principal,
            role,
            scope,
        } in bindings
        {
            let roles = policy.entry(principal).or_default();
            let joined = match roles.remove(&role) {
                Some(before) => before.join(scope),
                None => scope,
            };
            roles.insert(role, joined);
        }
        match policy
            .iter()
            .find(|(_, roles)| roles.len() > 1 && roles.contains_key(&Role::Injector))
        {
            Some((principal, _)) => Err(AdministersAndDecrypts(principal.clone())),
            None => Ok(Self(policy)),
        }
    }

    /// The first of `roles` that the principal holds in the workspace.
    fn role(&self, principal: &Principal, roles: &[Role], workspace: &WorkspaceName) -> Option<Role> {
        let held = self.0.get(principal)?;
        roles
            .iter()
            .copied()
            .find(|role| held.get(role).is_some_and(|scope| scope.contains(workspace)))
    }

    fn scope(&self, principal: &Principal, roles: &[Role]) -> Option<Scope> {
        let held = self.0.get(principal)?;
        roles
            .iter()
            .filter_map(|role| held.get(role))
            .cloned()
            .reduce(Scope::join)
    }

    fn has_role(&self, principal: &Principal) -> bool {
        self.0.contains_key(principal)
    }

    fn allows(&self, principal: &Principal, access: Access) -> bool {
        match access {
            Access::Anyone => true,
            Access::AnyRole => self.has_role(principal),
            Access::Roles(roles) => self.scope(principal, roles).is_some(),
        }
    }
}

/// A call that the table allows to its caller in some workspace. Which one, [`Authorized::permit`] decides.
#[derive(Clone)]
pub struct Authorized {
    peer: Arc<Peer>,
    policy: Arc<Policy>,
    roles: &'static [Role],
}

/// Proof that a principal may do in a workspace what it asked to do there.
#[derive(Debug, Clone)]
pub struct Permit {
    principal: Principal,
    role: Role,
    workspace: WorkspaceName,
}

impl Permit {
    /// The workspace that the permit is for.
    pub fn workspace(&self) -> &WorkspaceName {
        &self.workspace
    }

    /// Who asked.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// As what.
    pub fn role(&self) -> Role {
        self.role
    }
}

/// Proof that a call may administer a workspace: change it, or see names and metadata, as its RPC's row says. Never
/// held by one who may decrypt.
#[derive(Debug, Clone)]
pub struct AdminPermit(Permit);

impl AdminPermit {
    /// Decides for the caller of `request`.
    pub fn decide<T>(request: &tonic::Request<T>, workspace: &WorkspaceName) -> Result<Self, Refusal> {
        let permit = Authorized::of(request)?.permit(workspace)?;
        match permit.role() {
            Role::Admin | Role::Editor | Role::Viewer => Ok(Self(permit)),
            Role::Injector => Err(denied()),
        }
    }

    /// The workspace that may be administered.
    pub fn workspace(&self) -> &WorkspaceName {
        self.0.workspace()
    }

    /// Who administers it.
    pub fn principal(&self) -> &Principal {
        self.0.principal()
    }

    /// Returns the role that the permit was given for: the caller's highest role in the workspace.
    pub fn role(&self) -> Role {
        self.0.role()
    }
}

impl Authorized {
    /// What the layer left in a request; refused when the request did not pass the layer.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, Refusal> {
        request.extensions().get::<Self>().ok_or_else(unauthenticated)
    }

    /// Decides for one workspace, as of now. Looks nothing up, so whether the workspace exists never shows.
    pub fn permit(&self, workspace: &WorkspaceName) -> Result<Permit, Refusal> {
        let principal = self.principal()?;
        let role = self
            .policy
            .role(principal, self.roles, workspace)
            .ok_or_else(denied)?;
        Ok(Permit {
            principal: principal.clone(),
            role,
            workspace: workspace.clone(),
        })
    }

    /// The workspaces in which the caller may make this call.
    pub fn scope(&self) -> Result<Scope, Refusal> {
        self.policy
            .scope(self.principal()?, self.roles)
            .ok_or_else(denied)
    }

    /// Who calls, unless the certificate has expired since the connection was made.
    pub fn principal(&self) -> Result<&Principal, Refusal> {
        self.peer
            .principal_at(SystemTime::now())
            .ok_or_else(unauthenticated)
    }
}

fn unauthenticated() -> Refusal {
    Refusal::new(
        Reason::Unauthenticated,
        "this call needs a client certificate that is valid now and names one principal (one URI SAN with a SPIFFE \
         ID, or no URI and one DNS SAN)",
    )
}

/// One text for all, so that it does not tell what exists.
fn denied() -> Refusal {
    Refusal::new(
        Reason::PermissionDenied,
        "this identity holds no role that may do this here",
    )
}

/// The layer that authorizes every call, and logs what became of it.
#[derive(Clone)]
pub struct Authz {
    table: Arc<BTreeMap<&'static str, Access>>,
    policy: Arc<Policy>,
    /// Semaphores with one permit for each call of [`Access::AnyRole`] that a principal may still start.
    service_calls: Arc<BTreeMap<Principal, Arc<Semaphore>>>,
}

impl Authz {
    /// Authorizes by `table` and `policy`.
    pub fn new(table: impl IntoIterator<Item = (&'static str, Access)>, policy: Arc<Policy>) -> Self {
        let service_calls = policy
            .0
            .keys()
            .map(|principal| (principal.clone(), Arc::new(Semaphore::new(MAX_SERVICE_CALLS))));
        Self {
            table: Arc::new(table.into_iter().collect()),
            service_calls: Arc::new(service_calls.collect()),
            policy,
        }
    }

    /// Returns the principal of `peer` if the principal holds a role.
    pub fn with_role<'a>(&self, peer: &'a Peer) -> Option<&'a Principal> {
        peer.principal_at(SystemTime::now())
            .filter(|principal| self.policy.has_role(principal))
    }

    /// Returns a permit that must be held until an authorized call ends; `None` when the call's row needs no permit.
    fn service_call(
        &self,
        path: &str,
        authorized: &Authorized,
    ) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        if self.table.get(path) != Some(&Access::AnyRole) {
            return Ok(None);
        }
        let calls = self
            .service_calls
            .get(authorized.principal()?)
            .ok_or_else(denied)?;
        let permit = calls.clone().try_acquire_owned().map_err(|_| {
            let told = format!(
                "this identity has {MAX_SERVICE_CALLS} calls of health watches and reflection under way, as many as it may"
            );
            Refusal::new(Reason::LimitExceeded, told)
        })?;
        Ok(Some(permit))
    }

    /// Decides whether `peer` may call the RPC with this path at all; none when anyone may.
    pub fn authorize(&self, path: &str, peer: &Arc<Peer>) -> Result<Option<Authorized>, Refusal> {
        let access = self.table.get(path).copied();
        if access == Some(Access::Anyone) {
            return Ok(None);
        }
        let principal = peer.principal_at(SystemTime::now()).ok_or_else(unauthenticated)?;
        let access = access
            .filter(|access| self.policy.allows(principal, *access))
            .ok_or_else(denied)?;
        let roles = match access {
            Access::Roles(roles) => roles,
            Access::Anyone | Access::AnyRole => &[],
        };
        Ok(Some(Authorized {
            peer: peer.clone(),
            policy: self.policy.clone(),
            roles,
        }))
    }
}

impl<S> Layer<S> for Authz {
    type Service = AuthzService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthzService {
            authz: self.clone(),
            inner,
        }
    }
}

/// See [`Authz`].
#[derive(Clone)]
pub struct AuthzService<S> {
    authz: Authz,
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
        let decided = self.authz.authorize(&path, &peer).and_then(|authorized| {
            let Some(authorized) = authorized else {
                return Ok(None);
            };
            let permit = self.authz.service_call(&path, &authorized)?;
            Ok(Some((authorized, permit)))
        });
        match decided {
            Ok(None) => Box::pin(self.inner.call(request)),
            Ok(Some((authorized, permit))) => {
                request.extensions_mut().insert(authorized);
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let response = in_our_words(answer.await?);
                    log(&path, &peer, &response, started);
                    Ok(match permit {
                        Some(permit) => response.map(|body| Body::new(Guarded::new(body, permit))),
                        None => response,
                    })
                })
            }
            Err(refusal) => {
                let response = Status::from(refusal).into_http();
                log(&path, &peer, &response, started);
                Box::pin(async move { Ok(response) })
            }
        }
    }
}

/// tonic refuses a message before a handler sees it: one too large as `OUT_OF_RANGE`, one that does not decode as
/// `INTERNAL`. Its texts hold nothing of the message. Refusals of our own have details, and stay as they are.
fn in_our_words(response: http::Response<Body>) -> http::Response<Body> {
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

struct Who<'a>(&'a Peer);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Peer::Anonymous => f.write_str("-"),
            Peer::Known { principal, .. } => principal.fmt(f),
        }
    }
}

/// One line a call. A failure is in the response's head ("trailers-only"); anything else counts as answered.
fn log(path: &str, peer: &Peer, response: &http::Response<Body>, started: Instant) {
    let method = path.trim_start_matches('/');
    let ms = telemetry::ms(started);
    let who = Who(peer);
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != tonic::Code::Ok => {
            tracing::info!({ field::METHOD } = method, { field::PRINCIPAL } = %who, { field::CODE } = ?status.code(),
                { field::DETAIL } = status.message(), { field::MS } = ms, "rpc refused");
        }
        _ if method.starts_with("vault.v1.DecryptService/") || method.starts_with("grpc.") => {
            tracing::debug!({ field::METHOD } = method, { field::PRINCIPAL } = %who, { field::MS } = ms, "rpc answered");
        }
        _ => {
            tracing::info!({ field::METHOD } = method, { field::PRINCIPAL } = %who, { field::MS } = ms, "rpc answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(text: &str) -> Principal {
        Principal::parse(text).unwrap()
    }

    fn only(names: &[&str]) -> Scope {
        Scope::Only(
            names
                .iter()
                .map(|name| WorkspaceName::parse(name).unwrap())
                .collect(),
        )
    }

    fn binding(who: &str, role: Role, scope: Scope) -> Binding {
        Binding {
            principal: principal(who),
            role,
            scope,
        }
    }

    fn authorized(policy: Policy, who: &str, roles: &'static [Role]) -> Authorized {
        let not_after = SystemTime::now() + std::time::Duration::from_secs(60);
        let peer = Arc::new(Peer::Known {
            principal: principal(who),
            not_after,
        });
        Authorized {
            peer,
            policy: Arc::new(policy),
            roles,
        }
    }

    #[test]
    fn no_principal_may_both_administer_and_decrypt() {
        for role in [Role::Admin, Role::Editor, Role::Viewer] {
            let both = [
                binding("dns:a", Role::Injector, Scope::All),
                binding("dns:a", role, only(&["w"])),
            ];
            assert!(Policy::new(both).is_err(), "{role:?}");
        }
    }

    #[test]
    fn a_permit_is_for_the_workspaces_of_the_binding() {
        let policy = Policy::new([
            binding("dns:a", Role::Editor, only(&["v"])),
            binding("dns:a", Role::Editor, only(&["w"])),
            binding("dns:a", Role::Viewer, Scope::All),
        ])
        .unwrap();
        let editor = authorized(policy, "dns:a", &[Role::Admin, Role::Editor]);
        for (name, allowed) in [("v", true), ("w", true), ("x", false)] {
            let workspace = WorkspaceName::parse(name).unwrap();
            assert_eq!(editor.permit(&workspace).is_ok(), allowed, "{name}");
        }
        assert_eq!(editor.scope().unwrap(), only(&["v", "w"]));
    }

    #[test]
    fn an_expired_certificate_permits_nothing() {
        let policy = Policy::new([binding("dns:a", Role::Admin, Scope::All)]).unwrap();
        let mut admin = authorized(policy, "dns:a", &[Role::Admin]);
        let workspace = WorkspaceName::parse("w").unwrap();
        assert!(admin.permit(&workspace).is_ok());
        let not_after = SystemTime::now() - std::time::Duration::from_secs(1);
        admin.peer = Arc::new(Peer::Known {
            principal: principal("dns:a"),
            not_after,
        });
        assert_eq!(
            admin.permit(&workspace).unwrap_err().reason,
            Reason::Unauthenticated
        );
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        let policy = Arc::new(Policy::new([binding("dns:a", Role::Admin, Scope::All)]).unwrap());
        let authz = Authz::new(
            [
                ("/x.S/Known", Access::Roles(&[Role::Admin])),
                ("/x.S/Open", Access::Anyone),
            ],
            policy,
        );
        let not_after = SystemTime::now() + std::time::Duration::from_secs(60);
        let admin = Arc::new(Peer::Known {
            principal: principal("dns:a"),
            not_after,
        });
        let nobody = Arc::new(Peer::Anonymous);
        let reason = |path, peer| authz.authorize(path, peer).err().map(|refusal| refusal.reason);
        assert_eq!(reason("/x.S/Known", &admin), None);
        assert_eq!(reason("/x.S/Unknown", &admin), Some(Reason::PermissionDenied));
        assert_eq!(reason("/x.S/Known", &nobody), Some(Reason::Unauthenticated));
        assert_eq!(reason("/x.S/Unknown", &nobody), Some(Reason::Unauthenticated));
        assert_eq!(reason("/x.S/Open", &nobody), None);
    }
}
