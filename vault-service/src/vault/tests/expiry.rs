//! Tests of secrets that expire.

use super::*;

fn until(name: &str, seconds: u64) -> NewSecret {
    NewSecret {
        expiry: Expiry::from_seconds(seconds),
        ..new(name, b"v")
    }
}

#[tokio::test]
async fn an_expired_secret_is_not_decrypted_from_the_cache_and_is_still_listed() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let at = vault.now() + 60;
    vault.put_new(until("T", at)).await.unwrap();
    vault.put("LASTING", b"v").await.unwrap();
    // The second decrypt finds the record in the cache.
    for _ in 0..2 {
        assert_eq!(value(vault.decrypt("T").await.unwrap()).0, 1);
    }
    assert!(!vault.shown("T").await.unwrap().expired);

    vault.forward(Duration::from_secs(60));
    assert!(matches!(
        vault.decrypt("T").await.unwrap(),
        DecryptOutcome::Expired
    ));
    assert_eq!(value(vault.decrypt("LASTING").await.unwrap()).0, 1);
    let shown = vault.shown("T").await.unwrap();
    assert_eq!((shown.expired, shown.expiry), (true, Expiry::from_seconds(at)));
    let page = Page::parse(10, "", "").unwrap();
    let (listed, _) = vault.writer.secrets(&admin("w"), page).await.unwrap();
    assert_eq!(listed.iter().filter(|secret| secret.expired).count(), 1);

    // Puts and deletes treat the expired secret like any other.
    let put = vault.put("T", b"new").await.unwrap();
    assert_eq!(
        (put.created, put.secret.version, put.secret.expired),
        (false, 2, false)
    );
    assert_eq!(value(vault.decrypt("T").await.unwrap()), (2, b"new".to_vec()));
}

#[tokio::test]
async fn a_decrypt_uses_the_expiry_in_the_record_and_not_in_the_metadata() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put_new(until("T", vault.now() + 60)).await.unwrap();
    let uid = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    let key = stored::Kind::Metadata.key(&uid, &secret("T"));
    let store = vault.writer.store.clone();
    let mut metadata: stored::StoredMetadata = stored::decode(&store.read(&key).unwrap().unwrap()).unwrap();
    metadata.expires_at = 0;
    store
        .commit(Batch::new().put(key, stored::encode(&metadata)))
        .await
        .unwrap();
    vault.forward(Duration::from_secs(61));
    assert!(matches!(
        vault.decrypt("T").await.unwrap(),
        DecryptOutcome::Expired
    ));
}

#[tokio::test]
async fn an_expiry_in_the_past_is_refused() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    for seconds in [1, vault.now() - 1, vault.now()] {
        let put = vault.put_new(until("T", seconds)).await;
        assert!(matches!(put, Err(VaultError::AlreadyExpired)), "{seconds}");
    }
    assert!(matches!(vault.shown("T").await, Err(VaultError::NoSecret(..))));
}

#[tokio::test]
async fn a_restored_version_expires_no_later_than_before_without_an_override() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let at = vault.now() + 60;
    vault.put_new(until("T", at)).await.unwrap();
    vault.put("T", b"other").await.unwrap();
    let restore = async |version, expiry, later_expiry| {
        let overrides = RestoreOverrides {
            later_expiry,
            ..RestoreOverrides::default()
        };
        let restore = VersionRestore {
            name: secret("T"),
            version,
            expiry,
            overrides,
            expected_version: None,
            request_id: None,
        };
        let restored = vault.writer.restore_version(&admin("w"), restore).await;
        restored.map(|restored| restored.secret)
    };
    let when = |seconds| RestoredExpiry::At(Expiry::from_seconds(seconds).unwrap());
    let refused = async |version, expiry| {
        let refused = restore(version, expiry, false).await;
        assert!(
            matches!(refused, Err(VaultError::RestoreExtendsExpiry)),
            "{refused:?}"
        );
    };
    let kept = restore(1, RestoredExpiry::Kept, false).await.unwrap();
    assert_eq!((kept.version, kept.expiry), (3, Expiry::from_seconds(at)));
    refused(1, when(at + 1)).await;
    refused(3, RestoredExpiry::Never).await;
    let earlier = restore(1, when(at - 10), false).await.unwrap();
    assert_eq!(
        (earlier.version, earlier.expiry),
        (4, Expiry::from_seconds(at - 10))
    );
    // The later version with the earlier expiry limits the restore of a version that expires later.
    refused(3, when(at)).await;
    let kept = restore(3, RestoredExpiry::Kept, false).await.unwrap();
    assert_eq!((kept.version, kept.expiry), (5, Expiry::from_seconds(at - 10)));

    vault.forward(Duration::from_secs(60));
    assert!(matches!(
        vault.decrypt("T").await.unwrap(),
        DecryptOutcome::Expired
    ));
    for expiry in [RestoredExpiry::Kept, RestoredExpiry::Never, when(at + 60)] {
        refused(5, expiry).await;
    }
    let gone = restore(5, RestoredExpiry::Kept, true).await;
    assert!(matches!(gone, Err(VaultError::AlreadyExpired)), "{gone:?}");
    // A restore of the current version gives it another expiry.
    let later = restore(5, when(at + 60), true).await.unwrap();
    assert_eq!(later.expiry, Expiry::from_seconds(at + 60));
    assert_eq!(value(vault.decrypt("T").await.unwrap()), (6, b"v".to_vec()));
    assert_eq!(
        restore(6, RestoredExpiry::Never, true).await.unwrap().expiry,
        None
    );
    vault.forward(Duration::from_hours(24));
    assert_eq!(value(vault.decrypt("T").await.unwrap()), (7, b"v".to_vec()));
}

#[tokio::test]
async fn a_restored_version_that_never_expired_gets_the_expiry_of_a_later_version() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let at = vault.now() + 60;
    vault.put("T", b"v").await.unwrap();
    vault.put_new(until("T", at)).await.unwrap();
    // A put makes a current version that never expires.
    vault.put("T", b"anything").await.unwrap();
    let restore = || VersionRestore {
        name: secret("T"),
        version: 1,
        expiry: RestoredExpiry::Kept,
        overrides: RestoreOverrides::default(),
        expected_version: None,
        request_id: None,
    };
    let restored = vault
        .writer
        .restore_version(&admin("w"), restore())
        .await
        .unwrap();
    assert_eq!(restored.secret.expiry, Expiry::from_seconds(at));
}
