//! Tests of permissions that the handlers decide.

use super::*;

#[tokio::test]
async fn permission_is_decided_before_anything_is_looked_up() {
    let fixture = Fixture::new().await;
    let servers = &fixture.servers;
    for (workspace, name) in [("b", "one"), ("b", "none"), ("none", "none")] {
        let (workspace, name) = (workspace.to_owned(), name.to_owned());
        let get = GetServerRequest {
            workspace: workspace.clone(),
            name: name.clone(),
        };
        let explain = ExplainInjectionRequest {
            workspace: workspace.clone(),
            name: name.clone(),
        };
        let remove = RemoveServerRequest {
            workspace: workspace.clone(),
            name: name.clone(),
            revision: 0,
        };
        let add = AddServerRequest {
            server: Some(server(&workspace, &name)),
            // An invalid name of an entry, which must not show to a caller without permission.
            catalog_entry: "nothing".into(),
        };
        let update = UpdateServerRequest {
            server: Some(server(&workspace, &name)),
            update_mask: None,
        };
        let list = ListServersRequest {
            workspace,
            ..Default::default()
        };
        for answer in [
            reason(servers.get_server(by("editor", "GetServer", get)).await),
            reason(
                servers
                    .explain_injection(by("editor", "ExplainInjection", explain))
                    .await,
            ),
            reason(servers.remove_server(by("editor", "RemoveServer", remove)).await),
            reason(servers.add_server(by("editor", "AddServer", add)).await),
            reason(servers.update_server(by("editor", "UpdateServer", update)).await),
            reason(servers.list_servers(by("editor", "ListServers", list)).await),
        ] {
            assert_eq!(answer, Reason::PermissionDenied.name());
        }
    }
}

#[tokio::test]
async fn a_viewer_changes_nothing() {
    let fixture = Fixture::new().await;
    let remove = RemoveServerRequest {
        workspace: "a".into(),
        name: "one".into(),
        revision: 0,
    };
    let add = AddServerRequest {
        server: Some(server("a", "new")),
        ..Default::default()
    };
    let update = UpdateServerRequest {
        server: Some(server("a", "one")),
        update_mask: None,
    };
    // The authorization layer refuses these requests. Without the permit of the layer, the handlers refuse them too.
    assert_ne!(
        reason(
            fixture
                .servers
                .remove_server(by("viewer", "RemoveServer", remove))
                .await
        ),
        ""
    );
    assert_ne!(
        reason(fixture.servers.add_server(by("viewer", "AddServer", add)).await),
        ""
    );
    assert_ne!(
        reason(
            fixture
                .servers
                .update_server(by("viewer", "UpdateServer", update))
                .await
        ),
        ""
    );
    assert_eq!(fixture.text(), FILE);
}

/// Returns a server with TLS settings of its own.
fn with_own_tls(name: &str, server_name: &str, allow_bound_secrets: bool) -> Server {
    Server {
        url: "https://vouched.example".into(),
        tls: Some(UpstreamTls {
            server_name: server_name.into(),
            allow_bound_secrets,
            ..Default::default()
        }),
        ..server("a", name)
    }
}

#[tokio::test]
async fn only_an_administrator_adds_a_server_whose_own_tls_is_allowed_for_bound_secrets() {
    let fixture = Fixture::new().await;
    let add = async |who: &str, server: Server| {
        let message = AddServerRequest {
            server: Some(server),
            ..Default::default()
        };
        reason(fixture.servers.add_server(by(who, "AddServer", message)).await)
    };
    // Without a vault, an add that is permitted ends with this reason.
    let would_be_added = Reason::VaultUnavailable.name();
    let allowed = || with_own_tls("new", "other.example", true);
    assert_eq!(add("editor", allowed()).await, Reason::PermissionDenied.name());
    assert_eq!(add("admin", allowed()).await, would_be_added);
    assert_eq!(
        add("editor", with_own_tls("new", "other.example", false)).await,
        would_be_added
    );
    let only_that = Server {
        tls: with_own_tls("new", "", true).tls,
        ..server("a", "new")
    };
    assert_eq!(add("editor", only_that).await, Reason::PermissionDenied.name());
}

#[tokio::test]
async fn an_editor_does_not_redirect_a_server_that_an_administrator_vouches_for() {
    let fixture = Fixture::new().await;
    let tls = ["url", "tls"];
    let vouched = with_own_tls("one", "other.example", true);
    let before = fixture.update(vouched.clone(), &tls).await.unwrap();
    let impostor = Server {
        url: "https://impostor.example".into(),
        tls: Some(UpstreamTls {
            ca_pem: String::new(),
            server_name: "impostor.example".into(),
            allow_bound_secrets: true,
            ..Default::default()
        }),
        ..vouched.clone()
    };
    for paths in [
        &["url"][..],
        &["tls"],
        &["tls.server_name"],
        &["url", "tls"],
        &["tls.server_name", "description"],
    ] {
        let refused = fixture
            .update_by("editor", impostor.clone(), paths)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{paths:?}");
        assert!(refused.message().contains("tls.allow_bound_secrets"), "{refused}");
    }
    assert_eq!(fixture.get("a", "one").await, before);

    // An editor may change every other field, and may remove the allowance.
    let described = Server {
        description: "mine".into(),
        ..vouched.clone()
    };
    let described = fixture
        .update_by("editor", described, &["description", "url"])
        .await;
    assert!(described.unwrap().tls.unwrap().allow_bound_secrets);
    let given_up = Server {
        tls: with_own_tls("one", "impostor.example", false).tls,
        ..impostor.clone()
    };
    let given_up = fixture.update_by("editor", given_up, &tls).await.unwrap();
    assert_eq!(given_up.url, "https://impostor.example");
    let again = fixture
        .update_by("editor", impostor, &["tls.allow_bound_secrets"])
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::PermissionDenied);
}
