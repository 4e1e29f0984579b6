//! Tests of older versions: kept, listed and restored.

use proto::vault::v1::{
    ListSecretVersionsRequest, RestoreSecretVersionRequest, SecretVersion,
    secret_service_client::SecretServiceClient,
};

use super::*;

pub(crate) async fn versions(vault: &Vault, name: &str) -> Vec<SecretVersion> {
    let request = ListSecretVersionsRequest {
        workspace: "w".into(),
        name: name.into(),
        ..Default::default()
    };
    let answer = vault.secrets().list_secret_versions(request).await;
    answer.unwrap().into_inner().versions
}

fn numbers(versions: &[SecretVersion]) -> Vec<u64> {
    versions.iter().map(|version| version.version).collect()
}

pub(crate) fn restore(name: &str, version: u64) -> RestoreSecretVersionRequest {
    RestoreSecretVersionRequest {
        workspace: "w".into(),
        name: name.into(),
        version,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_is_listed_and_restored_without_its_value_in_an_answer() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.viewer = vec!["spiffe://test/viewer=*".to_owned()]
    })
    .await;
    vault.workspace("w").await;
    vault
        .put_for("w", "NAME", "canary-1", &["https://a.example"])
        .await;
    for value in ["canary-2", "canary-3", "canary-4"] {
        vault.put("w", "NAME", value).await;
    }
    let channel = vault.channel("spiffe://test/viewer");
    let request = ListSecretVersionsRequest {
        workspace: "w".into(),
        name: "name".into(),
        ..Default::default()
    };
    let path = "/vault.v1.SecretService/ListSecretVersions";
    let mut answer = wire::open(&channel, path, request.encode_to_vec().into())
        .await
        .unwrap()
        .into_inner();
    assert!(!has(&answer.message().await.unwrap().unwrap(), b"canary"));
    assert_eq!(numbers(&versions(&vault, "NAME").await), [4, 3, 2]);
    let mut viewer = SecretServiceClient::new(channel);
    refused(
        viewer.restore_secret_version(restore("NAME", 2)).await,
        Code::PermissionDenied,
        "PERMISSION_DENIED",
    );

    let path = "/vault.v1.SecretService/RestoreSecretVersion";
    let admin = vault.channel(pki::ADMIN);
    let request = restore("name", 2).encode_to_vec();
    let mut answer = wire::open(&admin, path, request.into())
        .await
        .unwrap()
        .into_inner();
    assert!(!has(&answer.message().await.unwrap().unwrap(), b"canary"));
    let restored = decrypt_one(&vault, "w", "NAME").await;
    assert_eq!(
        (restored.version, restored.value.as_slice()),
        (5, b"canary-2".as_slice())
    );
    assert_eq!(numbers(&versions(&vault, "NAME").await), [5, 4, 3]);
    for (name, version, reason) in [
        ("NAME", 1, "VERSION_NOT_FOUND"),
        ("NAME", 6, "VERSION_NOT_FOUND"),
        ("NONE", 1, "SECRET_NOT_FOUND"),
    ] {
        let answer = vault
            .secrets()
            .restore_secret_version(restore(name, version))
            .await;
        refused(answer, Code::NotFound, reason);
    }
    vault.delete("w", "NAME").await;
    let answer = vault.secrets().restore_secret_version(restore("NAME", 5)).await;
    refused(answer, Code::NotFound, "SECRET_NOT_FOUND");
    assert_eq!(vault.put("w", "NAME", "canary-6").await.version, 6);
    assert_eq!(numbers(&versions(&vault, "NAME").await), [6]);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_versions_is_paged_and_a_token_belongs_to_its_secret() {
    let vault = Vault::start().await;
    let workspace = Workspace {
        name: "w".into(),
        kept_versions: 5,
        ..Default::default()
    };
    let made = vault
        .workspaces()
        .create_workspace(CreateWorkspaceRequest {
            workspace: Some(workspace),
        })
        .await
        .unwrap();
    assert_eq!(made.into_inner().workspace.unwrap().kept_versions, 5);
    for name in ["A", "B"] {
        for _ in 0..7 {
            vault.put("w", name, "v").await;
        }
    }
    let page = async |name: &str, token: &str| {
        let request = ListSecretVersionsRequest {
            workspace: "w".into(),
            name: name.into(),
            page_size: 2,
            page_token: token.into(),
        };
        let answer = vault.secrets().list_secret_versions(request).await?.into_inner();
        Ok::<_, Status>((numbers(&answer.versions), answer.next_page_token))
    };
    let (first, token) = page("a", "").await.unwrap();
    let (second, next) = page("A", &token).await.unwrap();
    let (third, end) = page("A", &next).await.unwrap();
    assert_eq!((first, second, third), (vec![7, 6], vec![5, 4], vec![3]));
    assert_eq!(end, "");
    refused(
        page("B", &token).await,
        Code::InvalidArgument,
        "PAGE_TOKEN_INVALID",
    );
    refused(page("NONE", "").await, Code::NotFound, "SECRET_NOT_FOUND");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_kept_versions_is_a_setting_of_the_workspace() {
    let vault = Vault::start().await;
    assert_eq!(vault.workspace("w").await.kept_versions, 3);
    for number in 0..5 {
        vault.put("w", "NAME", format!("{number}")).await;
    }
    let mut client = vault.workspaces();
    let kept = |kept_versions| Workspace {
        name: "w".into(),
        kept_versions,
        ..Default::default()
    };
    for number in [0, 101, u32::MAX] {
        let answer = client
            .update_workspace(update(kept(number), &["kept_versions"]))
            .await;
        refused(answer, Code::InvalidArgument, "REQUEST_MALFORMED");
    }
    let answer = client
        .create_workspace(CreateWorkspaceRequest {
            workspace: Some(Workspace {
                name: "other".into(),
                ..kept(101)
            }),
        })
        .await;
    refused(answer, Code::InvalidArgument, "REQUEST_MALFORMED");
    let both = Workspace {
        plan: Plan::Pro.into(),
        ..kept(2)
    };
    let changed = client
        .update_workspace(update(both, &["kept_versions", "plan"]))
        .await
        .unwrap()
        .into_inner()
        .workspace
        .unwrap();
    assert_eq!((changed.kept_versions, changed.plan()), (2, Plan::Pro));
    assert_eq!(numbers(&versions(&vault, "NAME").await), [5, 4, 3]);
    vault.put("w", "NAME", "5").await;
    assert_eq!(numbers(&versions(&vault, "NAME").await), [6, 5]);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_cannot_widen_origins_except_with_an_administrators_override() {
    const EDITOR: &str = "spiffe://test/editor";
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.editor = vec![format!("{EDITOR}=*")];
    })
    .await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "before it was bound").await;
    vault.put_for("w", "NAME", "bound", &["https://a.example"]).await;
    let mut editor = SecretServiceClient::new(vault.channel(EDITOR));
    let restored = editor.restore_secret_version(restore("NAME", 1)).await.unwrap();
    let secret = restored.into_inner().secret.unwrap();
    assert_eq!(secret.upstream_origins, ["https://a.example"]);
    let given = decrypt_one(&vault, "w", "NAME").await;
    assert_eq!(
        (given.value.as_slice(), given.upstream_origins.as_slice()),
        (&b"before it was bound"[..], &["https://a.example".to_owned()][..])
    );

    let all = RestoreSecretVersionRequest {
        allow_wider_origins: true,
        ..restore("NAME", 1)
    };
    let later = RestoreSecretVersionRequest {
        allow_later_expiry: true,
        ..restore("NAME", 1)
    };
    for request in [all.clone(), later] {
        let answer = editor.restore_secret_version(request).await;
        refused(answer, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    vault
        .put_for("w", "NAME", "elsewhere", &["https://b.example"])
        .await;
    let answer = editor.restore_secret_version(restore("NAME", 2)).await;
    refused(answer, Code::FailedPrecondition, "RESTORE_WIDENS_ORIGINS");
    let request = RestoreSecretVersionRequest { version: 2, ..all };
    vault.secrets().restore_secret_version(request).await.unwrap();
    assert_eq!(
        decrypt_one(&vault, "w", "NAME").await.upstream_origins,
        ["https://a.example"]
    );
    vault.stop().await;
}
