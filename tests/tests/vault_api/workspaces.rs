//! Tests of workspaces and their plans.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_limits_concurrent_puts_of_new_names_exactly() {
    let vault = Vault::start().await;
    let plans = [
        (Plan::Unspecified, 10),
        (Plan::Free, 10),
        (Plan::Starter, 50),
        (Plan::Pro, 200),
        (Plan::Business, 1000),
    ];
    for (number, (plan, limit)) in plans.into_iter().enumerate() {
        let name = format!("w{number}");
        vault
            .workspaces()
            .create_workspace(create(&name, plan))
            .await
            .unwrap();
        let (taken, over) = put_many(&vault, &name, limit + 9).await;
        assert_eq!((taken, over.len()), (limit, 9), "{plan:?}");
        for status in over {
            let status = refused(
                Err::<(), _>(status),
                Code::ResourceExhausted,
                "PLAN_LIMIT_REACHED",
            );
            assert!(
                status.message().contains(&limit.to_string()),
                "{}",
                status.message()
            );
        }
        let request = GetWorkspaceRequest { name };
        let shown = vault
            .workspaces()
            .get_workspace(request)
            .await
            .unwrap()
            .into_inner()
            .workspace
            .unwrap();
        assert_eq!(shown.secret_count, limit as u64);
    }
    vault
        .workspaces()
        .create_workspace(create("w", Plan::Enterprise))
        .await
        .unwrap();
    assert_eq!(put_many(&vault, "w", 1010).await.0, 1010);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_lowered_plan_refuses_only_new_names() {
    let vault = Vault::start().await;
    vault
        .workspaces()
        .create_workspace(create("w", Plan::Starter))
        .await
        .unwrap();
    assert_eq!(put_many(&vault, "w", 12).await.0, 12);
    let lower = Workspace {
        name: "w".into(),
        plan: Plan::Free.into(),
        ..Default::default()
    };
    vault
        .workspaces()
        .update_workspace(update(lower, &["plan"]))
        .await
        .unwrap();

    let replaced = try_put(&vault, put("w", "S0011", "new")).await.unwrap();
    assert!(!replaced.created);
    assert_eq!(decrypt_one(&vault, "w", "S0011").await.value, b"new");
    refused(
        try_put(&vault, named("w", "NEW")).await,
        Code::ResourceExhausted,
        "PLAN_LIMIT_REACHED",
    );
    for deleted in ["S0000", "S0001"] {
        vault.delete("w", deleted).await;
        refused(
            try_put(&vault, named("w", "NEW")).await,
            Code::ResourceExhausted,
            "PLAN_LIMIT_REACHED",
        );
    }
    vault.delete("w", "S0002").await;
    assert!(try_put(&vault, named("w", "NEW")).await.unwrap().created);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_its_mask_names_and_checks_the_revision() {
    let vault = Vault::start().await;
    let made = vault.workspace("w").await;
    let pro = || Workspace {
        name: "w".into(),
        plan: Plan::Pro.into(),
        ..Default::default()
    };
    let mut client = vault.workspaces();
    let unmasked = UpdateWorkspaceRequest {
        workspace: Some(pro()),
        update_mask: None,
    };
    refused(
        client.update_workspace(unmasked).await,
        Code::InvalidArgument,
        "FIELD_MASK_INVALID",
    );
    for paths in [
        &[][..],
        &[""],
        &["*"],
        &["name"],
        &["uid"],
        &["secret_count"],
        &["plan", "name"],
        &["Plan"],
        &["workspace.plan"],
    ] {
        let answer = client.update_workspace(update(pro(), paths)).await;
        refused(answer, Code::InvalidArgument, "FIELD_MASK_INVALID");
    }
    for plan in [0, 99, -1] {
        let answer = client
            .update_workspace(update(Workspace { plan, ..pro() }, &["plan"]))
            .await;
        refused(answer, Code::InvalidArgument, "REQUEST_MALFORMED");
    }
    let missing = Workspace {
        name: "gone".into(),
        ..pro()
    };
    refused(
        client.update_workspace(update(missing, &["plan"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    let stale = Workspace {
        revision: made.revision + 1,
        ..pro()
    };
    refused(
        client.update_workspace(update(stale, &["plan"])).await,
        Code::Aborted,
        "REVISION_MISMATCH",
    );
    let request = || GetWorkspaceRequest { name: "w".into() };
    let unchanged = client
        .get_workspace(request())
        .await
        .unwrap()
        .into_inner()
        .workspace
        .unwrap();
    assert_eq!(unchanged, made);

    let current = Workspace {
        revision: made.revision,
        uid: "ignored".into(),
        secret_count: 9,
        ..pro()
    };
    let changed = client
        .update_workspace(update(current, &["plan"]))
        .await
        .unwrap()
        .into_inner()
        .workspace
        .unwrap();
    assert_eq!(changed.plan(), Plan::Pro);
    assert!(changed.revision > made.revision);
    assert!(changed.update_time.unwrap().as_nanos() > made.update_time.unwrap().as_nanos());
    assert_eq!(
        (changed.uid, changed.create_time, changed.secret_count),
        (made.uid, made.create_time, 0)
    );
    let again = Workspace {
        revision: made.revision,
        ..pro()
    };
    refused(
        client.update_workspace(update(again, &["plan"])).await,
        Code::Aborted,
        "REVISION_MISMATCH",
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_many_concurrent_updates_of_a_revision_succeeds() {
    let vault = Vault::start().await;
    let made = vault.workspace("w").await;
    let client = vault.workspaces();
    let updates = (0..64).map(|_| {
        let mut client = client.clone();
        let workspace = Workspace {
            name: "w".into(),
            plan: Plan::Pro.into(),
            revision: made.revision,
            ..Default::default()
        };
        async move { client.update_workspace(update(workspace, &["plan"])).await }
    });
    let answers: Vec<_> = stream::iter(updates).buffer_unordered(64).collect().await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for answer in lost {
        refused(answer, Code::Aborted, "REVISION_MISMATCH");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_with_secrets_is_deleted_only_with_force_and_a_new_one_of_its_name_is_another() {
    let vault = Vault::start().await;
    let made = vault.workspace("w").await;
    let mut client = vault.workspaces();
    refused(
        client.create_workspace(create("w", Plan::Free)).await,
        Code::AlreadyExists,
        "WORKSPACE_EXISTS",
    );
    refused(
        client.delete_workspace(delete("gone", true)).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    vault.put("w", "NAME", "old").await;
    refused(
        client.delete_workspace(delete("w", false)).await,
        Code::FailedPrecondition,
        "WORKSPACE_NOT_EMPTY",
    );
    let stale = DeleteWorkspaceRequest {
        revision: made.revision + 1,
        ..delete("w", true)
    };
    refused(
        client.delete_workspace(stale).await,
        Code::Aborted,
        "REVISION_MISMATCH",
    );
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"old");

    client.delete_workspace(delete("w", true)).await.unwrap();
    refused(
        client
            .get_workspace(GetWorkspaceRequest { name: "w".into() })
            .await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    refused(
        decrypt(&vault, ask("w", ["NAME"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    refused(
        try_put(&vault, named("w", "NAME")).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    refused(
        client.delete_workspace(delete("w", true)).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );

    let anew = vault.workspace("w").await;
    assert_ne!(anew.uid, made.uid);
    assert_eq!(anew.secret_count, 0);
    assert_eq!(
        decrypt_one(&vault, "w", "NAME").await.status(),
        DecryptStatus::NotFound
    );
    let old = DecryptRequest {
        workspace_uid: made.uid,
        ..ask("w", ["NAME"])
    };
    refused(
        decrypt(&vault, old).await,
        Code::FailedPrecondition,
        "WORKSPACE_REPLACED",
    );

    // A workspace whose secrets were deleted counts as empty.
    vault.put("w", "NAME", "new").await;
    vault.delete("w", "NAME").await;
    client.delete_workspace(delete("w", false)).await.unwrap();
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_without_a_plan_gets_the_vaults_default() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.default_plan = vault_service::vault::Plan::Enterprise;
    })
    .await;
    for (given, got) in [(Plan::Unspecified, Plan::Enterprise), (Plan::Free, Plan::Free)] {
        let name = got.as_str_name().to_lowercase().replace('_', "-");
        let created = vault.workspaces().create_workspace(create(&name, given)).await;
        assert_eq!(created.unwrap().into_inner().workspace.unwrap().plan(), got);
    }
    vault.stop().await;
}
