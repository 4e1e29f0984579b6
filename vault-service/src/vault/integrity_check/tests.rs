//! Stores with known damage, their checks, and their repairs.

mod flips;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use proto::{SecretName, SecretValue, Uid, WorkspaceName};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::{
    authz::for_tests::{admin_permit, decrypt_permit},
    crypto::RootKey,
    root::{Provider, Providers},
    vault::{
        DecryptOutcome, DecryptQuery, Labels, NewSecret, OpenError, Plan, Reader, Vault, Writer, stored::Kind,
    },
};

const CACHE: u64 = 8 << 20;

fn root(last: u8) -> RootKey {
    let mut key = [7; 32];
    key[31] = last;
    RootKey::from_bytes(Zeroizing::new(key)).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn name(name: &str) -> SecretName {
    SecretName::parse(name).unwrap()
}

fn new(secret: &str, value: Vec<u8>) -> NewSecret {
    NewSecret {
        name: name(secret),
        value: SecretValue::parse(Zeroizing::new(value)).unwrap(),
        upstream_origins: Vec::new(),
        labels: Labels::default(),
        expiry: None,
        expected_version: None,
        request_id: None,
    }
}

/// A store with the workspaces `a` and `b`, each with three secrets and a deleted one, whose entries were then changed.
struct DamagedStore {
    parent: TempDir,
    uids: [Uid; 2],
}

impl DamagedStore {
    async fn by(damage: impl FnOnce(&DamagedStore, &mut dyn FnMut(Edit))) -> Self {
        let parent = TempDir::new().unwrap();
        let store = Store::open(&parent.path().join("store"), CACHE).unwrap();
        let (writer, reader) = Vault::open(store, root(1)).await.unwrap().split();
        drop(reader);
        let mut uids = Vec::new();
        for workspace in ["a", "b"] {
            let permit = admin_permit(workspace);
            uids.push(writer.create_workspace(&permit, Plan::Free).await.unwrap().uid);
            for secret in ["ONE", "TWO", "THREE", "GONE"] {
                writer
                    .put_secret(&permit, new(secret, secret.into()))
                    .await
                    .unwrap();
            }
            writer.delete_secret(&permit, &name("GONE"), None).await.unwrap();
        }
        writer.close().await.unwrap();
        let damaged = Self {
            parent,
            uids: uids.try_into().unwrap(),
        };
        let mut changes = Vec::new();
        damage(&damaged, &mut |change| changes.push(change));
        if !changes.is_empty() {
            damaged.rewrite(changes).await;
        }
        damaged
    }

    /// Writes the entries, with changes, into a new log, which has no earlier states of them.
    async fn rewrite(&self, changes: impl IntoIterator<Item = Edit>) {
        let store = self.open(&self.dir());
        let entries = store.scan(b"", None, usize::MAX).unwrap();
        store.close().await.unwrap();
        let mut entries: BTreeMap<_, _> = entries
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        for (key, change) in changes {
            if let Some(value) = entries.remove(&key).and_then(change) {
                entries.insert(key, value);
            }
        }
        let keys = std::fs::read(self.dir().join("keys")).unwrap();
        std::fs::remove_dir_all(self.dir()).unwrap();
        let store = self.open(&self.dir());
        let puts = entries.into_iter();
        let batch = puts.fold(Batch::new(), |batch, (key, value)| batch.put(key, value));
        store.commit(batch).await.unwrap();
        store.close().await.unwrap();
        std::fs::write(self.dir().join("keys"), keys).unwrap();
    }

    fn dir(&self) -> PathBuf {
        self.parent.path().join("store")
    }

    fn open(&self, dir: &Path) -> Store {
        Store::open(dir, CACHE).unwrap()
    }

    fn open_check(&self) -> IntegrityCheck {
        self.open_check_of(&self.dir(), &root(1).into()).unwrap()
    }

    /// Opens the check on a thread of its own, because `IntegrityCheck::open` must not be called in an async context.
    fn open_check_of(
        &self,
        dir: &Path,
        providers: &Providers,
    ) -> Result<IntegrityCheck, IntegrityCheckError> {
        std::thread::scope(|scope| {
            let open = || IntegrityCheck::open(dir, providers, &runtime());
            scope.spawn(open).join().unwrap()
        })
    }

    fn key(&self, kind: Kind, workspace: usize, secret: &str) -> Vec<u8> {
        kind.key(&self.uids[workspace], &name(secret))
    }
}

/// A change of the value at a key.
type Edit = (Vec<u8>, fn(Vec<u8>) -> Option<Vec<u8>>);

fn gone(_: Vec<u8>) -> Option<Vec<u8>> {
    None
}

fn flipped(mut value: Vec<u8>) -> Option<Vec<u8>> {
    *value.last_mut().unwrap() ^= 1;
    Some(value)
}

fn garbled(_: Vec<u8>) -> Option<Vec<u8>> {
    Some(vec![0xFF; 9])
}

impl DamagedStore {
    fn verified(&self) -> (Vec<String>, IntegrityReport) {
        self.verified_in(&self.dir(), &root(1).into())
    }

    fn verified_in(&self, dir: &Path, providers: &Providers) -> (Vec<String>, IntegrityReport) {
        let mut check = self.open_check_of(dir, providers).unwrap();
        let mut lines = Vec::new();
        let damaged = |damage: &Damage| lines.push(damage.to_string());
        let report = check.verify(dir, self.parent.path(), CACHE, damaged).unwrap();
        lines.sort();
        (lines, report)
    }
}

/// Returns the names of a workspace's secrets that can be decrypted by a vault over `dir`.
async fn decrypted(dir: &Path, workspace: &str) -> Vec<&'static str> {
    let store = Store::open(dir, CACHE).unwrap();
    let (writer, reader) = Vault::open(store, root(1)).await.unwrap().split();
    let names = ["ONE", "TWO", "THREE", "GONE"];
    let query = DecryptQuery {
        permit: decrypt_permit(workspace),
        workspace_uid: None,
        names: names.map(name).to_vec(),
        check_only: false,
        server: None,
    };
    let answer = reader.decrypt(vec![Arc::new(query)]).await.pop().unwrap();
    let found = answer.unwrap().1;
    drop(reader);
    writer.close().await.unwrap();
    let there = names.into_iter().zip(&found).filter(|(_, found)| match found {
        DecryptOutcome::Value { .. } => true,
        DecryptOutcome::NotFound => false,
        DecryptOutcome::Expired | DecryptOutcome::DataLoss | DecryptOutcome::KeyNotLoaded => {
            panic!("{found:?}")
        }
    });
    there.map(|(name, _)| name).collect()
}

#[tokio::test]
async fn an_undamaged_store_is_reported_as_sound_and_stays_unchanged() {
    let store = DamagedStore::by(|_, _| ()).await;
    let files = || {
        let entries = std::fs::read_dir(store.dir()).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).ok()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let (lines, report) = store.verified();
    assert_eq!(lines, [""; 0]);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.workspaces, report.secrets), (2, 6));
    assert!(files() == before, "the store was changed");
}

#[tokio::test]
async fn each_damaged_item_is_named_and_the_others_are_salvaged() {
    let store = DamagedStore::by(|store, change| {
        change((store.key(Kind::Record, 0, "ONE"), flipped));
        change((store.key(Kind::Record, 0, "TWO"), gone));
        change((store.key(Kind::Metadata, 0, "THREE"), garbled));
        change((store.key(Kind::LastVersion, 0, "GONE"), garbled));
        change((store.key(Kind::Metadata, 1, "ONE"), gone));
        change((stored::count(&store.uids[1]), gone));
    })
    .await;
    let (lines, report) = store.verified();
    let expected = [
        "a/GONE: it is deleted, and its last version number is lost",
        "a/ONE version 1: its value does not authenticate",
        "a/THREE version 1: its metadata is lost, and its value is intact",
        "a/TWO version 1: its value cannot be read",
        "b/ONE version 1: its metadata is lost, and its value is intact",
        "b: its stored number of secrets is wrong",
    ];
    assert_eq!(lines, expected);
    assert_eq!((report.workspaces, report.secrets, report.damaged()), (2, 4, 6));
    assert!(!report.is_sound());

    let (of_repair, _, to) = repaired(&store, store.open_check()).await;
    assert_eq!(of_repair, lines);
    assert_eq!(decrypted(&to, "a").await, ["THREE"]);
    assert_eq!(decrypted(&to, "b").await, ["ONE", "TWO", "THREE"]);

    let (lines, report) = store.verified_in(&to, &root(1).into());
    assert_eq!(lines, [""; 0]);
    assert!(report.is_sound(), "{report:?}");
}

#[tokio::test]
async fn only_the_workspace_whose_key_cannot_be_unwrapped_is_lost() {
    let store = DamagedStore::by(|store, change| {
        let _ = store;
        let a = WorkspaceName::parse("a").unwrap();
        change((stored::workspace(&a), |bytes| {
            let mut record: stored::WorkspaceRecord = stored::decode(&bytes).unwrap();
            *record.wrapped_kek.last_mut().unwrap() ^= 1;
            Some(stored::encode(&record))
        }));
    })
    .await;
    let (lines, report) = store.verified();
    assert_eq!((report.workspaces, report.secrets), (1, 3));
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines.contains(&"a: its key does not open: all its secrets are lost".to_owned()),
        "{lines:?}"
    );
    for secret in ["ONE", "TWO", "THREE"] {
        let line = format!("a/{secret}: its workspace is lost");
        assert!(lines.contains(&line), "{lines:?}");
    }
}

#[tokio::test]
async fn another_root_key_is_refused_because_everything_would_look_damaged() {
    let store = DamagedStore::by(|_, _| ()).await;
    let refused = store.open_check_of(&store.dir(), &root(2).into()).err();
    assert!(
        matches!(
            refused,
            Some(IntegrityCheckError::Vault(OpenError::OtherRootKey { .. }))
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_store_that_lost_a_part_of_its_log_is_salvaged_without_that_part() {
    let store = DamagedStore::by(|_, _| ()).await;
    // The number of secrets is so high that the tree of the store has many leaves.
    let open = store.open(&store.dir());
    let (writer, reader) = Vault::open(open, root(1)).await.unwrap().split();
    drop(reader);
    let permit = admin_permit("many");
    writer.create_workspace(&permit, Plan::Enterprise).await.unwrap();
    let puts = (0..400).map(|number| {
        let (writer, permit) = (writer.clone(), admin_permit("many"));
        tokio::spawn(async move {
            let new = new(&format!("N{number}"), vec![b'v'; 500]);
            writer.put_secret(&permit, new).await.unwrap();
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
    }
    writer.close().await.unwrap();

    // The damage is in the later part of the log, which has the current states of the entries.
    let path = store.dir().join("db");
    let mut bytes = std::fs::read(&path).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written / 10 * 8..written / 10 * 9].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let (lines, report) = store.verified();
    println!("{report:?}: {lines:?}");
    assert!(report.refusal.is_some());
    assert_eq!(report.log_damage.gaps, 1);
    let [_, _, _, doubtful] = report.damage_by_outcome;
    assert!(
        report.secrets + doubtful > 300 && report.secrets < 406,
        "{report:?}"
    );
}

#[tokio::test]
async fn an_overwritten_record_is_read_from_its_earlier_place_in_the_log() {
    let store = DamagedStore::by(|_, _| ()).await;
    let open = store.open(&store.dir());
    let key = store.key(Kind::Record, 0, "ONE");
    let garbage = flipped(open.read(&key).unwrap().unwrap()).unwrap();
    open.commit(Batch::new().put(key, garbage)).await.unwrap();
    open.close().await.unwrap();
    let (lines, report) = store.verified();
    assert_eq!((lines, report.secrets), (Vec::new(), 6));
}

#[tokio::test]
async fn a_secret_whose_deletion_is_partly_lost_stays_deleted_and_a_doubtful_one_is_kept_on_request_only() {
    let store = DamagedStore::by(|_, _| ()).await;
    let open = store.open(&store.dir());
    let read = |kind, secret| open.read(&store.key(kind, 0, secret)).unwrap().unwrap();
    // The secret ONE is deleted, except that its record exists.
    let batch = Batch::new()
        .delete(store.key(Kind::Metadata, 0, "ONE"))
        .put(store.key(Kind::LastVersion, 0, "ONE"), 1u64.to_be_bytes());
    open.commit(batch).await.unwrap();
    // The secret TWO has lost only its record to a deletion.
    let record = store.key(Kind::Record, 0, "TWO");
    read(Kind::Record, "TWO");
    open.commit(Batch::new().delete(record)).await.unwrap();
    open.close().await.unwrap();
    let (lines, _, to) = repaired(&store, store.open_check()).await;
    let doubtful = "a/TWO: it may have been deleted: the part of the log that would show this cannot be read";
    assert!(lines.contains(&doubtful.to_owned()), "{lines:?}");
    assert_eq!(decrypted(&to, "a").await, ["THREE"]);
    with_vault(&to, files(&[1]), async |writer, _| {
        let permit = admin_permit("a");
        for (secret, above) in [("ONE", 1), ("TWO", 1000)] {
            let put = writer
                .put_secret(&permit, new(secret, b"v".into()))
                .await
                .unwrap();
            assert!(put.secret.version > above, "{secret}: {}", put.secret.version);
        }
    })
    .await;
}

/// Returns providers of root keys from files; the first root key is active.
fn files(last: &[u8]) -> Providers {
    let file = |last: &u8| Provider::File(Arc::new(root(*last)));
    Providers::new(file(&last[0]), last[1..].iter().map(file).collect())
}

/// Runs `work` with the vault in `dir`.
async fn with_vault(dir: &Path, providers: Providers, work: impl AsyncFnOnce(&Writer, &Reader)) {
    let store = Store::open(dir, CACHE).unwrap();
    let (writer, reader) = Vault::open(store, providers).await.unwrap().split();
    work(&writer, &reader).await;
    drop(reader);
    writer.close().await.unwrap();
}

async fn repaired(store: &DamagedStore, check: IntegrityCheck) -> (Vec<String>, IntegrityReport, PathBuf) {
    let to = store.parent.path().join("new");
    let into = to.clone();
    let (lines, report) = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::new();
        let damaged = |damage: &Damage| lines.push(damage.to_string());
        let report = check.repair(&into, CACHE, DoubtfulSecrets::LeaveOut, &runtime(), damaged);
        lines.sort();
        (lines, report.unwrap())
    })
    .await
    .unwrap();
    (lines, report, to)
}

#[tokio::test]
async fn a_lost_current_version_is_replaced_by_the_newest_older_version() {
    let store = DamagedStore::by(|_, _| ()).await;
    with_vault(&store.dir(), files(&[1]), async |writer, _| {
        for secret in ["ONE", "ONE", "TWO", "TWO", "THREE"] {
            let permit = admin_permit("a");
            writer
                .put_secret(&permit, new(secret, b"v".into()))
                .await
                .unwrap();
        }
    })
    .await;
    let (lines, report) = store.verified();
    assert_eq!((lines.len(), report.secrets, report.older), (0, 6, 5));

    let old = stored::old_version(&store.uids[0], &name("TWO"), 1);
    let current = store.key(Kind::Record, 0, "ONE");
    store
        .rewrite([(current, flipped as fn(_) -> _), (old, flipped)])
        .await;
    let (lines, report, to) = repaired(&store, store.open_check()).await;
    let expected = [
        "a/ONE version 2: it is older than acknowledged: version 3 is lost, and this is the newest version that is intact",
        "a/TWO version 1: its value does not authenticate",
    ];
    assert_eq!(lines, expected);
    assert_eq!((report.secrets, report.older), (6, 3));
    assert_eq!(decrypted(&to, "a").await, ["ONE", "TWO", "THREE"]);
    with_vault(&to, files(&[1]), async |writer, _| {
        let permit = admin_permit("a");
        let versions = async |secret| {
            let (versions, _) = writer
                .secret_versions(&permit, &name(secret), None, 10)
                .await
                .unwrap();
            versions
                .into_iter()
                .map(|version| version.version)
                .collect::<Vec<_>>()
        };
        assert_eq!(versions("ONE").await, [2, 1]);
        assert_eq!(versions("TWO").await, [3, 2]);
        // The lost version had the number 3, which is not used again.
        let put = writer.put_secret(&permit, new("ONE", b"v".into())).await.unwrap();
        assert!(put.secret.version > 1000, "{}", put.secret.version);
        let put = writer.put_secret(&permit, new("ONE", b"v".into())).await.unwrap();
        let latest = put.secret.version;
        assert_eq!(versions("ONE").await, [latest, latest - 1]);
    })
    .await;
    let (lines, report) = store.verified_in(&to, &files(&[1]));
    assert_eq!((lines, report.is_sound()), (Vec::new(), true));
}

#[tokio::test]
async fn a_store_with_rotations_under_way_is_sound_and_its_repaired_copy_begins_them_anew() {
    let store = DamagedStore::by(|_, _| ()).await;
    with_vault(&store.dir(), files(&[1]), async |writer, _| {
        assert!(writer.replace_store_key().await.unwrap());
        let a = WorkspaceName::parse("a").unwrap();
        let rotated = writer
            .rotate_workspace_key(&writer.operator_permit().unwrap(), &a)
            .await;
        rotated.unwrap();
    })
    .await;
    let (lines, report) = store.verified();
    assert_eq!((lines, report.is_sound()), (Vec::new(), true));

    let check = store.open_check();
    let (_, report, to) = repaired(&store, check).await;
    assert_eq!(report.secrets, 6);
    with_vault(&to, files(&[1]), async |writer, _| {
        let rotations = writer
            .key_status(&writer.operator_permit().unwrap())
            .await
            .unwrap()
            .rotations;
        let names: Vec<_> = rotations.into_iter().map(|rotation| rotation.workspace).collect();
        assert_eq!(names, [None, Some("a".to_owned())]);
    })
    .await;
}

#[tokio::test]
async fn a_store_without_its_own_key_file_is_refused_because_everything_would_look_damaged() {
    let store = DamagedStore::by(|_, _| ()).await;
    let (keys, kept) = (store.dir().join("keys"), store.parent.path().join("kept"));
    std::fs::copy(&keys, &kept).unwrap();
    let refused = |expected: fn(&OpenError) -> bool| {
        let refused = store.open_check_of(&store.dir(), &root(1).into()).err();
        assert!(
            matches!(&refused, Some(IntegrityCheckError::Vault(error)) if expected(error)),
            "{refused:?}"
        );
    };
    // The file is an older copy.
    with_vault(&store.dir(), files(&[1]), async |writer, _| {
        assert!(writer.replace_store_key().await.unwrap());
    })
    .await;
    std::fs::copy(&kept, &keys).unwrap();
    refused(|error| matches!(error, OpenError::OtherKeys(_)));
    std::fs::write(&keys, "nonsense").unwrap();
    refused(|error| matches!(error, OpenError::Keys(_)));
    std::fs::remove_file(&keys).unwrap();
    refused(|error| matches!(error, OpenError::NoKeys));
}
