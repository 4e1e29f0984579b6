//! Tests of workspaces and their plans.

use chassis::authz::Scope;

use super::*;

#[tokio::test]
async fn a_plan_limits_new_names_only() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    for number in 0..10 {
        vault.put(&format!("N{number}"), b"v").await.unwrap();
    }
    assert!(matches!(
        vault.put("N10", b"v").await,
        Err(VaultError::PlanLimit { limit: 10, .. })
    ));
    assert_eq!(vault.put("N3", b"replaced").await.unwrap().secret.version, 2);
    let plan = |plan| SettingsChange {
        plan: Some(plan),
        ..SettingsChange::default()
    };
    vault.change(plan(Plan::Starter)).await;
    vault.put("N10", b"v").await.unwrap();
    vault.change(plan(Plan::Free)).await;
    assert!(matches!(
        vault.put("N11", b"v").await,
        Err(VaultError::PlanLimit { .. })
    ));
    assert_eq!(value(vault.decrypt("N10").await.unwrap()).0, 1);
    for name in ["N10", "N9"] {
        vault.delete(name).await.unwrap();
    }
    vault.put("N11", b"v").await.unwrap();
    assert_eq!(
        vault.writer.workspace(&admin("w")).await.unwrap().secret_count,
        10
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_puts_never_exceed_the_plan_and_lose_no_version() {
    let vault = Arc::new(Fixture::with_workspace(Plan::Free).await);
    let puts: Vec<_> = (0..64)
        .map(|number| {
            let vault = vault.clone();
            tokio::spawn(async move { vault.put(&format!("N{number}"), b"v").await.is_ok() })
        })
        .collect();
    let mut taken = 0;
    for put in puts {
        taken += usize::from(put.await.unwrap());
    }
    assert_eq!(taken, 10);
    let name = vault
        .writer
        .secrets(&admin("w"), Page::parse(1, "", "").unwrap())
        .await
        .unwrap()
        .0[0]
        .name
        .clone();
    let puts: Vec<_> = (0..64)
        .map(|_| {
            let (vault, name) = (vault.clone(), name.clone());
            tokio::spawn(async move { vault.put(name.as_str(), b"v").await.unwrap().secret.version })
        })
        .collect();
    let mut versions = HashSet::new();
    for put in puts {
        versions.insert(put.await.unwrap());
    }
    assert_eq!(versions, (2..=65).collect());
}

#[tokio::test]
async fn a_workspace_created_again_under_its_name_is_another_one() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"old").await.unwrap();
    let old = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    let not_empty = vault.writer.delete_workspace(&admin("w"), 0, false).await;
    assert!(matches!(not_empty, Err(VaultError::WorkspaceNotEmpty(_))));
    vault.writer.delete_workspace(&admin("w"), 0, true).await.unwrap();
    assert!(matches!(
        vault.decrypt("T").await,
        Err(VaultError::NoWorkspace(_))
    ));
    vault
        .writer
        .create_workspace(&admin("w"), Plan::Free)
        .await
        .unwrap();
    assert!(matches!(
        vault.decrypt("T").await.unwrap(),
        DecryptOutcome::NotFound
    ));
    let query = DecryptQuery {
        workspace_uid: Some(old),
        ..query("w", "T")
    };
    let answer = vault.reader.decrypt(vec![Arc::new(query)]).await.pop().unwrap();
    assert!(matches!(answer, Err(VaultError::WorkspaceReplaced(_))));
}

#[tokio::test]
async fn the_entries_of_a_deleted_workspace_are_removed() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    vault.put("U", b"v").await.unwrap();
    vault.delete("U").await.unwrap();
    let again = NewSecret {
        request_id: Some(RequestId::parse("id").unwrap()),
        ..new("T", b"v")
    };
    vault.put_new(again).await.unwrap();
    vault.decrypt("T").await.unwrap();
    vault.writer.flush_uses().await.unwrap();
    for kind in ["c/", "s/", "r/", "o/", "u/", "v/", "q/"] {
        assert_eq!(vault.keys(kind).len(), 1, "{kind}");
    }
    vault.decrypt("T").await.unwrap();
    vault.writer.delete_workspace(&admin("w"), 0, true).await.unwrap();
    vault.writer.sweep_all().await.unwrap();
    let vault = vault.reopen().await;
    // The note about the destroyed keys is left until they are erased.
    assert_eq!(vault.keys("").len(), 2);
    assert_eq!((vault.keys("e/").len(), vault.keys("meta").len()), (1, 1));
}

#[tokio::test]
async fn a_change_with_an_outdated_revision_is_refused() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let changes = SettingsChange {
        plan: Some(Plan::Pro),
        ..SettingsChange::default()
    };
    let changed = vault
        .writer
        .update_workspace(&admin("w"), 1, changes)
        .await
        .unwrap();
    assert_eq!(changed.revision, 2);
    let stale = vault.writer.update_workspace(&admin("w"), 1, changes).await;
    assert!(matches!(stale, Err(VaultError::RevisionMismatch)));
    let stale = vault.writer.delete_workspace(&admin("w"), 1, false).await;
    assert!(matches!(stale, Err(VaultError::RevisionMismatch)));
    vault
        .writer
        .delete_workspace(&admin("w"), 2, false)
        .await
        .unwrap();
}

#[tokio::test]
async fn lists_of_workspaces_are_paged_and_limited_to_the_scope() {
    let vault = Fixture::new().await;
    for name in ["a", "b", "c", "d"] {
        vault
            .writer
            .create_workspace(&admin(name), Plan::Free)
            .await
            .unwrap();
    }
    let names = async |scope: Scope, token: &str| {
        let page = Page::parse(2, token, "").unwrap();
        let (found, more) = vault.writer.workspaces(scope, page.clone()).await.unwrap();
        let token = if more {
            page.token(found.last().unwrap().name.as_str())
        } else {
            String::new()
        };
        (
            found
                .into_iter()
                .map(|workspace| workspace.name.to_string())
                .collect::<Vec<_>>()
                .join(""),
            token,
        )
    };
    let (first, token) = names(Scope::All, "").await;
    assert_eq!(
        (first.as_str(), names(Scope::All, &token).await),
        ("ab", ("cd".to_owned(), String::new()))
    );
    let some = Scope::Only(
        ["b", "d", "x", "c"]
            .map(|name| proto::WorkspaceName::parse(name).unwrap())
            .into(),
    );
    let (first, token) = names(some.clone(), "").await;
    assert_eq!(
        (first.as_str(), names(some, &token).await),
        ("bc", ("d".to_owned(), String::new()))
    );
}
