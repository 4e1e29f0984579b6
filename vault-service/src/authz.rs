//! The roles that the vault's RPCs accept, and the permit for calls that concern the whole vault.

use chassis::authz::{
    Access::{self, AnyRole, Anyone, Roles},
    Authorized,
    Role::{Admin, Editor, Injector, Viewer},
    Scope, permission_denied,
};
use proto::Refusal;

pub use chassis::authz::{AdminPermit, DecryptPermit, ReadPermit, WritePermit};

use crate::crypto::RootKey;

/// The roles that each RPC accepts. An RPC without a row is refused.
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

/// Proof that a call may concern the whole vault: its keys, or a backup of all workspaces.
#[derive(Debug)]
pub struct VaultPermit(());

impl VaultPermit {
    /// Decides for the caller of an RPC, who must hold the role admin in all workspaces, including later ones.
    pub fn decide(authorized: &Authorized) -> Result<Self, Refusal> {
        match authorized.limited_to(&[Admin])?.scope()? {
            Scope::All => Ok(Self(())),
            Scope::Only(_) => Err(permission_denied(authorized.principal()?)),
        }
    }

    /// Returns the permit of a command on this machine. Whoever has the store's files and a root key that unlocks them
    /// could read everything in any case, and needs no role.
    pub(crate) fn of_operator(_root_key: &RootKey) -> Self {
        Self(())
    }
}

#[cfg(test)]
pub(crate) mod for_tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use chassis::{
        authz::{AuthzLayer, Binding, Policy, Role},
        caller::Peer,
    };
    use proto::{Principal, WorkspaceName};

    use super::*;

    pub(crate) fn admin_permit(workspace: &str) -> AdminPermit {
        let call = authorized(Admin, "/vault.v1.WorkspaceService/CreateWorkspace");
        AdminPermit::decide(&call, &WorkspaceName::parse(workspace).unwrap()).unwrap()
    }

    pub(crate) fn decrypt_permit(workspace: &str) -> DecryptPermit {
        let call = authorized(Injector, "/vault.v1.DecryptService/Decrypt");
        DecryptPermit::decide(&call, &WorkspaceName::parse(workspace).unwrap()).unwrap()
    }

    fn authorized(role: Role, path: &str) -> Authorized {
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
        AuthzLayer::new(&TABLE, Arc::new(policy))
            .authorize(path, &Arc::new(peer))
            .unwrap()
            .unwrap()
    }
}
