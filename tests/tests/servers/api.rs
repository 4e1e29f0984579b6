//! Tests of the RPCs that add, change, list and remove servers.

use std::fs;

use e2e::{Upstream, pair::server};
use proto::injector::v1::{
    AuthType, GetServerRequest, ListServersRequest, Oauth, OnEcho, Protocol, RemoveServerRequest, Scrub,
    Server, UpstreamTls,
};
use tonic::{Code, Status};

use super::{URL, dev, get, remove, secret_header, update, why};

#[tokio::test]
async fn a_server_is_added_shown_and_removed() {
    let pair = dev().await;
    let workspace = pair.vault.workspace("ops").await;
    let given = Server {
        auth_type: AuthType::SecretHeaders.into(),
        protocol: Protocol::Http2.into(),
        required_secrets: vec!["My.Key".into()],
        tls: Some(UpstreamTls {
            server_name: "other.example.com".into(),
            ..Default::default()
        }),
        allowed_origins: vec!["https://app.example".into()],
        description: "an API".into(),
        oauth: Oauth::Pass.into(),
        // The caller cannot set these fields.
        uid: "mine".into(),
        revision: 77,
        workspace_uid: "mine".into(),
        ..server("ops", "api", URL, &["github-token", "My.Key"])
    };
    let added = pair.injector.add(given.clone()).await;
    assert_eq!(added.workspace_uid, workspace.uid);
    assert_ne!(added.uid, "mine");
    assert_eq!(added.revision, 1);
    assert!(added.create_time.is_some() && added.create_time == added.update_time);
    let expected = Server {
        uid: added.uid.clone(),
        revision: 1,
        workspace_uid: workspace.uid,
        create_time: added.create_time,
        update_time: added.update_time,
        inject_secrets: vec!["GITHUB_TOKEN".into(), "MY_KEY".into()],
        required_secrets: vec!["MY_KEY".into()],
        injections: vec![
            secret_header("github-token", false),
            secret_header("my-key", true),
        ],
        scrub: Scrub::Headers.into(),
        on_echo: OnEcho::Mask.into(),
        ..given
    };
    assert_eq!(added, expected);

    let request = GetServerRequest {
        workspace: "ops".into(),
        name: "api".into(),
    };
    let shown = pair
        .injector
        .servers()
        .get_server(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown.server, Some(expected));
    let again = pair
        .injector
        .try_add(server("ops", "api", URL, &[]))
        .await
        .unwrap_err();
    assert_eq!(why(&again), (Code::AlreadyExists, "SERVER_EXISTS".into()));

    let removal = |revision| RemoveServerRequest {
        workspace: "ops".into(),
        name: "api".into(),
        revision,
    };
    let stale = pair
        .injector
        .servers()
        .remove_server(removal(9))
        .await
        .unwrap_err();
    assert_eq!(why(&stale), (Code::Aborted, "REVISION_MISMATCH".into()));
    pair.injector.servers().remove_server(removal(1)).await.unwrap();
    for refused in [
        pair.injector.servers().get_server(request).await.unwrap_err(),
        pair.injector
            .servers()
            .remove_server(removal(0))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(why(&refused), (Code::NotFound, "SERVER_NOT_FOUND".into()));
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_invalid_server_is_refused() {
    let pair = dev().await;
    let api = |secrets: &[&str]| server("dev", "api", URL, secrets);
    let many: Vec<String> = (0..65).map(|number| format!("S{number}")).collect();
    let cases = [
        (
            Server {
                name: "Api".into(),
                ..api(&[])
            },
            "SERVER_NAME_INVALID",
        ),
        (
            Server {
                name: String::new(),
                ..api(&[])
            },
            "SERVER_NAME_INVALID",
        ),
        (
            Server {
                name: "a/b".into(),
                ..api(&[])
            },
            "SERVER_NAME_INVALID",
        ),
        (
            Server {
                workspace: "Dev".into(),
                ..api(&[])
            },
            "WORKSPACE_NAME_INVALID",
        ),
        (
            Server {
                workspace: String::new(),
                ..api(&[])
            },
            "WORKSPACE_NAME_INVALID",
        ),
        (
            Server {
                url: String::new(),
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                url: "ftp://api.example.com".into(),
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                url: "https://u:p@api.example.com".into(),
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                url: "https://api.example.com/?".into(),
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                url: "https://api.example.com/#f".into(),
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                url: "https://api.example.com/a/../b".into(),
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                auth_type: AuthType::Bearer.into(),
                ..api(&["A", "B"])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                auth_type: AuthType::Bearer.into(),
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                auth_type: 99,
                ..api(&[])
            },
            "REQUEST_MALFORMED",
        ),
        (
            Server {
                protocol: 99,
                ..api(&[])
            },
            "REQUEST_MALFORMED",
        ),
        (
            Server {
                protobuf_secrets_field: 1,
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                required_secrets: vec!["B".into()],
                ..api(&["A"])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                inject_secrets: many,
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (api(&["a-b", "A_B"]), "SECRET_NAME_DUPLICATE"),
        (api(&["---"]), "SECRET_NAME_INVALID"),
        (api(&[""]), "SECRET_NAME_INVALID"),
        (
            Server {
                allowed_origins: vec!["*".into()],
                ..api(&[])
            },
            "ORIGIN_INVALID",
        ),
        (
            Server {
                allowed_origins: vec!["https://*.example".into()],
                ..api(&[])
            },
            "ORIGIN_INVALID",
        ),
        (
            Server {
                allowed_origins: vec!["null".into()],
                ..api(&[])
            },
            "ORIGIN_INVALID",
        ),
        (
            Server {
                allowed_origins: vec!["https://app.example/".into()],
                ..api(&[])
            },
            "ORIGIN_INVALID",
        ),
        (
            Server {
                description: "x".repeat(1025),
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
        (
            Server {
                tls: Some(UpstreamTls {
                    ca_pem: "nothing".into(),
                    ..Default::default()
                }),
                ..api(&[])
            },
            "SERVER_INVALID",
        ),
    ];
    for (given, reason) in cases {
        let refused = pair.injector.try_add(given.clone()).await.unwrap_err();
        assert_eq!(why(&refused), (Code::InvalidArgument, reason.into()), "{given:?}");
    }
    let nowhere = pair
        .injector
        .try_add(server("none", "api", URL, &[]))
        .await
        .unwrap_err();
    assert_eq!(why(&nowhere), (Code::NotFound, "WORKSPACE_NOT_FOUND".into()));
    let listed = pair
        .injector
        .servers()
        .list_servers(ListServersRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.servers, []);
    pair.stop().await;
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names() {
    let pair = dev().await;
    let added = pair
        .injector
        .add(Server {
            description: "before".into(),
            ..server("dev", "api", URL, &["A"])
        })
        .await;
    let given = Server {
        description: "after".into(),
        ..server("dev", "api", "https://other.example.com", &["B", "c"])
    };

    let updated = update(&pair.injector, given.clone(), &["inject_secrets"])
        .await
        .unwrap();
    let expected = Server {
        inject_secrets: vec!["B".into(), "C".into()],
        injections: vec![secret_header("b", false), secret_header("c", false)],
        revision: 2,
        update_time: updated.update_time,
        ..added.clone()
    };
    assert_eq!(updated, expected);
    assert_eq!(get(&pair.injector, "api").await.unwrap(), expected);

    let current = Server {
        revision: 2,
        ..given.clone()
    };
    let updated = update(&pair.injector, current.clone(), &["url", "description"])
        .await
        .unwrap();
    assert_eq!(
        (
            updated.url.as_str(),
            updated.description.as_str(),
            updated.revision
        ),
        ("https://other.example.com", "after", 3)
    );
    let stale = update(&pair.injector, current, &["url"]).await.unwrap_err();
    assert_eq!(why(&stale), (Code::Aborted, "REVISION_MISMATCH".into()));

    for paths in [
        &[][..],
        &["name"],
        &["uid"],
        &["workspace_uid"],
        &["*"],
        &["url", "nothing"],
    ] {
        let refused = update(&pair.injector, given.clone(), paths).await.unwrap_err();
        assert_eq!(
            why(&refused),
            (Code::InvalidArgument, "FIELD_MASK_INVALID".into()),
            "{paths:?}"
        );
    }
    let bearer = Server {
        auth_type: AuthType::Bearer.into(),
        ..given.clone()
    };
    let refused = update(&pair.injector, bearer.clone(), &["auth_type"])
        .await
        .unwrap_err();
    assert_eq!(why(&refused), (Code::InvalidArgument, "SERVER_INVALID".into()));
    let field = Server {
        protobuf_secrets_field: 5,
        ..given.clone()
    };
    let refused = update(&pair.injector, field, &["protobuf_secrets_field"])
        .await
        .unwrap_err();
    assert_eq!(why(&refused), (Code::InvalidArgument, "SERVER_INVALID".into()));
    let missing = update(
        &pair.injector,
        Server {
            name: "none".into(),
            ..given
        },
        &["url"],
    )
    .await
    .unwrap_err();
    assert_eq!(why(&missing), (Code::NotFound, "SERVER_NOT_FOUND".into()));
    assert_eq!(get(&pair.injector, "api").await.unwrap(), updated);

    let one = update(
        &pair.injector,
        Server {
            inject_secrets: vec!["A".into()],
            ..bearer
        },
        &["auth_type", "inject_secrets"],
    );
    assert_eq!(one.await.unwrap().auth_type(), AuthType::Bearer);
    pair.stop().await;
}

#[tokio::test]
async fn a_change_applies_from_the_next_call_on() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let pair = dev().await;
    pair.vault.put("dev", "A", "a-1").await;
    pair.vault.put("dev", "B", "b-1").await;
    pair.injector
        .add(server("dev", "api", &first.url(), &["A"]))
        .await;
    assert_eq!(pair.injector.get("/dev/api/").await.status(), 200);
    assert_eq!(first.last().secret_headers(), ["x-mcp-secret-a"]);

    let moved = server("dev", "api", &second.url(), &["B"]);
    update(&pair.injector, moved.clone(), &["url", "inject_secrets"])
        .await
        .unwrap();
    assert_eq!(pair.injector.get("/dev/api/").await.status(), 200);
    assert_eq!(second.last().secret_headers(), ["x-mcp-secret-b"]);

    let skill = Server {
        auth_type: AuthType::Skill.into(),
        ..moved
    };
    update(&pair.injector, skill, &["auth_type"]).await.unwrap();
    assert_eq!(pair.injector.get("/dev/api/").await.status(), 200);
    assert_eq!(second.last().secret_headers(), [] as [&str; 0]);

    remove(&pair.injector, "api", 0).await.unwrap();
    assert_eq!(pair.injector.get("/dev/api/").await.status(), 404);
    assert_eq!((first.seen().len(), second.seen().len()), (1, 2));
    pair.stop().await;
}

#[tokio::test]
async fn servers_are_listed_by_name_and_in_pages() {
    let pair = dev().await;
    pair.vault.workspace("ops").await;
    for (workspace, name) in [
        ("ops", "b"),
        ("dev", "c"),
        ("ops", "a"),
        ("dev", "a-b"),
        ("dev", "a"),
    ] {
        pair.injector.add(server(workspace, name, URL, &[])).await;
    }
    let list = async |workspace: &str, page_size, page_token: &str| {
        let request = ListServersRequest {
            workspace: workspace.into(),
            page_size,
            page_token: page_token.into(),
        };
        let page = pair.injector.servers().list_servers(request).await?.into_inner();
        let names = page
            .servers
            .iter()
            .map(|server| format!("{}/{}", server.workspace, server.name))
            .collect::<Vec<_>>();
        Ok::<_, Status>((names, page.next_page_token))
    };
    let all = ["dev/a", "dev/a-b", "dev/c", "ops/a", "ops/b"];
    assert_eq!(list("", 0, "").await.unwrap().0, all);
    assert_eq!(list("ops", 0, "").await.unwrap().0, ["ops/a", "ops/b"]);
    let (mut paged, mut token) = (Vec::new(), String::new());
    for _ in 0..all.len() {
        let (names, next) = list("", 2, &token).await.unwrap();
        paged.extend(names);
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all);
    let (_, token) = list("dev", 1, "").await.unwrap();
    for (workspace, token) in [("ops", token.as_str()), ("", token.as_str()), ("dev", "nonsense")] {
        let refused = list(workspace, 1, token).await.unwrap_err();
        assert_eq!(
            why(&refused),
            (Code::InvalidArgument, "PAGE_TOKEN_INVALID".into())
        );
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_server_outside_the_origins_of_its_secrets_is_not_stored() {
    let pair = dev().await;
    pair.vault
        .put_for(
            "dev",
            "BOUND",
            "bound-1",
            &["https://api.example.com", "https://*.example.org"],
        )
        .await;
    for url in [
        "https://evil.example",
        "https://api.example.com:8443",
        "https://example.org",
        "http://127.0.0.1:1",
    ] {
        let refused = pair
            .injector
            .try_add(server("dev", "api", url, &["BOUND"]))
            .await
            .unwrap_err();
        assert_eq!(
            why(&refused),
            (Code::FailedPrecondition, "SECRET_NOT_FOR_THIS_UPSTREAM".into()),
            "{url}"
        );
        assert!(refused.message().contains("BOUND") && !refused.message().contains("bound-1"));
    }
    assert_eq!(
        get(&pair.injector, "api").await.unwrap_err().code(),
        Code::NotFound
    );
    for url in ["https://api.example.com/v1", "https://a.b.example.org"] {
        pair.injector.add(server("dev", "api", url, &["BOUND"])).await;
        remove(&pair.injector, "api", 0).await.unwrap();
    }
    // An existing server also cannot get another URL with the secret, or get the secret.
    pair.injector.add(server("dev", "api", URL, &["BOUND"])).await;
    let refused = update(
        &pair.injector,
        server("dev", "api", "https://evil.example", &[]),
        &["url"],
    )
    .await
    .unwrap_err();
    assert_eq!(
        why(&refused),
        (Code::FailedPrecondition, "SECRET_NOT_FOR_THIS_UPSTREAM".into())
    );
    pair.injector
        .add(server("dev", "evil", "https://evil.example", &[]))
        .await;
    let given = server("dev", "evil", "", &["BOUND"]);
    let refused = update(&pair.injector, given, &["inject_secrets"])
        .await
        .unwrap_err();
    assert_eq!(
        why(&refused),
        (Code::FailedPrecondition, "SECRET_NOT_FOR_THIS_UPSTREAM".into())
    );
    assert_eq!(get(&pair.injector, "api").await.unwrap().url, URL);
    assert_eq!(
        get(&pair.injector, "evil").await.unwrap().inject_secrets,
        [] as [&str; 0]
    );
    pair.stop().await;
}

#[tokio::test]
async fn concurrent_changes_are_all_stored() {
    let pair = dev().await;
    let adding = (0..16).map(|number| {
        let injector = &pair.injector;
        async move {
            injector
                .try_add(server("dev", &format!("s-{}", number / 2), URL, &[]))
                .await
                .is_ok()
        }
    });
    let added = futures_util::future::join_all(adding).await;
    assert_eq!(added.iter().filter(|added| **added).count(), 8, "each name once");
    let request = ListServersRequest {
        workspace: "dev".into(),
        ..Default::default()
    };
    let listed = pair
        .injector
        .servers()
        .list_servers(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.servers.len(), 8);
    let file = fs::read_to_string(pair.injector.servers_file()).unwrap();
    assert_eq!(file.matches("workspace: dev").count(), 8);
    pair.stop().await;
}
