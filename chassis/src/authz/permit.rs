//! Permits: proofs, in the types, that a caller may do something in a workspace.

use std::{ops::Deref, sync::Arc, time::SystemTime};

use proto::{Principal, Refusal, WorkspaceName};

use super::{
    access::{Role, permission_denied, unauthenticated},
    policy::{Policy, Scope},
};
use crate::{
    caller::Peer,
    jwt::{TokenKey, TokenRefusal},
};

/// A call that the table allows to its caller in at least one workspace. The permits decide for a particular one.
#[derive(Clone)]
pub struct Authorized {
    pub(super) peer: Arc<Peer>,
    /// The key of the token by which the caller is known; `None` for a certificate.
    pub(super) token_key: Option<TokenKey>,
    pub(super) policy: Arc<Policy>,
    /// The roles in the RPC's row of the table.
    pub(super) roles: &'static [Role],
}

impl Authorized {
    /// Returns the `Authorized` that the layer put into `request`. Refuses a request that did not pass the layer.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, Refusal> {
        let authorized = request.extensions().get::<Self>();
        authorized.ok_or_else(|| unauthenticated(&Peer::Anonymous))
    }

    /// Returns the caller. Refuses a caller whose certificate or token has expired since the call began, or whose token is signed
    /// with a key that the issuer has withdrawn since.
    pub fn principal(&self) -> Result<&Principal, Refusal> {
        if let Some(key) = &self.token_key {
            key.check().map_err(TokenRefusal::refusal)?;
        }
        self.peer
            .principal_at(SystemTime::now())
            .ok_or_else(|| unauthenticated(&self.peer))
    }

    /// Returns the workspaces in which the caller may make this call.
    pub fn scope(&self) -> Result<Scope, Refusal> {
        let principal = self.principal()?;
        self.policy
            .scope(principal, self.roles)
            .ok_or_else(|| permission_denied(principal))
    }

    /// Returns `self` when the RPC's row has no role besides `roles`.
    ///
    /// A permit is thereby bound to the row as well as to the caller: a handler that asks for a permit which its own row
    /// does not promise is refused for every caller, and not only for callers without the role.
    pub fn limited_to(&self, roles: &[Role]) -> Result<&Self, Refusal> {
        match self.roles.iter().all(|role| roles.contains(role)) {
            true => Ok(self),
            false => Err(permission_denied(self.principal()?)),
        }
    }

    /// Returns a permit when the RPC's row has no role besides `roles` and the caller holds one of the row's roles in
    /// `workspace`. Does not look the workspace up, so the answer does not tell whether the workspace exists.
    fn permit(&self, roles: &[Role], workspace: &WorkspaceName) -> Result<Permit, Refusal> {
        let principal = self.limited_to(roles)?.principal()?;
        let role = self.policy.role(principal, self.roles, workspace);
        Ok(Permit {
            principal: principal.clone(),
            role: role.ok_or_else(|| permission_denied(principal))?,
            workspace: workspace.clone(),
        })
    }
}

/// The contents that all permits have: who may act, in which role and in which workspace.
#[derive(Debug, Clone)]
pub struct Permit {
    principal: Principal,
    role: Role,
    workspace: WorkspaceName,
}

impl Permit {
    /// Returns the workspace that the permit is for.
    pub fn workspace(&self) -> &WorkspaceName {
        &self.workspace
    }

    /// Returns the caller.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Returns the caller's role in the workspace: the first one of the RPC's row that the caller holds.
    pub fn role(&self) -> Role {
        self.role
    }
}

/// Proof that the caller may read names and metadata in a workspace.
#[derive(Debug, Clone)]
pub struct ReadPermit(Permit);

/// Proof that the caller may change secrets or servers in a workspace. Includes a [`ReadPermit`].
#[derive(Debug, Clone)]
pub struct WritePermit(ReadPermit);

/// Proof that the caller may administer a workspace. Includes a [`WritePermit`].
#[derive(Debug, Clone)]
pub struct AdminPermit(WritePermit);

/// Proof that the caller may decrypt secrets of a workspace. No caller can get both this permit and any of the others,
/// because [`Policy`] keeps [`Role::Injector`] apart from the other roles.
#[derive(Debug, Clone)]
pub struct DecryptPermit(Permit);

impl ReadPermit {
    /// Decides for one workspace. The RPC's row may have the roles admin, editor and viewer.
    pub fn decide(authorized: &Authorized, workspace: &WorkspaceName) -> Result<Self, Refusal> {
        let roles = [Role::Admin, Role::Editor, Role::Viewer];
        authorized.permit(&roles, workspace).map(Self)
    }
}

impl WritePermit {
    /// Decides for one workspace. The RPC's row may have the roles admin and editor.
    pub fn decide(authorized: &Authorized, workspace: &WorkspaceName) -> Result<Self, Refusal> {
        let permit = authorized.permit(&[Role::Admin, Role::Editor], workspace)?;
        Ok(Self(ReadPermit(permit)))
    }
}

impl AdminPermit {
    /// Decides for one workspace. The RPC's row may have the role admin only.
    pub fn decide(authorized: &Authorized, workspace: &WorkspaceName) -> Result<Self, Refusal> {
        let permit = authorized.permit(&[Role::Admin], workspace)?;
        Ok(Self(WritePermit(ReadPermit(permit))))
    }
}

impl DecryptPermit {
    /// Decides for one workspace. The RPC's row may have the role injector only.
    pub fn decide(authorized: &Authorized, workspace: &WorkspaceName) -> Result<Self, Refusal> {
        authorized.permit(&[Role::Injector], workspace).map(Self)
    }
}

impl Deref for ReadPermit {
    type Target = Permit;

    fn deref(&self) -> &Permit {
        &self.0
    }
}

impl Deref for WritePermit {
    type Target = ReadPermit;

    fn deref(&self) -> &ReadPermit {
        &self.0
    }
}

impl Deref for AdminPermit {
    type Target = WritePermit;

    fn deref(&self) -> &WritePermit {
        &self.0
    }
}

impl Deref for DecryptPermit {
    type Target = Permit;

    fn deref(&self) -> &Permit {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::Reason;

    use super::{super::Binding, *};

    const ADMIN: &[Role] = &[Role::Admin];
    const WRITERS: &[Role] = &[Role::Admin, Role::Editor];
    const READERS: &[Role] = &[Role::Admin, Role::Editor, Role::Viewer];
    const INJECTOR: &[Role] = &[Role::Injector];

    fn workspace(name: &str) -> WorkspaceName {
        WorkspaceName::parse(name).unwrap()
    }

    fn only(names: &[&str]) -> Scope {
        Scope::Only(names.iter().copied().map(workspace).collect())
    }

    fn peer(not_after: SystemTime) -> Arc<Peer> {
        Arc::new(Peer::Known {
            principal: Principal::parse("dns:a").unwrap(),
            not_after,
        })
    }

    /// A call of an RPC whose row has `roles`, by a caller that holds the roles in `held`.
    fn authorized(held: &[(Role, Scope)], roles: &'static [Role]) -> Authorized {
        let bindings = held.iter().map(|(role, scope)| Binding {
            principal: Principal::parse("dns:a").unwrap(),
            role: *role,
            scope: scope.clone(),
        });
        Authorized {
            peer: peer(SystemTime::now() + Duration::from_secs(60)),
            policy: Arc::new(Policy::new(bindings).unwrap()),
            token_key: None,
            roles,
        }
    }

    #[test]
    fn a_permit_is_for_the_workspaces_of_the_binding() {
        let held = [
            (Role::Editor, only(&["v"])),
            (Role::Editor, only(&["w"])),
            (Role::Viewer, Scope::All),
        ];
        let editor = authorized(&held, WRITERS);
        for (name, allowed) in [("v", true), ("w", true), ("x", false)] {
            let permit = WritePermit::decide(&editor, &workspace(name));
            assert_eq!(permit.is_ok(), allowed, "{name}");
        }
        assert_eq!(editor.scope().unwrap(), only(&["v", "w"]));
    }

    #[test]
    fn a_permit_needs_a_role_that_the_row_allows_and_a_row_that_the_permit_allows() {
        let w = workspace("w");
        for (held, row, [read, write, admin, decrypt]) in [
            (Role::Admin, ADMIN, [true, true, true, false]),
            (Role::Admin, WRITERS, [true, true, false, false]),
            (Role::Admin, READERS, [true, false, false, false]),
            (Role::Editor, WRITERS, [true, true, false, false]),
            (Role::Editor, ADMIN, [false; 4]),
            (Role::Viewer, READERS, [true, false, false, false]),
            (Role::Viewer, WRITERS, [false; 4]),
            (Role::Injector, INJECTOR, [false, false, false, true]),
            (Role::Injector, READERS, [false; 4]),
            (Role::Admin, INJECTOR, [false; 4]),
            (Role::Admin, &[], [false; 4]),
        ] {
            let call = authorized(&[(held, Scope::All)], row);
            let permits = [
                ReadPermit::decide(&call, &w).is_ok(),
                WritePermit::decide(&call, &w).is_ok(),
                AdminPermit::decide(&call, &w).is_ok(),
                DecryptPermit::decide(&call, &w).is_ok(),
            ];
            assert_eq!(permits, [read, write, admin, decrypt], "{held:?} {row:?}");
        }
    }

    #[test]
    fn an_expired_certificate_permits_nothing() {
        let mut admin = authorized(&[(Role::Admin, Scope::All)], ADMIN);
        assert!(AdminPermit::decide(&admin, &workspace("w")).is_ok());
        admin.peer = peer(SystemTime::now() - Duration::from_secs(1));
        let refused = AdminPermit::decide(&admin, &workspace("w")).unwrap_err();
        assert_eq!(refused.reason, Reason::Unauthenticated);
    }
}
