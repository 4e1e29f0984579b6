//! Tests of rotations of the store key.

use super::*;

/// Returns the ids of the store keys that wrap the workspaces' active KEKs.
fn store_keys_of_all(vault: &Fixture) -> Vec<KeyId> {
    let entries = vault.writer.store.scan(stored::WORKSPACES, None, 10_000).unwrap();
    let id = |entry: &crate::store::Entry| {
        let record: stored::WorkspaceRecord = stored::decode(&entry.value).unwrap();
        store_key_id(&record.wrapped_kek).unwrap()
    };
    entries.iter().map(id).collect()
}

#[tokio::test]
async fn a_rotation_of_the_store_key_rewraps_all_workspaces_and_destroys_the_old_key() {
    let vault = filled(1).await;
    workspaces_named(&vault, 70).await;
    vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    let [old] = store_key_ids(&vault)[..] else {
        panic!()
    };
    assert!(vault.writer.replace_store_key().await.unwrap());
    assert!(
        !vault.writer.replace_store_key().await.unwrap(),
        "one is under way"
    );
    let [still, new] = store_key_ids(&vault)[..] else {
        panic!()
    };
    assert_eq!(still, old);
    vault
        .writer
        .create_workspace(&admin("later"), Plan::Free)
        .await
        .unwrap();
    let first = StepOutcome::Continue;
    assert_eq!(step_at(&vault, stored::STORE_KEY_ROTATION, first).await, 1);
    // All secrets can be decrypted during the rotation, also after a restart.
    let vault = vault.reopen().await;
    assert_eq!(store_key_ids(&vault), [old, new]);
    let under_new = store_keys_of_all(&vault).iter().filter(|id| **id == new).count();
    assert_eq!(under_new, 64);
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
    let status = vault.writer.key_status(&permit()).await.unwrap();
    assert_eq!(status.rotations[0].workspace, None);
    assert_eq!(status.rotations[0].done, 64);
    step_at(&vault, stored::STORE_KEY_ROTATION, StepOutcome::Finished).await;
    assert_eq!(store_keys_of_all(&vault), vec![new; 72]);
    assert_eq!(store_key_ids(&vault), [new], "the old one is wiped");
    let file = crate::vault::key_file::WrappedKeys::read(&vault.writer.store)
        .unwrap()
        .unwrap();
    assert!(file.has_store_key(new) && !file.has_store_key(old));
    let vault = vault.reopen().await;
    // The record still uses the KEK that was retired before the store key.
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
    step_until(&vault, StepOutcome::Finished).await;
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
}

#[tokio::test]
async fn a_workspace_whose_key_is_damaged_keeps_the_old_store_key_until_it_is_deleted() {
    let vault = filled(1).await;
    workspaces_named(&vault, 2).await;
    let mut record = found(&vault, "w").record;
    // The damage is in the wrapped key, which a rewrap must unwrap.
    record.wrapped_kek[60] ^= 1;
    let damaged = Batch::new().put(stored::workspace(&name("w")), stored::encode(&record));
    vault.writer.store.commit(damaged).await.unwrap();
    assert!(vault.writer.replace_store_key().await.unwrap());
    for _ in 0..2 {
        step_at(&vault, stored::STORE_KEY_ROTATION, StepOutcome::Wait).await;
        let status = vault.writer.key_status(&permit()).await.unwrap();
        assert_eq!(status.rotations[0].unreadable, 1);
        assert_eq!(store_key_ids(&vault).len(), 2);
    }
    vault.writer.delete_workspace(&admin("w"), 0, true).await.unwrap();
    step_at(&vault, stored::STORE_KEY_ROTATION, StepOutcome::Finished).await;
    assert_eq!(store_key_ids(&vault).len(), 1);
}

#[tokio::test]
async fn a_kek_wrapped_by_a_retired_store_key_is_not_stored() {
    let vault = filled(0).await;
    let (store, keyring) = (&vault.writer.store, &vault.writer.keyring);
    let (_, made) = workspaces::prepare_create(
        store,
        keyring,
        name("late"),
        Plan::Free.into(),
        SystemTime::now().into(),
    )
    .unwrap();
    let (_, rotated) = prepare_rotation(store, keyring, &name("w")).unwrap();
    assert!(vault.writer.replace_store_key().await.unwrap());
    for late in [made, rotated] {
        let late = vault.writer.store.commit(late).await;
        assert!(
            matches!(late, Err(crate::store::CommitError::Conflict)),
            "{late:?}"
        );
    }
    // A retry of both writes succeeds.
    let writer = &vault.writer;
    writer.create_workspace(&admin("late"), Plan::Free).await.unwrap();
    writer.rotate_workspace_key(&permit(), &name("w")).await.unwrap();
}
