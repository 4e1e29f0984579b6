//! Rotations of keys, over a real store.

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

/// More than a step moves.
const MANY: usize = 150;
/// Long enough that nothing is erased.
const HOUR: Duration = Duration::from_hours(1);

fn name(workspace: &str) -> WorkspaceName {
    WorkspaceName::parse(workspace).unwrap()
}

fn permit() -> VaultPermit {
    VaultPermit::of_operator(&root(key(1)))
}

/// Root keys from files, the first active.
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

/// The ids of the KEKs that a workspace's records are under, in their order.
fn keks(vault: &Fixture, records: RecordSet) -> Vec<KeyId> {
    let prefix = records.prefix(&found(vault, "w").uid);
    let entries = vault.writer.store.scan(&prefix, None, 10_000).unwrap();
    let id = |entry: &crate::store::Entry| kek_id(records, &entry.value).unwrap();
    entries.iter().map(id).collect()
}

/// Keeps what is current as an older version, as a put does.
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

/// Steps until the rotation of `w` says so.
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
    // A reader sees the end of a rotation before that is durable, and only then is the key wiped.
    let deadline = Instant::now() + Duration::from_secs(10);
    let keyring = &vault.writer.keyring;
    while keyring.is_cached(&before.uid, &before.record.wrapped_kek) {
        assert!(Instant::now() < deadline, "the old key stays in memory");
        tokio::task::yield_now().await;
    }
    moving.abort();
    let after = found(&vault, "w");
    assert!(after.record.retired_keks.is_empty() && !after.record.last_look);
    assert_eq!(after.record.revision, before.record.revision);
    assert_eq!(keks(&vault, RecordSet::Current), vec![id; MANY + 1]);
    assert_eq!(keks(&vault, RecordSet::Older), vec![id; 10]);
    let keys = vault.writer.workspace_keys(&permit(), &name("w")).await.unwrap();
    assert_eq!(keys.len(), 1);
    let records = u64::try_from(MANY).unwrap() + 11;
    assert_eq!((keys[0].id, keys[0].active, keys[0].records), (id, true, records));
}

#[tokio::test]
async fn what_is_put_after_a_rotation_began_is_under_the_new_key_at_once() {
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

/// Plans a step, lets `between` happen, and commits.
async fn step_around(vault: &Fixture, between: impl AsyncFnOnce()) -> StepOutcome {
    let key = stored::workspace_rotation(&found(vault, "w").uid);
    let writer = &vault.writer;
    let plan = plan_step(&writer.store, &writer.keyring, &key).unwrap().unwrap();
    between().await;
    plan.commit(writer, &KeyMetrics::default()).await.unwrap()
}

#[tokio::test]
async fn a_put_wins_over_the_move_of_the_same_secret() {
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
    // The other one was moved although the batch did not hold.
    assert_eq!(keks(&vault, RecordSet::Current), [new, new]);
    step_until(&vault, StepOutcome::Finished).await;
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
}

#[tokio::test]
async fn a_write_from_before_the_last_look_does_not_hold_after_it() {
    let vault = filled(1).await;
    vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    let read_before = found(&vault, "w");
    let key = stored::workspace_rotation(&read_before.uid);
    while !rotation_of(&vault, &key).unwrap().last_look {
        vault.writer.step(&key, &KeyMetrics::default()).await.unwrap();
    }
    // The old key is still there, but nothing can be kept under it any more.
    assert_eq!(found(&vault, "w").record.retired_keks.len(), 1);
    let batch = read_before
        .expect_unchanged(Batch::new())
        .put("o/", "under the old key");
    let late = vault.writer.store.commit(batch).await;
    assert!(matches!(late, Err(crate::store::CommitError::Conflict)));
    step_until(&vault, StepOutcome::Finished).await;
}

#[tokio::test]
async fn an_older_version_that_was_kept_behind_the_cursor_is_found_by_the_last_look() {
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
    // Behind the cursor, by a put that read before its record was moved.
    let back = Batch::new().put(under_old.key, under_old.value);
    vault.writer.store.commit(back).await.unwrap();
    step_until(&vault, StepOutcome::Finished).await;
    assert_eq!(keks(&vault, RecordSet::Older), [new]);
}

#[tokio::test]
async fn a_rotation_goes_on_after_a_restart_from_where_it_was() {
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
async fn a_damaged_record_keeps_the_old_key_until_its_version_is_kept_no_longer() {
    let vault = filled(2).await;
    let uid = found(&vault, "w").uid;
    let key = Kind::Record.key(&uid, &secret("S0000"));
    let mut damaged = vault.writer.store.read(&key).unwrap().unwrap();
    // In the wrap, which a move has to open.
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
    // The first one keeps the damaged one as an older version.
    for _ in 0..3 {
        step_until(&vault, StepOutcome::Wait).await;
        vault.put("S0000", b"healed").await.unwrap();
    }
    step_until(&vault, StepOutcome::Finished).await;
    assert!(found(&vault, "w").record.retired_keks.is_empty());
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"healed");
}

#[tokio::test]
async fn a_deleted_workspace_takes_its_rotation_and_all_its_keys_with_it() {
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
    // A call that read the workspace before does not bring a key back.
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
async fn a_record_under_a_key_that_is_nowhere_is_told_from_a_damaged_one() {
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

// ------------------------------------------------------------------------------------------------------- store keys

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

/// The store keys that wrap the workspaces' keys.
fn store_keys_of_all(vault: &Fixture) -> Vec<KeyId> {
    let entries = vault.writer.store.scan(stored::WORKSPACES, None, 10_000).unwrap();
    let id = |entry: &crate::store::Entry| {
        let record: stored::WorkspaceRecord = stored::decode(&entry.value).unwrap();
        store_key_id(&record.wrapped_kek).unwrap()
    };
    entries.iter().map(id).collect()
}

/// The store keys that the vault holds.
fn held(vault: &Fixture) -> Vec<KeyId> {
    let keys = vault.writer.keyring.loaded().unwrap().store_keys;
    keys.iter().map(|key| key.id()).collect()
}

#[tokio::test]
async fn another_store_key_gets_all_workspaces_and_then_the_old_one_is_gone() {
    let vault = filled(1).await;
    workspaces_named(&vault, 70).await;
    vault
        .writer
        .rotate_workspace_key(&permit(), &name("w"))
        .await
        .unwrap();
    let [old] = held(&vault)[..] else { panic!() };
    assert!(vault.writer.replace_store_key().await.unwrap());
    assert!(
        !vault.writer.replace_store_key().await.unwrap(),
        "one is under way"
    );
    let [still, new] = held(&vault)[..] else { panic!() };
    assert_eq!(still, old);
    vault
        .writer
        .create_workspace(&admin("later"), Plan::Free)
        .await
        .unwrap();
    let first = StepOutcome::Continue;
    assert_eq!(step_at(&vault, stored::STORE_KEY_ROTATION, first).await, 1);
    // In the middle of it, and after a restart there, everything decrypts.
    let vault = vault.reopen().await;
    assert_eq!(held(&vault), [old, new]);
    let under_new = store_keys_of_all(&vault).iter().filter(|id| **id == new).count();
    assert_eq!(under_new, 64);
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
    let status = vault.writer.key_status(&permit()).await.unwrap();
    assert_eq!(status.rotations[0].workspace, None);
    assert_eq!(status.rotations[0].done, 64);
    step_at(&vault, stored::STORE_KEY_ROTATION, StepOutcome::Finished).await;
    assert_eq!(store_keys_of_all(&vault), vec![new; 72]);
    assert_eq!(held(&vault), [new], "the old one is wiped");
    let file = crate::vault::key_file::KeyFile::read(&vault.writer.store)
        .unwrap()
        .unwrap();
    assert!(file.has_store_key(new) && !file.has_store_key(old));
    let vault = vault.reopen().await;
    // Under the key that was retired before the store key was.
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
    step_until(&vault, StepOutcome::Finished).await;
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
}

#[tokio::test]
async fn a_workspace_whose_key_is_damaged_keeps_the_old_store_key_until_it_is_deleted() {
    let vault = filled(1).await;
    workspaces_named(&vault, 2).await;
    let mut record = found(&vault, "w").record;
    // In the wrap, which a move has to open.
    record.wrapped_kek[60] ^= 1;
    let damaged = Batch::new().put(stored::workspace(&name("w")), stored::encode(&record));
    vault.writer.store.commit(damaged).await.unwrap();
    assert!(vault.writer.replace_store_key().await.unwrap());
    for _ in 0..2 {
        step_at(&vault, stored::STORE_KEY_ROTATION, StepOutcome::Wait).await;
        let status = vault.writer.key_status(&permit()).await.unwrap();
        assert_eq!(status.rotations[0].unreadable, 1);
        assert_eq!(held(&vault).len(), 2);
    }
    vault.writer.delete_workspace(&admin("w"), 0, true).await.unwrap();
    step_at(&vault, stored::STORE_KEY_ROTATION, StepOutcome::Finished).await;
    assert_eq!(held(&vault).len(), 1);
}

#[tokio::test]
async fn what_was_wrapped_by_a_store_key_that_is_not_active_any_more_is_not_stored() {
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
    // Tried again, both are.
    let writer = &vault.writer;
    writer.create_workspace(&admin("late"), Plan::Free).await.unwrap();
    writer.rotate_workspace_key(&permit(), &name("w")).await.unwrap();
}

// ------------------------------------------------------------------------------------------------------- root keys

#[tokio::test]
async fn another_first_root_key_takes_the_place_of_the_old_one_at_once() {
    let vault = filled(1).await;
    workspaces_named(&vault, 2).await;
    let store_keys = held(&vault);
    let vault = vault.reopen_with(files(&[2, 1])).await.unwrap();
    let (new, old) = (root(key(2)).id(), root(key(1)).id());
    let status = vault.writer.key_status(&permit()).await.unwrap();
    let shown: Vec<_> = status
        .roots
        .iter()
        .map(|root| (root.id, root.active, root.workspaces))
        .collect();
    assert_eq!(shown, [(new, true, 3), (old, false, 0)]);
    assert!(status.rotations.is_empty());
    assert_eq!(held(&vault), store_keys);
    let vault = vault.reopen_with(files(&[2])).await.unwrap();
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
}

#[tokio::test]
async fn a_root_key_in_use_is_not_taken_away_and_the_refusal_counts_who_needs_it() {
    let vault = filled(1).await;
    workspaces_named(&vault, 99).await;
    let copy = copied(vault.dir.path());
    let refused = vault.reopen_with(files(&[2])).await.err().unwrap();
    let OpenError::OtherRootKey {
        needed, workspaces, ..
    } = &refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((needed, workspaces), (&root(key(1)).id().to_string(), &100));
    assert!(open_with(&copy, files(&[2, 1])).await.is_ok());
}

/// A copy of a store, while it is open but rests.
fn copied(dir: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to),
                false => drop(fs::copy(entry.path(), to).unwrap()),
            }
        }
    }
    let to = TempDir::new().unwrap();
    copy(dir, to.path());
    to
}

#[tokio::test]
async fn a_copy_from_before_is_useless_once_its_root_key_is_gone() {
    let vault = filled(1).await;
    let vault = vault.reopen().await;
    let copy = copied(vault.dir.path());
    drop(vault.reopen_with(files(&[2, 1])).await.unwrap());
    // From now on there is the new root key alone.
    let refused = open_with(&copy, files(&[2])).await.err().unwrap();
    assert!(
        matches!(refused, OpenError::OtherRootKey { workspaces: 1, .. }),
        "{refused:?}"
    );
    // It was worth something before.
    let (_writer, reader) = open_with(&copy, files(&[1])).await.unwrap();
    drop(reader);
}

#[tokio::test]
async fn a_root_key_from_a_file_is_not_the_vaults_to_rotate() {
    let vault = filled(1).await;
    let refused = vault.writer.rotate_root_key(&permit()).await;
    assert!(matches!(refused, Err(VaultError::RootKeyFromFile)));
}

// ------------------------------------------------------------------------------------------------------ passphrases

struct Words(TempDir);

impl Words {
    fn new() -> Self {
        let words = Self(TempDir::new().unwrap());
        words.are("correct horse battery staple");
        words
    }

    fn are(&self, words: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(self.0.path().join("words"), words).unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.0.path().join("words"), mode).unwrap();
    }

    fn provider(&self) -> Provider {
        Provider::Wrapper(RootKeyWrapper::Passphrase(self.0.path().join("words")))
    }

    fn providers(&self) -> Providers {
        Providers::new(self.provider(), Vec::new())
    }
}

#[tokio::test]
async fn a_passphrase_opens_the_store_that_it_made_and_another_one_does_not() {
    let words = Words::new();
    let dir = TempDir::new().unwrap();
    let (writer, reader) = open_with(&dir, words.providers()).await.unwrap();
    writer.create_workspace(&admin("w"), Plan::Free).await.unwrap();
    drop(reader);
    writer.close().await.unwrap();
    words.are("correct horse battery stable");
    let refused = open_with(&dir, words.providers()).await.err().unwrap();
    let said = chassis::telemetry::chain(&refused).to_string();
    assert!(said.contains("the passphrase is not the one"), "{said}");
    words.are("correct horse battery staple\n");
    let (writer, reader) = open_with(&dir, words.providers()).await.unwrap();
    assert!(!writer.is_locked());
    drop(reader);
    writer.close().await.unwrap();
    // Not without it: the root key is in no file.
    let refused = open_with(&dir, files(&[1])).await.err().unwrap();
    assert!(matches!(refused, OpenError::OtherRootKey { workspaces: 1, .. }));
}

#[tokio::test]
async fn a_root_key_from_a_file_gives_way_to_a_passphrase_and_that_to_another_one() {
    let vault = filled(1).await;
    let words = Words::new();
    let both = Providers::new(words.provider(), vec![Provider::File(Arc::new(root(key(1))))]);
    let vault = vault.reopen_with(both).await.unwrap();
    let vault = vault.reopen_with(words.providers()).await.unwrap();
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");

    words.are("another horse another staple");
    let first = vault.writer.keyring.loaded().unwrap().root.id();
    let second = vault.writer.rotate_root_key(&permit()).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(
        vault.writer.keyring.loaded().unwrap().root.id(),
        second,
        "the old one is wiped"
    );
    let file = crate::vault::key_file::KeyFile::read(&vault.writer.store)
        .unwrap()
        .unwrap();
    assert_eq!(file.root_key, second, "and destroyed");
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
    let vault = vault.reopen_with(words.providers()).await.unwrap();
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
}

#[tokio::test]
async fn rotations_of_the_root_key_at_once_take_turns() {
    let words = Words::new();
    let dir = TempDir::new().unwrap();
    let (writer, reader) = open_with(&dir, words.providers()).await.unwrap();
    let permit = permit();
    let (one, other) = tokio::join!(writer.rotate_root_key(&permit), writer.rotate_root_key(&permit));
    let made = [one.unwrap(), other.unwrap()];
    let active = writer.keyring.loaded().unwrap().root.id();
    assert!(made.contains(&active) && made[0] != made[1]);
    writer.create_workspace(&admin("w"), Plan::Free).await.unwrap();
    drop(reader);
    writer.close().await.unwrap();
    let (writer, _reader) = open_with(&dir, words.providers()).await.unwrap();
    assert_eq!(writer.keyring.loaded().unwrap().root.id(), active);
}
