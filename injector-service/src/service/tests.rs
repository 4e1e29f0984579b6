//! Tests of the handlers with a vault that cannot be reached or stops answering. The tests of `explain` and `warnings` cover
//! the vault's answers.

mod authorization;
mod bindings;

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use chassis::{
    authz::{AuthzLayer, Binding, Policy, Role, Scope},
    caller::Peer,
};
use prometheus_client::metrics::histogram::Histogram;
use prost_types::FieldMask;
use proto::{
    Principal, Reason,
    injector::v1::{
        AddServerRequest, ExplainInjectionRequest, GetServerRequest, ListServersRequest, RemoveServerRequest,
        Server, UpdateServerRequest, UpstreamTls, server_service_server::ServerService as _,
    },
};
use tempfile::TempDir;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::Servers;
use crate::{
    address::OwnListeners,
    authz::TABLE,
    registry::{Registry, WorkspaceQuota},
    resolve::{InjectorIdentity, Resolver, VaultCredentials, VaultDriver},
};

const FILE: &str = "\
version: 1
servers:
- {workspace: a, name: one, url: 'https://one.example'}
- {workspace: a, name: two, url: 'https://two.example', injections: [{secret: X, required: true}]}
- {workspace: b, name: one, url: 'https://b.example'}
";

struct Fixture {
    dir: TempDir,
    servers: Servers,
    /// Never run, so that the vault does not answer. `None` for a fixture with a vault.
    _link: Option<VaultDriver>,
}

impl Fixture {
    async fn new() -> Self {
        let ends = VaultCredentials {
            vault: Principal::parse("dns:vault").unwrap(),
            injector: InjectorIdentity::Certificate(Principal::parse("dns:injector").unwrap()),
        };
        let (resolver, link) = Resolver::new(ends, Duration::from_millis(1), false, Histogram::new([1.0]));
        Self {
            _link: Some(link),
            ..Self::with_resolver(resolver).await
        }
    }

    async fn with_resolver(resolver: Resolver) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("servers.yaml");
        fs::write(&path, FILE).unwrap();
        let quota = WorkspaceQuota {
            servers: 100,
            bytes: 32 << 10,
        };
        let registry = Registry::open(path, OwnListeners::default(), quota)
            .await
            .unwrap();
        Self {
            dir,
            servers: Servers::new(registry, resolver, None),
            _link: None,
        }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.dir.path().join("servers.yaml")).unwrap()
    }

    async fn update(&self, server: Server, paths: &[&str]) -> Result<Server, Status> {
        self.update_by("admin", server, paths).await
    }

    async fn update_by(&self, who: &str, server: Server, paths: &[&str]) -> Result<Server, Status> {
        let update_mask = Some(FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        });
        let message = UpdateServerRequest {
            server: Some(server),
            update_mask,
        };
        let answer = self
            .servers
            .update_server(by(who, "UpdateServer", message))
            .await?;
        Ok(answer.into_inner().server.unwrap())
    }

    async fn get(&self, workspace: &str, name: &str) -> Server {
        let message = GetServerRequest {
            workspace: workspace.into(),
            name: name.into(),
        };
        self.servers
            .get_server(by("viewer-of-all", "GetServer", message))
            .await
            .unwrap()
            .into_inner()
            .server
            .unwrap()
    }

    async fn list(
        &self,
        who: &str,
        workspace: &str,
        page_size: u32,
        page_token: &str,
    ) -> (Vec<String>, String) {
        let message = ListServersRequest {
            workspace: workspace.into(),
            page_size,
            page_token: page_token.into(),
        };
        let answer = self
            .servers
            .list_servers(by(who, "ListServers", message))
            .await
            .unwrap()
            .into_inner();
        let names = answer
            .servers
            .iter()
            .map(|server| format!("{}/{}", server.workspace, server.name))
            .collect();
        (names, answer.next_page_token)
    }
}

/// Returns a request of `who` with whatever the authorization layer adds to it. The layer adds nothing to a request that it
/// refuses.
fn by<T>(who: &str, rpc: &str, message: T) -> Request<T> {
    let principal = |name: &str| Principal::parse(&format!("dns:{name}")).unwrap();
    let in_a = || Scope::Only([proto::WorkspaceName::parse("a").unwrap()].into());
    let bindings = [
        ("admin", Role::Admin, Scope::All),
        ("viewer-of-all", Role::Viewer, Scope::All),
        ("viewer", Role::Viewer, in_a()),
        ("editor", Role::Editor, in_a()),
    ];
    let bindings = bindings.map(|(name, role, scope)| Binding {
        principal: principal(name),
        role,
        scope,
    });
    let not_after = SystemTime::now() + Duration::from_secs(600);
    let peer = Arc::new(Peer::Known {
        principal: principal(who),
        not_after,
    });
    let layer = AuthzLayer::new(&TABLE, Arc::new(Policy::new(bindings).unwrap()));
    let mut request = Request::new(message);
    if let Ok(Some(authorized)) = layer.authorize(&format!("/injector.v1.ServerService/{rpc}"), &peer) {
        request.extensions_mut().insert(authorized);
    }
    request
}

fn server(workspace: &str, name: &str) -> Server {
    Server {
        workspace: workspace.into(),
        name: name.into(),
        url: "https://new.example".into(),
        ..Default::default()
    }
}

fn reason<T>(answer: Result<Response<T>, Status>) -> String {
    answer
        .err()
        .map(|status| status.get_details_error_info().unwrap().reason)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_list_shows_the_callers_workspaces_page_by_page() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture.list("viewer", "", 0, "").await,
        (vec!["a/one".into(), "a/two".into()], String::new())
    );
    let (first, token) = fixture.list("admin", "", 2, "").await;
    assert_eq!(first, ["a/one", "a/two"]);
    assert_eq!(
        fixture.list("admin", "", 2, &token).await,
        (vec!["b/one".into()], String::new())
    );
    assert_eq!(
        fixture.list("admin", "b", 2, "").await,
        (vec!["b/one".into()], String::new())
    );
    assert_eq!(
        fixture.list("admin", "none", 2, "").await,
        (vec![], String::new())
    );
    for (who, workspace) in [("viewer", ""), ("admin", "a")] {
        let other = ListServersRequest {
            workspace: workspace.into(),
            page_size: 2,
            page_token: token.clone(),
        };
        let answer = fixture.servers.list_servers(by(who, "ListServers", other)).await;
        assert_eq!(reason(answer), Reason::PageTokenInvalid.name());
    }
}

#[tokio::test]
async fn a_server_is_not_added_while_the_vault_does_not_know_its_workspace() {
    let fixture = Fixture::new().await;
    let add = AddServerRequest {
        server: Some(server("a", "new")),
        ..Default::default()
    };
    let answer = fixture.servers.add_server(by("editor", "AddServer", add)).await;
    assert_eq!(reason(answer), Reason::VaultUnavailable.name());
    let add = AddServerRequest {
        server: Some(server("a", "one")),
        ..Default::default()
    };
    let answer = fixture
        .servers
        .add_server(by("editor", "AddServer", add))
        .await
        .unwrap_err();
    assert_eq!(
        (answer.code(), answer.message()),
        (Code::AlreadyExists, "there is a server a/one already")
    );
    assert_eq!(fixture.text(), FILE);
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_checks_the_whole() {
    let fixture = Fixture::new().await;
    let before = fixture.get("a", "two").await;
    let given = Server {
        description: "new".into(),
        ..server("a", "two")
    };
    let after = fixture.update(given, &["description"]).await.unwrap();
    let Server {
        revision,
        update_time,
        ..
    } = after.clone();
    assert_eq!(
        after,
        Server {
            description: "new".into(),
            revision: 2,
            update_time,
            ..before
        }
    );
    assert_eq!((revision, &fixture.get("a", "two").await), (2, &after));

    // A bearer server has exactly one secret. The server has one, so only the second update is refused.
    let bearer = Server {
        auth_type: 2,
        inject_secrets: vec!["X".into(), "Y".into()],
        ..server("a", "two")
    };
    fixture.update(bearer.clone(), &["auth_type"]).await.unwrap();
    let refused = fixture
        .update(bearer.clone(), &["inject_secrets"])
        .await
        .map(Response::new);
    assert_eq!(reason(refused), Reason::ServerInvalid.name());
    let refused = fixture
        .update(
            Server {
                inject_secrets: vec!["Y".into()],
                ..bearer
            },
            &["inject_secrets"],
        )
        .await;
    assert!(refused.unwrap_err().message().contains("X is required"));
    assert_eq!(fixture.get("a", "two").await.revision, 3);
}

#[tokio::test]
async fn an_update_with_a_wrong_revision_name_or_field_is_refused() {
    let fixture = Fixture::new().await;
    let given = |name: &str, revision| Server {
        revision,
        ..server("a", name)
    };
    for (server, paths, expected) in [
        (given("one", 2), &["url"][..], Reason::RevisionMismatch),
        (given("none", 0), &["url"], Reason::ServerNotFound),
        (given("one", 1), &[], Reason::FieldMaskInvalid),
        (given("one", 1), &["name"], Reason::FieldMaskInvalid),
        (given("One", 1), &["url"], Reason::ServerNameInvalid),
        (
            Server {
                protobuf_secrets_field: 1,
                ..given("one", 1)
            },
            &["url", "protobuf_secrets_field"],
            Reason::ServerInvalid,
        ),
        (
            Server {
                url: "http://169.254.169.254".into(),
                ..given("one", 1)
            },
            &["url"],
            Reason::UpstreamAddressRefused,
        ),
    ] {
        let answer = fixture.update(server.clone(), paths).await.map(Response::new);
        assert_eq!(reason(answer), expected.name(), "{server:?}");
    }
    assert_eq!(fixture.text(), FILE);
    assert_eq!(
        fixture.update(given("one", 1), &["url"]).await.unwrap().url,
        "https://new.example"
    );
}

#[tokio::test]
async fn an_unknown_server_is_named_in_the_error() {
    let fixture = Fixture::new().await;
    let get = GetServerRequest {
        workspace: "a".into(),
        name: "none".into(),
    };
    let answer = fixture
        .servers
        .get_server(by("viewer", "GetServer", get))
        .await
        .unwrap_err();
    assert_eq!(
        (answer.code(), answer.message()),
        (Code::NotFound, "there is no server a/none")
    );
    let remove = |revision| RemoveServerRequest {
        workspace: "a".into(),
        name: "one".into(),
        revision,
    };
    let stale = fixture
        .servers
        .remove_server(by("editor", "RemoveServer", remove(2)))
        .await;
    assert_eq!(reason(stale), Reason::RevisionMismatch.name());
    fixture
        .servers
        .remove_server(by("editor", "RemoveServer", remove(1)))
        .await
        .unwrap();
    let gone = fixture
        .servers
        .remove_server(by("editor", "RemoveServer", remove(0)))
        .await;
    assert_eq!(reason(gone), Reason::ServerNotFound.name());
}

#[tokio::test]
async fn an_invalid_or_read_only_file_is_reported_without_its_content() {
    let fixture = Fixture::new().await;
    let path = fixture.dir.path().join("servers.yaml");
    let mut mode = fs::metadata(&path).unwrap().permissions();
    mode.set_readonly(true);
    fs::set_permissions(&path, mode).unwrap();
    let refused = fixture.update(server("a", "one"), &["url"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason::<()>(Err(refused)), Reason::RegistryReadOnly.name());

    fs::remove_file(&path).unwrap();
    fs::write(&path, "version: 1\nservers: [{workspace: other, name: x}]\n").unwrap();
    let refused = fixture.update(server("a", "one"), &["url"]).await.unwrap_err();
    assert!(
        !refused.message().contains("line") && !refused.message().contains("yaml"),
        "{refused}"
    );
    assert_eq!(reason::<()>(Err(refused)), Reason::RegistryInvalid.name());
}
