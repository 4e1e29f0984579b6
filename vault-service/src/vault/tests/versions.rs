//! Tests of older versions: kept, restored and removed.

use super::*;

impl Fixture {
    async fn versions(&self, name: &str) -> Vec<u64> {
        let name = secret(name);
        let versions = self.writer.secret_versions(&admin("w"), &name, None, 1000).await;
        let (versions, more) = versions.unwrap();
        assert!(!more);
        versions.iter().map(|secret| secret.version).collect()
    }

    async fn restore(&self, name: &str, version: u64) -> Result<SecretMetadata, VaultError> {
        let restore = VersionRestore {
            name: secret(name),
            version,
            expiry: RestoredExpiry::Kept,
            overrides: RestoreOverrides::default(),
            expected_version: None,
            request_id: None,
        };
        let restored = self.writer.restore_version(&admin("w"), restore).await?;
        Ok(restored.secret)
    }

    async fn keep(&self, versions: u32) {
        self.change(SettingsChange {
            kept_versions: Some(KeptVersions::parse(versions).unwrap()),
            ..SettingsChange::default()
        })
        .await;
    }

    async fn put_many(&self, name: &str, count: usize) {
        for number in 0..count {
            self.put(name, format!("{number}").as_bytes()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn as_many_of_the_newest_versions_are_kept_as_the_workspace_says() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put_many("T", 5).await;
    vault.put_many("TT", 1).await;
    assert_eq!(vault.versions("T").await, [5, 4, 3]);
    assert_eq!(vault.versions("TT").await, [1]);
    // A higher number keeps more versions from now on, and brings no removed version back.
    vault.keep(100).await;
    vault.put_many("T", 110).await;
    assert_eq!(vault.versions("T").await, (16..=115).rev().collect::<Vec<_>>());
    // With a lower number, the next put removes all versions beyond it.
    vault.keep(2).await;
    assert_eq!(vault.versions("T").await.len(), 100);
    vault.put_many("T", 1).await;
    assert_eq!(vault.versions("T").await, [116, 115]);
    vault.keep(1).await;
    vault.put_many("T", 1).await;
    assert_eq!(vault.versions("T").await, [117]);
    assert!(vault.keys("o/").is_empty(), "{:?}", vault.keys("o/"));
    assert_eq!(vault.writer.workspace(&admin("w")).await.unwrap().secret_count, 2);
}

#[tokio::test]
async fn versions_are_paged_the_newest_first() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.keep(5).await;
    vault.put_many("T", 7).await;
    let page = async |before, size| {
        let name = secret("T");
        let page = vault
            .writer
            .secret_versions(&admin("w"), &name, before, size)
            .await;
        let (versions, more) = page.unwrap();
        let numbers: Vec<_> = versions.iter().map(|secret| secret.version).collect();
        (numbers, more)
    };
    assert_eq!(page(None, 2).await, (vec![7, 6], true));
    assert_eq!(page(Some(6), 2).await, (vec![5, 4], true));
    assert_eq!(page(Some(4), 2).await, (vec![3], false));
    assert_eq!(page(Some(3), 2).await, (vec![], false));
    assert_eq!(page(None, 5).await, (vec![7, 6, 5, 4, 3], false));
    let name = secret("NONE");
    let missing = vault.writer.secret_versions(&admin("w"), &name, None, 2).await;
    assert!(matches!(missing, Err(VaultError::NoSecret(..))));
}

#[tokio::test]
async fn a_restored_version_has_the_value_origins_and_labels_that_it_had() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let origin = OriginPattern::parse("https://a.example").unwrap();
    let labels = Labels::parse([("team".to_owned(), "a".to_owned())].into()).unwrap();
    let first = NewSecret {
        upstream_origins: vec![origin.clone()],
        labels: labels.clone(),
        ..new("T", b"old")
    };
    vault.put_new(first).await.unwrap();
    vault.put("T", b"new").await.unwrap();
    let restored = vault.restore("T", 1).await.unwrap();
    assert_eq!((restored.version, &restored.labels), (3, &labels));
    assert_eq!(restored.upstream_origins, ["https://a.example"]);
    let vault = vault.reopen().await;
    let decrypted = vault.decrypt("T").await.unwrap();
    assert!(matches!(&decrypted, DecryptOutcome::Value { origins, .. } if *origins == [origin]));
    assert_eq!(value(decrypted), (3, b"old".to_vec()));
    assert_eq!(vault.versions("T").await, [3, 2, 1]);
    assert_eq!(vault.shown("T").await.unwrap().labels, labels);
}

#[tokio::test]
async fn a_version_that_is_not_kept_is_not_restored() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put_many("T", 4).await;
    for version in [0, 1, 5, u64::MAX] {
        let refused = vault.restore("T", version).await;
        assert!(
            matches!(refused, Err(VaultError::NoVersion { .. })),
            "{refused:?}"
        );
    }
    let missing = vault.restore("NONE", 1).await;
    assert!(matches!(missing, Err(VaultError::NoSecret(..))));
    assert_eq!(vault.restore("T", 2).await.unwrap().version, 5);
}

#[tokio::test]
async fn a_version_moved_to_the_key_of_another_is_not_restored() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put_many("T", 3).await;
    vault.put_many("U", 2).await;
    let uid = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    let of = |name, version| stored::old_version(&uid, &secret(name), version);
    swap(&vault.writer.store, of("T", 1), of("U", 1)).await;
    for name in ["T", "U"] {
        let refused = vault.restore(name, 1).await;
        assert!(matches!(refused, Err(VaultError::Corrupt(_))), "{refused:?}");
    }
    assert_eq!(value(vault.decrypt("T").await.unwrap()), (3, b"2".to_vec()));
}

#[tokio::test]
async fn a_delete_leaves_nothing_but_the_last_version_number() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put_many("T", 3).await;
    vault.put_many("TT", 3).await;
    vault.decrypt("T").await.unwrap();
    vault.writer.flush_uses().await.unwrap();
    vault.delete("T").await.unwrap();
    // The flush does not write the use counts of the deleted secret.
    vault.writer.flush_uses().await.unwrap();
    for (kind, left) in [("s/", 1), ("r/", 1), ("o/", 2), ("u/", 0), ("v/", 1)] {
        assert_eq!(vault.keys(kind).len(), left, "{kind}");
    }
    assert_eq!(vault.put("T", b"new").await.unwrap().secret.version, 4);
    assert_eq!(vault.versions("T").await, [4]);
    assert_eq!(vault.versions("TT").await, [3, 2, 1]);
}

#[tokio::test]
async fn an_expected_version_is_compared_by_every_write() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let put = async |expected| {
        vault
            .put_new(NewSecret {
                expected_version: Some(expected),
                ..new("T", b"v")
            })
            .await
    };
    let mismatch = |error: VaultError| match error {
        VaultError::VersionMismatch { current, expected } => (current, expected),
        other => panic!("{other:?}"),
    };
    assert_eq!(mismatch(put(1).await.unwrap_err()), (0, 1));
    assert_eq!(put(0).await.unwrap().secret.version, 1);
    assert_eq!(mismatch(put(0).await.unwrap_err()), (1, 0));
    assert_eq!(put(1).await.unwrap().secret.version, 2);
    let restore = |expected| VersionRestore {
        name: secret("T"),
        version: 1,
        expiry: RestoredExpiry::Kept,
        overrides: RestoreOverrides::default(),
        expected_version: Some(expected),
        request_id: None,
    };
    let stale = vault.writer.restore_version(&admin("w"), restore(1)).await;
    assert_eq!(mismatch(stale.unwrap_err()), (2, 1));
    vault
        .writer
        .restore_version(&admin("w"), restore(2))
        .await
        .unwrap();
    let name = secret("T");
    let stale = vault.writer.delete_secret(&admin("w"), &name, Some(2)).await;
    assert_eq!(mismatch(stale.unwrap_err()), (3, 2));
    vault
        .writer
        .delete_secret(&admin("w"), &name, Some(3))
        .await
        .unwrap();
    // After the deletion no version is current, and the numbers go on.
    assert_eq!(mismatch(put(3).await.unwrap_err()), (0, 3));
    assert_eq!(put(0).await.unwrap().secret.version, 4);
}

#[tokio::test]
async fn the_largest_secret_with_all_that_it_may_have_is_kept_and_restored() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let largest = |byte| {
        let host = ["h".repeat(59).as_str(); 4].join(".");
        let origins = (10_000..10_000 + MAX_ORIGINS).map(|port| format!("https://{host}:{port}"));
        let prefix = ["p".repeat(62).as_str(); 4].join(".");
        let labels = (10..42).map(|number| {
            let key = format!("{prefix}/{number}{}", "k".repeat(61));
            (key, "v".repeat(63))
        });
        NewSecret {
            upstream_origins: origins
                .map(|origin| OriginPattern::parse(&origin).unwrap())
                .collect(),
            labels: Labels::parse(labels.collect()).unwrap(),
            ..new(&"N".repeat(128), &[byte; 64 * 1024])
        }
    };
    for byte in 0..4 {
        vault.put_new(largest(byte)).await.unwrap();
    }
    let name = "N".repeat(128);
    vault.restore(&name, 2).await.unwrap();
    assert_eq!(
        value(vault.decrypt(&name).await.unwrap()),
        (5, vec![1; 64 * 1024])
    );
}

#[tokio::test]
async fn a_page_of_large_metadata_has_fewer_secrets() {
    let vault = Fixture::with_workspace(Plan::Pro).await;
    for number in 0..130 {
        let labels = (10..42).map(|label| {
            let key = format!(
                "{}/{label}{}",
                ["p".repeat(62).as_str(); 4].join("."),
                "k".repeat(61)
            );
            (key, "v".repeat(63))
        });
        let new = NewSecret {
            labels: Labels::parse(labels.collect()).unwrap(),
            ..new(&format!("N{number:03}"), b"v")
        };
        vault.put_new(new).await.unwrap();
    }
    let (mut token, mut names, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = Page::parse(1000, &token, "").unwrap();
        let (secrets, more) = vault.writer.secrets(&admin("w"), page.clone()).await.unwrap();
        assert!(secrets.len() < 100, "{}", secrets.len());
        token = page.token(secrets.last().unwrap().name.as_str());
        names.extend(secrets.into_iter().map(|secret| secret.name));
        pages += 1;
        if !more {
            break;
        }
    }
    assert_eq!((names.len(), pages), (130, 2));
}

#[tokio::test]
async fn deleted_names_take_bounded_space_and_their_version_numbers_are_not_reused() {
    const MOST: u64 = 1000;
    let vault = Fixture::with_workspace(Plan::Free).await;
    let uid = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    let gone = |number: u64| {
        let key = stored::Kind::LastVersion.key(&uid, &secret(&format!("GONE_{number}")));
        (key, 7_u64.to_be_bytes())
    };
    let all = (1..MOST)
        .map(gone)
        .fold(Batch::new(), |batch, (key, last)| batch.put(key, last));
    vault.writer.store.commit(all).await.unwrap();
    for name in ["A", "B", "C"] {
        vault.put_many(name, 3).await;
    }
    // A is the last name that gets an entry of its own; B and C raise the version floor.
    for name in ["A", "B", "C"] {
        vault.delete(name).await.unwrap();
    }
    assert_eq!(vault.keys("v/").len() as u64, MOST);
    let vault = vault.reopen().await;
    for (name, next) in [("A", 4), ("GONE_1", 8), ("B", 4), ("C", 4), ("NEW", 4)] {
        assert_eq!(
            vault.put(name, b"v").await.unwrap().secret.version,
            next,
            "{name}"
        );
    }
    // Puts removed the entries of A and GONE_1, so the next deletions have room, and the floor rises again only without room.
    for (name, entries, new) in [("B", MOST - 1, 4), ("C", MOST, 4), ("NEW", MOST, 6)] {
        vault.put(name, b"v").await.unwrap();
        vault.delete(name).await.unwrap();
        assert_eq!(vault.keys("v/").len() as u64, entries, "{name}");
        let fresh = vault.put(&format!("AFTER_{name}"), b"v").await.unwrap();
        assert_eq!(fresh.secret.version, new, "{name}");
    }
}
