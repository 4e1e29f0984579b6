//! Who may call which of the vault's RPCs.

use chassis::authz::{
    Access::{self, AnyRole, Anyone, Roles},
    Authorized, Permit,
    Role::{Admin, Editor, Injector, Viewer},
    Scope,
};
use proto::{Principal, Reason, Refusal, WorkspaceName};

pub use chassis::authz::AdminPermit;

/// One row for each RPC. What has no row is refused.
pub const TABLE: [(&str, Access); 23] = [
    ("/vault.v1.WorkspaceService/CreateWorkspace", Roles(&[Admin])),
    ("/vault.v1.WorkspaceService/GetWorkspace", Roles(&[Admin])),
    ("/vault.v1.WorkspaceService/ListWorkspaces", Roles(&[Admin])),
    ("/vault.v1.WorkspaceService/UpdateWorkspace", Roles(&[Admin])),
    ("/vault.v1.WorkspaceService/DeleteWorkspace", Roles(&[Admin])),
    ("/vault.v1.SecretService/PutSecret", Roles(&[Admin, Editor])),
    (
        "/vault.v1.SecretService/ListSecrets",
        Roles(&[Admin, Editor, Viewer]),
    ),
    (
        "/vault.v1.SecretService/GetSecretMetadata",
        Roles(&[Admin, Editor, Viewer]),
    ),
    (
        "/vault.v1.SecretService/ListSecretVersions",
        Roles(&[Admin, Editor, Viewer]),
    ),
    (
        "/vault.v1.SecretService/RestoreSecretVersion",
        Roles(&[Admin, Editor]),
    ),
    ("/vault.v1.SecretService/DeleteSecret", Roles(&[Admin, Editor])),
    ("/vault.v1.DecryptService/Decrypt", Roles(&[Injector])),
    ("/vault.v1.DecryptService/DecryptStream", Roles(&[Injector])),
    ("/vault.v1.KeyService/GetKeyStatus", Roles(&[Admin])),
    ("/vault.v1.KeyService/ListWorkspaceKeys", Roles(&[Admin])),
    ("/vault.v1.KeyService/RotateWorkspaceKey", Roles(&[Admin])),
    ("/vault.v1.KeyService/RotateRootKey", Roles(&[Admin])),
    ("/vault.v1.BackupService/ExportBackup", Roles(&[Admin])),
    ("/vault.v1.BackupService/RestoreBackup", Roles(&[Admin])),
    ("/grpc.health.v1.Health/Check", Anyone),
    ("/grpc.health.v1.Health/Watch", AnyRole),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        AnyRole,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        AnyRole,
    ),
];

/// Proof that a call may have secrets of a workspace decrypted.
#[derive(Debug, Clone)]
pub struct DecryptPermit(Permit);

impl DecryptPermit {
    /// Decides for the caller of one decrypt.
    pub fn decide(authorized: &Authorized, workspace: &WorkspaceName) -> Result<Self, Refusal> {
        let permit = authorized.permit(workspace)?;
        match permit.role() {
            Injector => Ok(Self(permit)),
            Admin | Editor | Viewer => Err(wrong_kind()),
        }
    }

    /// The workspace whose secrets may be decrypted.
    pub fn workspace(&self) -> &WorkspaceName {
        self.0.workspace()
    }

    /// Who has them decrypted.
    pub fn principal(&self) -> &Principal {
        self.0.principal()
    }

    #[cfg(test)]
    pub(crate) fn for_test(workspace: &str) -> Self {
        Self::decide(
            &test::authorized(Injector),
            &WorkspaceName::parse(workspace).unwrap(),
        )
        .unwrap()
    }
}

/// Proof that a call may concern the vault as a whole: its caller's role, as the RPC's row says it, holds in all
/// workspaces, also those still to come.
#[derive(Debug)]
pub struct VaultPermit(());

impl VaultPermit {
    /// Decides for the caller of `request`.
    pub fn decide<T>(request: &tonic::Request<T>) -> Result<Self, Refusal> {
        match Authorized::of(request)?.scope()? {
            Scope::All => Ok(Self(())),
            Scope::Only(_) => Err(wrong_kind()),
        }
    }

    /// For commands on this machine: who has the store's files and the root key needs no role.
    pub fn of_operator() -> Self {
        Self(())
    }
}

/// The same text as for who holds no role at all.
fn wrong_kind() -> Refusal {
    Refusal::new(
        Reason::PermissionDenied,
        "this identity holds no role that may do this here",
    )
}

/// A permit to administer, for tests.
#[cfg(test)]
pub(crate) fn admin_for_test(workspace: &str) -> AdminPermit {
    let mut request = tonic::Request::new(());
    request.extensions_mut().insert(test::authorized(Admin));
    AdminPermit::decide(&request, &WorkspaceName::parse(workspace).unwrap()).unwrap()
}

#[cfg(test)]
mod test {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use chassis::{
        authz::{Authz, Binding, Policy, Role},
        caller::Peer,
    };

    use super::*;

    /// What the layer leaves in a request.
    pub(super) fn authorized(role: Role) -> Authorized {
        let principal = Principal::parse("dns:test").unwrap();
        let policy = Policy::new([Binding {
            principal: principal.clone(),
            role,
            scope: Scope::All,
        }])
        .unwrap();
        let peer = Peer::Known {
            principal,
            not_after: SystemTime::now() + Duration::from_secs(600),
        };
        let path = match role {
            Admin | Editor => "/vault.v1.SecretService/PutSecret",
            Viewer => "/vault.v1.SecretService/ListSecrets",
            Injector => "/vault.v1.DecryptService/Decrypt",
        };
        Authz::new(TABLE, Arc::new(policy))
            .authorize(path, &Arc::new(peer))
            .unwrap()
            .unwrap()
    }
}
