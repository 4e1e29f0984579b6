//! Tests of version numbers and lists.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn version_numbers_increase_and_are_not_reused_after_a_delete() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let first = try_put(&vault, put("w", "NAME", "1")).await.unwrap();
    let second = try_put(&vault, put("w", "NAME", "2")).await.unwrap();
    let (first, second) = (
        first.secret.filter(|_| first.created).unwrap(),
        second.secret.filter(|_| !second.created).unwrap(),
    );
    assert_eq!((first.version, second.version), (1, 2));
    assert_eq!(
        (&first.uid, &first.create_time),
        (&second.uid, &second.create_time)
    );
    assert!(second.update_time.unwrap().as_nanos() > first.update_time.unwrap().as_nanos());

    vault.delete("w", "name").await;
    let request = || DeleteSecretRequest {
        workspace: "w".into(),
        name: "NAME".into(),
        ..Default::default()
    };
    refused(
        vault.secrets().delete_secret(request()).await,
        Code::NotFound,
        "SECRET_NOT_FOUND",
    );
    let request = GetSecretMetadataRequest {
        workspace: "w".into(),
        name: "NAME".into(),
    };
    refused(
        vault.secrets().get_secret_metadata(request).await,
        Code::NotFound,
        "SECRET_NOT_FOUND",
    );
    assert_eq!(
        decrypt_one(&vault, "w", "NAME").await.status(),
        DecryptStatus::NotFound
    );

    let third = try_put(&vault, put("w", "NAME", "3")).await.unwrap();
    assert!(third.created);
    let third = third.secret.unwrap();
    assert_eq!(third.version, 3);
    assert_ne!(third.uid, first.uid);
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.version, 3);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_names_and_metadata_in_order_and_no_value() {
    let vault = Vault::start().await;
    let workspace = vault.workspace("w").await;
    vault.workspace("w-other").await;
    vault.put("w-other", "ELSEWHERE", "canary").await;
    vault.put("w", "b", "canary").await;
    vault
        .put_for(
            "w",
            "a",
            "canary",
            &["https://API.github.com:443", "https://*.example.com"],
        )
        .await;
    vault.put("w", "b", "canary").await;
    let channel = vault.channel(pki::ADMIN);
    let request = ListSecretsRequest {
        workspace: "w".into(),
        ..Default::default()
    }
    .encode_to_vec();
    let mut pages = wire::open(&channel, "/vault.v1.SecretService/ListSecrets", request.into())
        .await
        .unwrap()
        .into_inner();
    let page = pages.message().await.unwrap().unwrap();
    assert!(!has(&page, b"canary"));
    let ListSecretsResponse {
        secrets,
        next_page_token,
    } = ListSecretsResponse::decode(page).unwrap();
    assert_eq!(next_page_token, "");
    let [a, b] = <[Secret; 2]>::try_from(secrets).unwrap();
    assert_eq!(
        (a.name.as_str(), a.version, b.name.as_str(), b.version),
        ("A", 1, "B", 2)
    );
    assert_eq!(
        a.upstream_origins,
        ["https://api.github.com", "https://*.example.com"]
    );
    assert!(b.upstream_origins.is_empty());
    for secret in [a, b] {
        assert_eq!((secret.workspace.as_str(), secret.uid.len()), ("w", 36));
        assert!(secret.revision > 0 && secret.create_time.is_some() && secret.update_time.is_some());
    }
    let request = GetWorkspaceRequest { name: "w".into() };
    let shown = vault
        .workspaces()
        .get_workspace(request)
        .await
        .unwrap()
        .into_inner()
        .workspace
        .unwrap();
    assert_eq!((shown.secret_count, shown.uid), (2, workspace.uid));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_in_order_and_a_page_is_bounded() {
    let vault = Vault::start().await;
    vault
        .workspaces()
        .create_workspace(create("w", Plan::Enterprise))
        .await
        .unwrap();
    let (taken, _) = put_many(&vault, "w", 1003).await;
    assert_eq!(taken, 1003);
    for (asked, given) in [
        (0, 50),
        (1, 1),
        (999, 999),
        (1000, 1000),
        (1001, 1000),
        (u32::MAX, 1000),
    ] {
        let page = list(&vault, "w", asked, "").await.unwrap();
        assert_eq!(page.secrets.len(), given, "page_size {asked}");
        assert!(!page.next_page_token.is_empty());
    }
    // The page size may change from page to page, and the secret that a token names may be deleted.
    let (mut names, mut token, mut sizes) = (Vec::new(), String::new(), [7, 400, 1, 0].into_iter().cycle());
    loop {
        let page = list(&vault, "w", sizes.next().unwrap(), &token).await.unwrap();
        names.extend(page.secrets.iter().map(|secret| secret.name.clone()));
        if names.len() == 407 {
            vault.delete("w", "S0406").await;
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let expected: Vec<_> = (0..1003).map(|number| format!("S{number:04}")).collect();
    assert_eq!(names, expected);
    let last = list(&vault, "w", 1000, "").await.unwrap();
    let rest = list(&vault, "w", 2, &last.next_page_token).await.unwrap();
    assert_eq!((rest.secrets.len(), rest.next_page_token.as_str()), (2, ""));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_belongs_to_its_request_and_caller() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.viewer = vec!["spiffe://test/viewer=*".to_owned()]
    })
    .await;
    for workspace in ["v", "w"] {
        vault.workspace(workspace).await;
        put_many(&vault, workspace, 3).await;
    }
    let token = list(&vault, "w", 1, "").await.unwrap().next_page_token;
    assert_eq!(list(&vault, "w", 2, &token).await.unwrap().secrets.len(), 2);
    refused(
        list(&vault, "v", 1, &token).await,
        Code::InvalidArgument,
        "PAGE_TOKEN_INVALID",
    );
    let garbage = [
        ".",
        "x",
        "0.",
        &token[1..],
        &format!("{token}00"),
        "\u{e9}\u{e9}.\u{e9}\u{e9}",
        &"f".repeat(10_000),
    ];
    for token in garbage {
        refused(
            list(&vault, "w", 1, token).await,
            Code::InvalidArgument,
            "PAGE_TOKEN_INVALID",
        );
    }
    let request = ListWorkspacesRequest {
        page_size: 1,
        page_token: token.clone(),
    };
    refused(
        vault.workspaces().list_workspaces(request).await,
        Code::InvalidArgument,
        "PAGE_TOKEN_INVALID",
    );
    let mut viewer = proto::vault::v1::secret_service_client::SecretServiceClient::new(
        vault.channel("spiffe://test/viewer"),
    );
    let request = ListSecretsRequest {
        workspace: "w".into(),
        page_size: 1,
        page_token: token,
    };
    refused(
        viewer.list_secrets(request).await,
        Code::InvalidArgument,
        "PAGE_TOKEN_INVALID",
    );

    let page = ListWorkspacesRequest {
        page_size: 1,
        ..Default::default()
    };
    let first = vault
        .workspaces()
        .list_workspaces(page)
        .await
        .unwrap()
        .into_inner();
    let page = ListWorkspacesRequest {
        page_size: 1000,
        page_token: first.next_page_token,
    };
    let second = vault
        .workspaces()
        .list_workspaces(page)
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = first
        .workspaces
        .iter()
        .chain(&second.workspaces)
        .map(|workspace| workspace.name.as_str())
        .collect();
    assert_eq!((names, second.next_page_token.as_str()), (vec!["v", "w"], ""));
    vault.stop().await;
}
