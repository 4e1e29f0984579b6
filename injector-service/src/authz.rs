//! Who may call which of the injector's RPCs.

use chassis::authz::{
    Access::{self, AnyRole, Anyone, Roles},
    Role::{Admin, Editor, Viewer},
};

pub use chassis::authz::AdminPermit;

/// One row for each RPC. What has no row is refused.
pub const TABLE: [(&str, Access); 11] = [
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
    // The catalog is no workspace's: a role in any will do.
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

/// A permit as the layer and a handler make it, for tests.
#[cfg(test)]
pub(crate) fn admin_for_test(workspace: &str) -> AdminPermit {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use chassis::{
        authz::{Authz, Binding, Policy, Scope},
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
    let layer = Authz::new(TABLE, Arc::new(Policy::new([all]).unwrap()));
    let authorized = layer
        .authorize("/injector.v1.ServerService/AddServer", &peer)
        .unwrap();
    let mut request = tonic::Request::new(());
    request.extensions_mut().insert(authorized.unwrap());
    AdminPermit::decide(&request, &WorkspaceName::parse(workspace).unwrap()).unwrap()
}
