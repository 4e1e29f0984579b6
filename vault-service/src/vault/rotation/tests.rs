//! Tests of rotations over a real store.

mod root_keys;
mod store_key;

use std::{fs, path::Path, sync::Arc, time::Duration};

use proto::WorkspaceName;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::{
    authz::VaultPermit,
    crypto::{KeyId, store_key_id, wrapped_kek_id},
    root::{Provider, Providers, RootKeyWrapper},
    vault::{
        DecryptOutcome, OpenError, Plan,
        stored::Kind,
        tests::{Fixture, admin, key, open_with, root, secret, value},
        workspace::StoredWorkspace,
        workspaces,
    },
};

/// Number of secrets, which is more than a step moves.
const MANY: usize = 150;
/// Time before an erasure, which is longer than the tests.
const HOUR: Duration = Duration::from_hours(1);

fn name(workspace: &str) -> WorkspaceName {
    WorkspaceName::parse(workspace).unwrap()
}

fn permit() -> VaultPermit {
    VaultPermit::of_operator(&root(key(1)))
}

/// Returns providers of root keys from files; the first root key is active.
fn files(numbers: &[u8]) -> Providers {
    let file = |number: &u8| Provider::File(Arc::new(root(key(*number))));
    Providers::new(file(&numbers[0]), numbers[1..].iter().map(file).collect())
}

async fn filled(secrets: usize) -> Fixture {
    let vault = Fixture::with_workspace(Plan::Enterprise).await;
    let mut puts = JoinSet::new();
    let vault = Arc::new(vault);
    for number in 0..secrets {
        let vault = vault.clone();
        puts.spawn(async move { vault.put(&format!("S{number:04}"), b"value").await.unwrap() });
    }
    puts.join_all().await;
    Arc::into_inner(vault).unwrap()
}

fn found(vault: &Fixture, workspace: &str) -> StoredWorkspace {
    workspace::find(&vault.writer.store, &name(workspace)).unwrap()
}

/// Returns the ids of the KEKs of a workspace's records, in the order of the records.
fn keks(vault: &Fixture, records: RecordSet) -> Vec<KeyId> {
    let prefix = records.prefix(&found(vault, "w").uid);
    let entries = vault.writer.store.scan(&prefix, None, 10_000).unwrap();
    let id = |entry: &crate::store::Entry| kek_id(records, &entry.value).unwrap();
    entries.iter().map(id).collect()
}

/// Stores the current version also as an older version, as a put does.
async fn keep_older(vault: &Fixture, secret_name: &str, version: u64) {
    let (uid, name) = (found(vault, "w").uid, secret(secret_name));
    let store = &vault.writer.store;
    let read = |kind: Kind| store.read(&kind.key(&uid, &name)).unwrap().unwrap();
    let older = stored::OldVersion {
        metadata: stored::decode(&read(Kind::Metadata)).unwrap(),
        record: read(Kind::Record),
    };
    let key = stored::old_version(&uid, &name, version);
    let batch = Batch::new().put(key, stored::encode(&older));
    store.commit(batch).await.unwrap();
}

/// Makes steps of the rotation of `w` until one has the outcome `last`. Returns the number of steps.
async fn step_until(vault: &Fixture, last: StepOutcome) -> usize {
    let key = stored::workspace_rotation(&found(vault, "w").uid);
    step_at(vault, &key, last).await
}

async fn step_at(vault: &Fixture, key: &[u8], last: StepOutcome) -> usize {
    for steps in 1.. {
        if vault.writer.step(key, &KeyMetrics::default()).await.unwrap() == last {
            return steps;
        }
        assert!(steps < 10_000, "it goes on for ever");
    }
    unreachable!("steps do not run out")
}

fn rotation_of(vault: &Fixture, key: &[u8]) -> Option<Rotation> {
    let bytes = vault.writer.store.read(key).unwrap()?;
    Some(stored::decode(&bytes).unwrap())
}

async fn workspaces_named(vault: &Fixture, count: usize) {
    for number in 0..count {
        let name = format!("n{number:03}");
        vault
            .writer
            .create_workspace(&admin(&name), Plan::Free)
            .await
            .unwrap();
    }
}

/// Returns the ids of the store keys that the vault has loaded.
fn store_key_ids(vault: &Fixture) -> Vec<KeyId> {
    let keys = vault.writer.keyring.loaded().unwrap().store_keys;
    keys.iter().map(|key| key.id()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_moves_every_record_while_all_of_them_decrypt() {
    let vault = filled(MANY).await;
    for number in 0..10 {
        keep_older(&vault, &format!("S{number:04}"), 1).await;
    }
    let before = found(&vault, "w");
    let vault = Arc::new(vault);
    let moving = {
        let vault = vault.clone();
        tokio::spawn(async move {
            vault
                .writer
                .maintain_keys(&KeyMetrics::default(), HOUR, |_| {})
                .await
        })
    };
    let id = vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    let put = vault.put("NEW", b"value").await.unwrap();
    assert_eq!(put.secret.version, 1);
    let mut readers = JoinSet::new();
    for reader in 0..4 {
        let vault = vault.clone();
        readers.spawn(async move {
            let mut decrypted = 0;
            while !vault
                .writer
                .key_status(&permit())
                .await
                .unwrap()
                .rotations
                .is_empty()
            {
                for number in 0..MANY {
                    let name = format!("S{:04}", (number * 7 + reader) % MANY);
                    assert_eq!(value(vault.decrypt(&name).await.unwrap()).1, b"value", "{name}");
                    decrypted += 1;
                }
            }
            decrypted
        });
    }
    let decrypted: usize = readers.join_all().await.into_iter().sum();
    assert!(decrypted > 0);
    // A reader sees the end of a rotation before it is durable, and the vault wipes the key only afterwards.
    let deadline = Instant::now() + Duration::from_secs(10);
    let keyring = &vault.writer.keyring;
    while keyring.is_cached(&before.uid, &before.record.wrapped_kek) {
        assert!(Instant::now() < deadline, "the old key stays in memory");
        tokio::task::yield_now().await;
    }
    moving.abort();
    let after = found(&vault, "w");
    assert!(after.record.retired_keks.is_empty() && !after.record.last_pass);
    assert_eq!(after.record.revision, before.record.revision);
    assert_eq!(keks(&vault, RecordSet::Current), vec![id; MANY + 1]);
    assert_eq!(keks(&vault, RecordSet::Older), vec![id; 10]);
    let keys = vault.writer.workspace_keys(&permit(), &name("w")).await.unwrap();
    assert_eq!(keys.len(), 1);
    let records = u64::try_from(MANY).unwrap() + 11;
    assert_eq!((keys[0].id, keys[0].active, keys[0].records), (id, true, records));
}

#[tokio::test]
async fn a_put_after_the_beginning_of_a_rotation_uses_the_new_kek() {
    let vault = filled(1).await;
    let old = wrapped_kek_id(&found(&vault, "w").record.wrapped_kek).unwrap();
    let new = vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    vault.put("T", b"v").await.unwrap();
    assert_eq!(keks(&vault, RecordSet::Current), [old, new]);
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
    assert_eq!(value(vault.decrypt("T").await.unwrap()).1, b"v");
    let keys = vault.writer.workspace_keys(&permit(), &name("w")).await.unwrap();
    let shown: Vec<_> = keys.iter().map(|key| (key.id, key.active, key.records)).collect();
    assert_eq!(shown, [(new, true, 1), (old, false, 1)]);
    assert_eq!(keys[1].create_time, found(&vault, "w").record.create_time);
    let again = vault.writer.rotate_workspace_key(&permit(), &name("w")).await;
    assert!(matches!(again, Err(VaultError::RotationUnderWay)));
}

/// Plans a step, runs `between`, and commits the step.
async fn step_around(vault: &Fixture, between: impl AsyncFnOnce()) -> StepOutcome {
    let key = stored::workspace_rotation(&found(vault, "w").uid);
    let writer = &vault.writer;
    let plan = plan_step(&writer.store, &writer.keyring, &key).unwrap().unwrap();
    between().await;
    plan.commit(writer, &KeyMetrics::default()).await.unwrap()
}

#[tokio::test]
async fn a_put_wins_over_a_concurrent_rewrap_of_the_same_secret() {
    let vault = filled(3).await;
    let new = vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    step_around(&vault, async || {
        vault.put("S0001", b"newer").await.unwrap();
        vault
            .writer
            .delete_secret(&admin("w"), &secret("S0002"), None)
            .await
            .unwrap();
    })
    .await;
    assert_eq!(
        value(vault.decrypt("S0001").await.unwrap()),
        (2, b"newer".to_vec())
    );
    assert!(matches!(
        vault.decrypt("S0002").await.unwrap(),
        DecryptOutcome::NotFound
    ));
    // The third secret was rewrapped although the batch of the step failed.
    assert_eq!(keks(&vault, RecordSet::Current), [new, new]);
    step_until(&vault, StepOutcome::Finished).await;
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
}

#[tokio::test]
async fn a_write_that_read_the_workspace_before_the_last_pass_fails() {
    let vault = filled(1).await;
    vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    let read_before = found(&vault, "w");
    let key = stored::workspace_rotation(&read_before.uid);
    while !rotation_of(&vault, &key).unwrap().last_pass {
        vault.writer.step(&key, &KeyMetrics::default()).await.unwrap();
    }
    // The old KEK still exists, and no write can store a record under it any more.
    assert_eq!(found(&vault, "w").record.retired_keks.len(), 1);
    let batch = read_before
        .expect_unchanged(Batch::new())
        .put("o/", "under the old key");
    let late = vault.writer.store.commit(batch).await;
    assert!(matches!(late, Err(crate::store::CommitError::Conflict)));
    step_until(&vault, StepOutcome::Finished).await;
}

#[tokio::test]
async fn a_record_stored_behind_the_cursor_is_rewrapped_in_the_last_pass() {
    let vault = filled(1).await;
    keep_older(&vault, "S0000", 1).await;
    let uid = found(&vault, "w").uid;
    let under_old = vault
        .writer
        .store
        .scan(&RecordSet::Older.prefix(&uid), None, 1)
        .unwrap()
        .pop()
        .unwrap();
    let new = vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    let key = stored::workspace_rotation(&uid);
    while !rotation_of(&vault, &key)
        .unwrap()
        .cursor
        .starts_with(&RecordSet::Older.prefix(&uid))
    {
        vault.writer.step(&key, &KeyMetrics::default()).await.unwrap();
    }
    // The record comes back behind the cursor, as by a put that read it before its rewrap.
    let back = Batch::new().put(under_old.key, under_old.value);
    vault.writer.store.commit(back).await.unwrap();
    step_until(&vault, StepOutcome::Finished).await;
    assert_eq!(keks(&vault, RecordSet::Older), [new]);
}

#[tokio::test]
async fn a_rotation_goes_on_from_its_cursor_after_a_restart() {
    let vault = filled(MANY).await;
    let new = vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    let key = stored::workspace_rotation(&found(&vault, "w").uid);
    assert_eq!(
        vault.writer.step(&key, &KeyMetrics::default()).await.unwrap(),
        StepOutcome::Continue
    );
    let vault = vault.reopen().await;
    let status = vault.writer.key_status(&permit()).await.unwrap();
    assert_eq!((status.rotations[0].done, status.rotations[0].total), (64, 150));
    assert_eq!(status.rotations[0].workspace.as_deref(), Some("w"));
    let moved = keks(&vault, RecordSet::Current);
    assert_eq!(moved.iter().filter(|id| **id == new).count(), 64);
    let metrics = KeyMetrics::default();
    while vault.writer.step(&key, &metrics).await.unwrap() != StepOutcome::Finished {}
    let again = metrics.rewrapped.get_or_create(&RotationLevel::RECORDS).get();
    assert_eq!(again, 86, "what was moved before is not moved again");
    assert_eq!(keks(&vault, RecordSet::Current), vec![new; MANY]);
    for number in [0, 63, 64, 149] {
        let name = format!("S{number:04}");
        assert_eq!(value(vault.decrypt(&name).await.unwrap()).1, b"value");
    }
    assert!(
        vault
            .writer
            .key_status(&permit())
            .await
            .unwrap()
            .rotations
            .is_empty()
    );
}

#[tokio::test]
async fn a_damaged_record_keeps_the_old_kek_until_its_version_is_removed() {
    let vault = filled(2).await;
    let uid = found(&vault, "w").uid;
    let key = Kind::Record.key(&uid, &secret("S0000"));
    let mut damaged = vault.writer.store.read(&key).unwrap().unwrap();
    // The damage is in the wrapped key, which a rewrap must unwrap.
    damaged[60] ^= 1;
    vault
        .writer
        .store
        .commit(Batch::new().put(key, damaged))
        .await
        .unwrap();
    vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    for _ in 0..3 {
        step_until(&vault, StepOutcome::Wait).await;
        let status = vault.writer.key_status(&permit()).await.unwrap();
        assert_eq!(status.rotations[0].unreadable, 1);
        assert_eq!(found(&vault, "w").record.retired_keks.len(), 1);
    }
    // The first put keeps the damaged version as an older one.
    for _ in 0..3 {
        step_until(&vault, StepOutcome::Wait).await;
        vault.put("S0000", b"healed").await.unwrap();
    }
    step_until(&vault, StepOutcome::Finished).await;
    assert!(found(&vault, "w").record.retired_keks.is_empty());
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"healed");
}

#[tokio::test]
async fn the_deletion_of_a_workspace_removes_its_rotation_and_wipes_all_its_keks() {
    let vault = filled(1).await;
    let before = found(&vault, "w");
    let key = stored::workspace_rotation(&before.uid);
    vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    vault.put("T", b"v").await.unwrap();
    vault.decrypt("S0000").await.unwrap();
    let rotated = found(&vault, "w");
    step_around(&vault, async || {
        vault.writer.delete_workspace(&admin("w"), 0, true).await.unwrap();
    })
    .await;
    assert_eq!(rotation_of(&vault, &key), None);
    for wrapped in [&before.record.wrapped_kek, &rotated.record.wrapped_kek] {
        assert!(!vault.writer.keyring.is_cached(&before.uid, wrapped));
    }
    // A call that read the workspace before its deletion does not cache the KEK again.
    let late = vault.writer.keyring.open(&before.uid, &before.record.wrapped_kek);
    assert!(late.is_ok());
    assert!(
        !vault
            .writer
            .keyring
            .is_cached(&before.uid, &before.record.wrapped_kek)
    );
    assert_eq!(
        vault.writer.step(&key, &KeyMetrics::default()).await.unwrap(),
        StepOutcome::Finished
    );
}

#[tokio::test]
async fn a_record_under_an_unknown_kek_is_distinguished_from_a_damaged_one() {
    let vault = filled(1).await;
    let uid = found(&vault, "w").uid;
    let key = Kind::Record.key(&uid, &secret("S0000"));
    let mut record = vault.writer.store.read(&key).unwrap().unwrap();
    record[2..18].fill(9);
    vault
        .writer
        .store
        .commit(Batch::new().put(key, record))
        .await
        .unwrap();
    assert!(matches!(
        vault.decrypt("S0000").await.unwrap(),
        DecryptOutcome::KeyNotLoaded
    ));
}
