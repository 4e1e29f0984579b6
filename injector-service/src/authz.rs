//! The roles that may call each RPC of the injector.

use chassis::authz::{
    Access::{self, AnyRole, Anyone, Roles},
    Role::{Admin, Editor, Viewer},
};

pub(crate) use chassis::authz::{ReadPermit, WritePermit};

/// One row for each RPC. Calls of an RPC without a row are refused.
pub(crate) const TABLE: [(&str, Access); 11] = [
    ("/injector.v1.ServerService/AddServer", Roles(&[Admin, Editor])),
    ("/injector.v1.ServerService/UpdateServer", Roles(&[Admin, Editor])),
    (
        "/injector.v1.ServerService/GetServer",
        Roles(&[Admin, Editor, Viewer]),
    ),
    (
        "/injector.v1.ServerService/ListServers",
        Roles(&[Admin, Editor, Viewer]),
    ),
    ("/injector.v1.ServerService/RemoveServer", Roles(&[Admin, Editor])),
    (
        "/injector.v1.ServerService/ExplainInjection",
        Roles(&[Admin, Editor, Viewer]),
    ),
    // The catalog belongs to no workspace, so a role in any workspace is enough.
    (
        "/injector.v1.CatalogService/ListCatalogEntries",
        Roles(&[Admin, Editor, Viewer]),
    ),
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

/// Returns a permit for an administrator, made by the authorization layer as for a real request.
#[cfg(test)]
pub(crate) fn write_permit_for_test(workspace: &str) -> WritePermit {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use chassis::{
        authz::{AuthzLayer, Binding, Policy, Scope},
        caller::Peer,
    };
    use proto::{Principal, WorkspaceName};

    let principal = Principal::parse("dns:test").unwrap();
    let all = Binding {
        principal: principal.clone(),
        role: Admin,
        scope: Scope::All,
    };
    let not_after = SystemTime::now() + Duration::from_secs(600);
    let peer = Arc::new(Peer::Known { principal, not_after });
    let layer = AuthzLayer::new(&TABLE, Arc::new(Policy::new([all]).unwrap()));
    let authorized = layer
        .authorize("/injector.v1.ServerService/AddServer", &peer)
        .unwrap();
    WritePermit::decide(&authorized.unwrap(), &WorkspaceName::parse(workspace).unwrap()).unwrap()
}
