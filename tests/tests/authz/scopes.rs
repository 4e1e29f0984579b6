//! Roles in some workspaces only.

use tonic_types::StatusExt as _;

use super::*;

/// Returns the parts of a refusal by which a caller could distinguish it from another one. A refusal names its caller,
/// which is left out.
fn seen<T: std::fmt::Debug>(answer: Result<T, Status>, caller: &str) -> (Code, String, String) {
    let status = answer.unwrap_err();
    (
        status.code(),
        status.message().replace(caller, "CALLER"),
        format!("{:?}", status.get_error_details()),
    )
}

fn seen_by_editor<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String, String) {
    seen(answer, EDITOR)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_of_some_workspaces_may_not_administer_the_whole_vault() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.admin.push(format!("{EDITOR}=mine,also-mine"));
    })
    .await;
    vault.workspace("mine").await;
    let some = vault.channel(EDITOR);
    assert_eq!(call_result(&some).await, CallResult::Served);
    for method in ["ExportBackup", "RestoreBackup"] {
        let path = format!("/vault.v1.BackupService/{method}");
        let refused = wire::open(&some, &path, Bytes::new()).await.map(drop);
        let other = wire::open(&vault.channel(STRANGER), &path, Bytes::new())
            .await
            .map(drop);
        assert_eq!(seen(refused, EDITOR), seen(other, STRANGER), "{method}");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_of_one_workspace_can_neither_change_another_nor_learn_that_it_exists() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.editor = vec![format!("{EDITOR}=mine,also-mine")];
        settings.roles.viewer = vec![format!("{EDITOR}=read-only")];
    })
    .await;
    for workspace in ["mine", "also-mine", "read-only", "theirs"] {
        vault.workspace(workspace).await;
        vault.put(workspace, "NAME", "v").await;
    }
    let editor = SecretServiceClient::new(vault.channel(EDITOR));
    let all = async |workspace: &str, secret: &str| {
        let (mut editor, owned, name) = (editor.clone(), workspace.to_owned(), secret.to_owned());
        let value = Some(Value::Text("x".into()));
        let put = PutSecretRequest {
            workspace: owned.clone(),
            name: name.clone(),
            value,
            ..Default::default()
        };
        let list = ListSecretsRequest {
            workspace: owned.clone(),
            ..Default::default()
        };
        let metadata = GetSecretMetadataRequest {
            workspace: owned.clone(),
            name: name.clone(),
        };
        let versions = ListSecretVersionsRequest {
            workspace: owned.clone(),
            name: name.clone(),
            ..Default::default()
        };
        let restore = RestoreSecretVersionRequest {
            workspace: owned.clone(),
            name: name.clone(),
            version: 1,
            ..Default::default()
        };
        let delete = DeleteSecretRequest {
            workspace: owned,
            name,
            ..Default::default()
        };
        [
            editor.put_secret(put).await.map(drop),
            editor.list_secrets(list).await.map(drop),
            editor.get_secret_metadata(metadata).await.map(drop),
            editor.list_secret_versions(versions).await.map(drop),
            editor.restore_secret_version(restore).await.map(drop),
            editor.delete_secret(delete).await.map(drop),
        ]
    };
    for mine in ["mine", "also-mine"] {
        all(mine, "NAME").await.into_iter().for_each(Result::unwrap);
    }
    let [put, list, metadata, versions, restore, delete] = all("read-only", "NAME").await;
    assert!(list.is_ok() && metadata.is_ok() && versions.is_ok());
    for refusal in [put, restore, delete] {
        assert_eq!(refusal.unwrap_err().code(), Code::PermissionDenied);
    }
    let nowhere = all("nowhere", "NAME").await.map(seen_by_editor);
    assert!(
        nowhere
            .iter()
            .all(|refusal| *refusal == nowhere[0] && refusal.0 == Code::PermissionDenied),
        "{nowhere:?}"
    );
    assert_eq!(all("theirs", "NAME").await.map(seen_by_editor), nowhere);
    assert_eq!(all("theirs", "MISSING").await.map(seen_by_editor), nowhere);
    assert_eq!(
        all("min", "NAME").await.map(seen_by_editor),
        nowhere,
        "a prefix of a workspace"
    );
    let request = GetSecretMetadataRequest {
        workspace: "theirs".into(),
        name: "NAME".into(),
    };
    let secret = vault
        .secrets()
        .get_secret_metadata(request)
        .await
        .unwrap()
        .into_inner()
        .secret
        .unwrap();
    assert_eq!(secret.version, 1);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_of_some_workspaces_can_neither_see_nor_change_others() {
    let lead = "spiffe://test/lead";
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.admin.push(format!("{lead}=b,d,not-yet"))
    })
    .await;
    for workspace in ["a", "b", "c", "d"] {
        vault.workspace(workspace).await;
    }
    let mut client = WorkspaceServiceClient::new(vault.channel(lead));
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = client
            .list_workspaces(ListWorkspacesRequest {
                page_size: 1,
                page_token,
            })
            .await
            .unwrap()
            .into_inner();
        names.extend(page.workspaces.into_iter().map(|workspace| workspace.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["b", "d"]);
    let mut all = async |name: &str| {
        let workspace = || {
            Some(Workspace {
                name: name.to_owned(),
                plan: 2,
                ..Default::default()
            })
        };
        let update_mask = Some(prost_types::FieldMask {
            paths: vec!["plan".into()],
        });
        [
            client
                .create_workspace(CreateWorkspaceRequest {
                    workspace: workspace(),
                })
                .await
                .map(drop),
            client
                .get_workspace(GetWorkspaceRequest {
                    name: name.to_owned(),
                })
                .await
                .map(drop),
            client
                .update_workspace(UpdateWorkspaceRequest {
                    workspace: workspace(),
                    update_mask,
                })
                .await
                .map(drop),
            client
                .delete_workspace(DeleteWorkspaceRequest {
                    name: name.to_owned(),
                    ..Default::default()
                })
                .await
                .map(drop),
        ]
    };
    let theirs = all("a").await.map(seen_by_editor);
    assert!(
        theirs
            .iter()
            .all(|refusal| *refusal == theirs[0] && refusal.0 == Code::PermissionDenied),
        "{theirs:?}"
    );
    assert_eq!(all("nowhere").await.map(seen_by_editor), theirs);
    all("not-yet").await.into_iter().for_each(Result::unwrap);
    let made = vault
        .workspaces()
        .list_workspaces(ListWorkspacesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        made.workspaces
            .iter()
            .map(|workspace| workspace.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "b", "c", "d"]
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_of_one_workspace_cannot_change_the_servers_of_another() {
    let pair = Pair::start_with(
        |_| {},
        |settings| settings.roles.editor = vec![format!("{EDITOR}=mine")],
    )
    .await;
    for workspace in ["mine", "theirs"] {
        pair.vault.workspace(workspace).await;
        pair.vault.put(workspace, "NAME", "v").await;
        pair.injector
            .add(server(workspace, "s", "http://127.0.0.1:9", &["NAME"]))
            .await;
    }
    let editor = ServerServiceClient::new(pair.injector.channel(EDITOR));
    let all = async |workspace: &str, name: &str| {
        let (mut editor, workspace, name) = (editor.clone(), workspace.to_owned(), name.to_owned());
        let given = || Some(server(&workspace, &name, "http://127.0.0.1:9", &["NAME"]));
        let update_mask = Some(prost_types::FieldMask {
            paths: vec!["description".into()],
        });
        let list = ListServersRequest {
            workspace: workspace.clone(),
            ..Default::default()
        };
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
        [
            editor
                .add_server(AddServerRequest {
                    server: given(),
                    ..Default::default()
                })
                .await
                .map(drop),
            editor
                .update_server(UpdateServerRequest {
                    server: given(),
                    update_mask,
                })
                .await
                .map(drop),
            editor.list_servers(list).await.map(drop),
            editor.get_server(get).await.map(drop),
            editor.explain_injection(explain).await.map(drop),
            editor.remove_server(remove).await.map(drop),
        ]
    };
    let theirs = all("theirs", "s").await.map(seen_by_editor);
    assert!(
        theirs
            .iter()
            .all(|refusal| *refusal == theirs[0] && refusal.0 == Code::PermissionDenied),
        "{theirs:?}"
    );
    assert_eq!(all("theirs", "missing").await.map(seen_by_editor), theirs);
    assert_eq!(all("nowhere", "s").await.map(seen_by_editor), theirs);
    let listed = editor
        .clone()
        .list_servers(ListServersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .servers;
    assert_eq!(
        listed
            .iter()
            .map(|server| server.workspace.as_str())
            .collect::<Vec<_>>(),
        ["mine"]
    );
    all("mine", "new").await.into_iter().for_each(Result::unwrap);
    let kept = pair
        .injector
        .servers()
        .list_servers(ListServersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .servers;
    let kept: Vec<_> = kept
        .iter()
        .map(|server| (server.workspace.as_str(), server.name.as_str()))
        .collect();
    assert_eq!(kept, [("mine", "s"), ("theirs", "s")]);
    pair.stop().await;
}
