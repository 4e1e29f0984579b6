//! Tests of writes that are slow, fail, or find the disk full.

use super::*;

async fn vault_over(store: Store, root_key: [u8; 32]) -> (Writer, Reader) {
    Vault::open(store, root(root_key)).await.unwrap().split()
}

async fn decrypted(reader: &Reader, name: &str) -> DecryptOutcome {
    let mut answers = reader.decrypt(vec![Arc::new(query("w", name))]).await;
    answers.pop().unwrap().unwrap().1.pop().unwrap()
}

#[tokio::test]
async fn a_put_is_decrypted_only_after_it_is_durable() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"old").await.unwrap();
    vault.put("DELETED", b"kept").await.unwrap();
    let Fixture {
        dir,
        root,
        writer,
        reader,
        ..
    } = vault;
    drop(reader);
    writer.close().await.unwrap();
    let (store, syncs) = Store::hanging(&dir.path().join("store"));
    let (writer, reader) = vault_over(store, root).await;

    let putting = tokio::spawn({
        let writer = writer.clone();
        async move { writer.put_secret(&admin("w"), new("T", b"new")).await }
    });
    while writer.health() != Health::Unresponsive {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        assert_eq!(value(decrypted(&reader, "T").await), (1, b"old".to_vec()));
    }
    assert_eq!(writer.secret(&admin("w"), &secret("T")).await.unwrap().version, 1);
    syncs.send(()).unwrap();
    putting.await.unwrap().unwrap();
    assert_eq!(value(decrypted(&reader, "T").await), (2, b"new".to_vec()));

    // Every sync fails from now on.
    drop(syncs);
    let failed = writer
        .delete_secret(&admin("w"), &secret("DELETED"), None)
        .await
        .unwrap_err();
    assert!(matches!(failed, VaultError::OutcomeUnknown(_)), "{failed:?}");
    let said = failed.to_string();
    assert!(
        said.contains("restart") && !said.contains("nothing was changed"),
        "{said}"
    );
    let later = writer
        .put_secret(&admin("w"), new("T", b"newer"))
        .await
        .unwrap_err();
    assert!(matches!(later, VaultError::StorageFailed(_)), "{later:?}");
    for _ in 0..3 {
        assert_eq!(value(decrypted(&reader, "DELETED").await), (1, b"kept".to_vec()));
        assert_eq!(value(decrypted(&reader, "T").await), (2, b"new".to_vec()));
    }
}

#[tokio::test]
async fn a_rotation_stopped_by_a_full_disk_goes_on_as_soon_as_the_disk_has_room() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"value").await.unwrap();
    let Fixture {
        dir,
        root,
        writer,
        reader,
        ..
    } = vault;
    drop(reader);
    writer.close().await.unwrap();
    let (store, free) = Store::on_disk(&dir.path().join("store"), 100);
    let (writer, reader) = vault_over(store, root).await;
    let permit = writer.operator_permit().unwrap();
    let name = proto::WorkspaceName::parse("w").unwrap();
    writer.rotate_workspace_key(&permit, &name).await.unwrap();

    free.store(0, Ordering::Relaxed);
    let metrics = KeyMetrics::default();
    let rotating = tokio::spawn({
        let (writer, metrics) = (writer.clone(), metrics.clone());
        async move {
            writer
                .maintain_keys(&metrics, Duration::from_hours(1), |_| {})
                .await
        }
    });
    let is_under_way = |expected: i64| {
        let metrics = metrics.clone();
        async move {
            while metrics.under_way.get() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, is_under_way(1)).await.unwrap();
    free.store(100, Ordering::Relaxed);
    tokio::time::timeout(patience, is_under_way(0)).await.unwrap();
    rotating.abort();
    assert_eq!(value(decrypted(&reader, "T").await), (1, b"value".to_vec()));
    assert!(writer.store.scan(stored::ROTATIONS, None, 1).unwrap().is_empty());
}
