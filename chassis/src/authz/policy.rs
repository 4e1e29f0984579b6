//! Bindings of principals to roles.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Principal, WorkspaceName};

use super::access::{Access, Role};

/// The workspaces in which a role is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All workspaces, including workspaces that are created later.
    All,
    /// The workspaces in this set.
    Only(BTreeSet<WorkspaceName>),
}

impl Scope {
    /// Returns true when the scope includes `workspace`.
    pub fn contains(&self, workspace: &WorkspaceName) -> bool {
        match self {
            Self::All => true,
            Self::Only(workspaces) => workspaces.contains(workspace),
        }
    }

    fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(mut workspaces), Self::Only(others)) => {
                workspaces.extend(others);
                Self::Only(workspaces)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

/// Gives `principal` the `role` in the workspaces of `scope`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The principal that gets the role.
    pub principal: Principal,
    /// The role that it gets.
    pub role: Role,
    /// The workspaces in which it gets the role.
    pub scope: Scope,
}

/// The roles of all principals.
#[derive(Debug, Default)]
pub struct Policy(BTreeMap<Principal, BTreeMap<Role, Scope>>);

/// A principal was bound both to [`Role::Injector`] and to another role.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is given both the role injector and one that administers; no principal may both administer and decrypt"
)]
pub struct InjectorRoleConflict(Principal);

impl Policy {
    /// Makes a policy from `bindings`. Several bindings of one principal to one role add up.
    pub fn new(bindings: impl IntoIterator<Item = Binding>) -> Result<Self, InjectorRoleConflict> {
        let mut policy = BTreeMap::<Principal, BTreeMap<Role, Scope>>::new();
        for Binding {
            principal,
            role,
            scope,
        } in bindings
        {
            let roles = policy.entry(principal).or_default();
            let scope = match roles.remove(&role) {
                Some(earlier) => earlier.union(scope),
                None => scope,
            };
            roles.insert(role, scope);
        }
        match policy
            .iter()
            .find(|(_, roles)| roles.len() > 1 && roles.contains_key(&Role::Injector))
        {
            Some((principal, _)) => Err(InjectorRoleConflict(principal.clone())),
            None => Ok(Self(policy)),
        }
    }

    /// Returns the first of `roles` that `principal` holds in `workspace`.
    pub(super) fn role(
        &self,
        principal: &Principal,
        roles: &[Role],
        workspace: &WorkspaceName,
    ) -> Option<Role> {
        let held = self.0.get(principal)?;
        roles
            .iter()
            .copied()
            .find(|role| held.get(role).is_some_and(|scope| scope.contains(workspace)))
    }

    /// Returns the workspaces in which `principal` holds any of `roles`; `None` when it holds none of them.
    pub(super) fn scope(&self, principal: &Principal, roles: &[Role]) -> Option<Scope> {
        let held = self.0.get(principal)?;
        roles
            .iter()
            .filter_map(|role| held.get(role))
            .cloned()
            .reduce(Scope::union)
    }

    pub(super) fn has_role(&self, principal: &Principal) -> bool {
        self.0.contains_key(principal)
    }

    pub(super) fn allows(&self, principal: &Principal, access: Access) -> bool {
        match access {
            Access::Anyone => true,
            Access::AnyRole => self.has_role(principal),
            Access::Roles(roles) => self.scope(principal, roles).is_some(),
        }
    }

    /// Returns the principals that have a role.
    pub fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_principal_may_both_administer_and_decrypt() {
        let principal = Principal::parse("dns:a").unwrap();
        let binding = |role, scope| Binding {
            principal: principal.clone(),
            role,
            scope,
        };
        let one = || Scope::Only([WorkspaceName::parse("w").unwrap()].into());
        for role in [Role::Admin, Role::Editor, Role::Viewer] {
            let both = [binding(Role::Injector, Scope::All), binding(role, one())];
            assert!(Policy::new(both).is_err(), "{role:?}");
        }
    }
}
