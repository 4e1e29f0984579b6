//! Attacks on deleted values by someone with the store's files and the root key.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicUsize,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proto::WorkspaceName;

use super::*;
use crate::{
    authz::VaultPermit,
    crypto::{KeyId, StoreKey, WorkspaceKek, record},
    vault::{erasure::NextErasure, key_file::WrappedKeys, rotation::StepOutcome, stored::Kind},
};

const HOUR: Duration = Duration::from_hours(1);
/// Number of bytes before the id of the needed key in a wrapped key or record: the format and the algorithm.
const ID_OFFSET: usize = 2;
const WRAPPED_KEY: usize = 158;
/// Number of bytes of a record that suffice to unwrap its DEK.
const RECORD_PREFIX: usize = 300;

/// A version of a secret: the uid of its workspace, its name and its number.
type Version = (Uid, &'static str, u64);

/// An attacker with the files of a store and the root key, who tries every key at every place that names the key.
struct Attacker {
    files: Vec<Vec<u8>>,
    root: RootKey,
}

impl Attacker {
    fn of(store: &Path, root: [u8; 32]) -> Self {
        let mut files = Vec::new();
        for entry in fs::read_dir(store).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "{}", path.display());
                continue;
            }
            let bytes = fs::read(path).unwrap();
            let content = str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.lines().find_map(|line| line.strip_prefix("content ")))
                .map(|content| STANDARD.decode(content).unwrap());
            files.extend(content);
            files.push(bytes);
        }
        let root = self::root(root);
        Self { files, root }
    }

    /// Returns the bytes at all places that name the key `id`, from `ID_OFFSET` bytes before the id.
    fn naming(&self, id: KeyId) -> impl Iterator<Item = &[u8]> {
        self.files.iter().flat_map(move |file| {
            let found = memchr::memmem::find_iter(file, id.as_bytes()).collect::<Vec<_>>();
            found
                .into_iter()
                .filter_map(move |at| file.get(at.checked_sub(ID_OFFSET)?..))
        })
    }

    fn store_keys(&self) -> Vec<StoreKey> {
        let wrapped = self
            .naming(self.root.id())
            .filter_map(|place| place.get(..WRAPPED_KEY));
        wrapped
            .filter_map(|wrapped| self.root.unwrap(wrapped).ok())
            .collect()
    }

    fn keks(&self, workspaces: &[Uid]) -> Vec<(Uid, WorkspaceKek)> {
        let mut keks: Vec<(Uid, WorkspaceKek)> = Vec::new();
        for store_key in self.store_keys() {
            for wrapped in self
                .naming(store_key.id())
                .filter_map(|place| place.get(..WRAPPED_KEY))
            {
                for uid in workspaces {
                    if let Ok(kek) = store_key.unwrap(wrapped, uid)
                        && keks.iter().all(|(_, known)| known.id() != kek.id())
                    {
                        keks.push((*uid, kek));
                    }
                }
            }
        }
        keks
    }

    /// Returns the versions whose DEK the attacker can unwrap, and so can decrypt.
    fn opened(&self, workspaces: &[Uid], names: &[&'static str]) -> BTreeSet<Version> {
        let mut opened = BTreeSet::new();
        for (uid, kek) in self.keks(workspaces) {
            for place in self.naming(kek.id()) {
                let record = place.get(..RECORD_PREFIX).unwrap_or(place);
                for name in names {
                    if record::rewrap(record, &uid, &secret(name), &kek, &kek).is_ok() {
                        let version = record[142..150].try_into().unwrap();
                        opened.insert((uid, *name, u64::from_be_bytes(version)));
                    }
                }
            }
        }
        opened
    }
}

/// A vault in which secrets, versions and a workspace were deleted.
struct Scene {
    vault: Fixture,
    /// Uids of the workspace `w` and of the deleted workspace `x`.
    uids: [Uid; 2],
}

const NAMES: [&str; 4] = ["LIVE", "GONE", "PUSHED", "LATER"];

impl Scene {
    async fn new() -> Self {
        let vault = Fixture::with_workspace(Plan::Free).await;
        vault
            .writer
            .create_workspace(&admin("x"), Plan::Free)
            .await
            .unwrap();
        for (workspace, name, versions) in [
            ("w", "LIVE", 1),
            ("w", "GONE", 2),
            ("w", "PUSHED", 5),
            ("x", "GONE", 1),
        ] {
            for number in 0..versions {
                let new = new(name, format!("value {number}").as_bytes());
                vault.writer.put_secret(&admin(workspace), new).await.unwrap();
            }
        }
        let uid = |workspace| {
            let name = WorkspaceName::parse(workspace).unwrap();
            workspace::find(&vault.writer.store, &name).unwrap().uid
        };
        let uids = ["w", "x"].map(uid);
        vault.delete("GONE").await.unwrap();
        vault.writer.delete_workspace(&admin("x"), 0, true).await.unwrap();
        vault.writer.sweep_all().await.unwrap();
        Self { vault, uids }
    }

    fn deleted(&self) -> BTreeSet<Version> {
        let [w, x] = self.uids;
        BTreeSet::from([
            (w, "GONE", 1),
            (w, "GONE", 2),
            (w, "PUSHED", 1),
            (w, "PUSHED", 2),
            (x, "GONE", 1),
        ])
    }

    fn live(&self) -> BTreeSet<Version> {
        let [w, _] = self.uids;
        let pushed = (3..=5).map(|version| (w, "PUSHED", version));
        pushed.chain([(w, "LIVE", 1)]).collect()
    }

    /// Closes the vault. Returns the versions that the attacker can decrypt from its files.
    async fn opened(self) -> (BTreeSet<Version>, TempDir) {
        let (dir, root) = self.vault.closed().await;
        let attacker = Attacker::of(&dir.path().join("store"), root);
        (attacker.opened(&self.uids, &NAMES), dir)
    }
}

fn permit() -> VaultPermit {
    VaultPermit::of_operator(&root(key(1)))
}

/// Runs rotations and erasures until nothing is due any more.
async fn erase_all(writer: &Writer) {
    while let NextErasure::Begun = writer
        .rotate_and_erase(&KeyMetrics::default(), HOUR, &|_| {})
        .await
        .unwrap()
    {}
}

/// Makes one step of a rotation under way, or begins a due erasure. Returns false when there is nothing to do.
async fn step(writer: &Writer) -> bool {
    match writer.rotation_after(None).await.unwrap() {
        Some(entry) => writer.step(&entry.key, &KeyMetrics::default()).await.unwrap() != StepOutcome::Wait,
        None => matches!(
            writer.begin_erasure(HOUR, &KeyMetrics::default()).await.unwrap(),
            NextErasure::Begun
        ),
    }
}

#[tokio::test]
async fn an_attacker_decrypts_deleted_values_from_the_files_only_until_they_are_erased() {
    let scene = Scene::new().await;
    let (deleted, live, uids) = (scene.deleted(), scene.live(), scene.uids);
    let (before, dir) = scene.opened().await;
    assert_eq!(before, &deleted | &live, "this attack finds what is there");

    let ahead = Arc::new(AtomicU64::new(HOUR.as_secs() + 1));
    let (writer, reader) = open_at(&dir, root(key(1)), &ahead).await.unwrap();
    erase_all(&writer).await;
    assert_eq!(
        writer.key_status(&permit()).await.unwrap().erasure,
        PendingErasure::default()
    );
    drop(reader);
    writer.close().await.unwrap();
    let attacker = Attacker::of(&dir.path().join("store"), key(1));
    assert_eq!(attacker.opened(&uids, &NAMES), live);

    let (_writer, reader) = open(&dir, key(1)).await.unwrap();
    for name in ["LIVE", "PUSHED"] {
        let answer = reader
            .decrypt(vec![Arc::new(query("w", name))])
            .await
            .pop()
            .unwrap();
        assert!(
            matches!(answer.unwrap().1[..], [DecryptOutcome::Value { .. }]),
            "{name}"
        );
    }
}

/// The kinds of deletions.
#[derive(Clone, Copy, Debug)]
enum Deletion {
    Secret,
    OldestVersion,
    Workspace,
}

#[tokio::test]
async fn each_kind_of_deletion_is_erased() {
    for deletion in [Deletion::Secret, Deletion::OldestVersion, Deletion::Workspace] {
        let vault = Fixture::with_workspace(Plan::Free).await;
        vault
            .writer
            .create_workspace(&admin("x"), Plan::Free)
            .await
            .unwrap();
        let uids = ["w", "x"].map(|workspace| {
            let name = WorkspaceName::parse(workspace).unwrap();
            workspace::find(&vault.writer.store, &name).unwrap().uid
        });
        vault.put("LIVE", b"live").await.unwrap();
        let new = new("GONE", b"gone");
        let workspace = match deletion {
            Deletion::Secret | Deletion::OldestVersion => "w",
            Deletion::Workspace => "x",
        };
        vault.writer.put_secret(&admin(workspace), new).await.unwrap();
        match deletion {
            Deletion::Secret => vault.delete("GONE").await.unwrap(),
            Deletion::OldestVersion => {
                for _ in 0..3 {
                    vault.put("GONE", b"newer").await.unwrap();
                }
            }
            Deletion::Workspace => vault.writer.delete_workspace(&admin("x"), 0, true).await.unwrap(),
        }
        vault.forward(HOUR + Duration::from_secs(1));
        erase_all(&vault.writer).await;
        let (dir, root) = vault.closed().await;
        let opened = Attacker::of(&dir.path().join("store"), root).opened(&uids, &NAMES);
        let gone = opened
            .iter()
            .filter(|(_, name, version)| (*name, *version) == ("GONE", 1));
        assert_eq!(gone.count(), 0, "{deletion:?}");
        assert!(opened.contains(&(uids[0], "LIVE", 1)), "{deletion:?}");
    }
}

#[tokio::test]
async fn a_store_key_that_a_crash_left_in_the_file_is_destroyed_after_the_next_start() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("LIVE", b"live").await.unwrap();
    let mut keys = vault.writer.keyring.loaded().unwrap();
    let used = keys.store_keys[0].id();
    // The vault stopped before the store named the new store key as the active one.
    keys.store_keys.push(Arc::new(StoreKey::generate().unwrap()));
    WrappedKeys::replace(&vault.writer.store, &keys).await.unwrap();
    let vault = vault.reopen().await;
    let store_key_ids = |vault: &Fixture| {
        let keys = vault.writer.keyring.loaded().unwrap().store_keys;
        keys.iter().map(|key| key.id()).collect::<Vec<_>>()
    };
    assert_eq!(store_key_ids(&vault).len(), 2);
    erase_all(&vault.writer).await;
    assert_eq!(store_key_ids(&vault), [used]);
    let vault = vault.reopen().await;
    assert_eq!(store_key_ids(&vault), [used]);
    assert_eq!(value(vault.decrypt("LIVE").await.unwrap()).1, b"live");
}

#[tokio::test]
async fn nothing_is_erased_before_it_is_due_and_the_status_shows_the_pending_erasure() {
    let scene = Scene::new().await;
    let vault = &scene.vault;
    let began = SystemTime::now();
    let metrics = KeyMetrics::default();
    let NextErasure::In(pause) = vault
        .writer
        .rotate_and_erase(&metrics, HOUR, &|_| {})
        .await
        .unwrap()
    else {
        panic!("it is begun");
    };
    assert!(pause <= Duration::from_secs(300), "{pause:?}");
    let status = vault.writer.key_status(&permit()).await.unwrap();
    assert!(status.rotations.is_empty());
    assert_eq!(status.erasure.workspaces, 2);
    let since = SystemTime::try_from(status.erasure.since.unwrap()).unwrap();
    assert!(since <= SystemTime::now() && began.duration_since(since).unwrap() < HOUR);
    assert_eq!(metrics.unerased.get(), 2);
    assert!(metrics.unerased_since.get() > 0);

    // The next check is at the time when the erasure is due.
    vault.forward(HOUR - Duration::from_secs(100));
    let NextErasure::In(pause) = vault
        .writer
        .rotate_and_erase(&metrics, HOUR, &|_| {})
        .await
        .unwrap()
    else {
        panic!("it is begun");
    };
    assert!(pause <= Duration::from_secs(100), "{pause:?}");
    vault.forward(Duration::from_secs(101));
    assert!(matches!(
        vault
            .writer
            .rotate_and_erase(&metrics, HOUR, &|_| {})
            .await
            .unwrap(),
        NextErasure::Begun
    ));
    erase_all(&vault.writer).await;
    vault.writer.begin_erasure(HOUR, &metrics).await.unwrap();
    assert_eq!((metrics.unerased.get(), metrics.unerased_since.get()), (0, 0));
}

/// Copies a store that is open and not written to.
fn copied(store: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    let copy = to.path().join("store");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    to
}

#[tokio::test]
async fn an_erasure_interrupted_at_any_step_is_finished_after_the_next_start() {
    let scene = Scene::new().await;
    scene.vault.forward(HOUR + Duration::from_secs(1));
    let store = scene.vault.dir.path().join("store");
    let mut copies = vec![copied(&store)];
    while step(&scene.vault.writer).await {
        copies.push(copied(&store));
    }
    assert!(copies.len() > 6, "{}", copies.len());
    for (number, copy) in copies.into_iter().enumerate() {
        let ahead = Arc::new(AtomicU64::new(HOUR.as_secs() + 1));
        let (writer, reader) = open_at(&copy, root(key(1)), &ahead).await.unwrap();
        erase_all(&writer).await;
        let status = writer.key_status(&permit()).await.unwrap();
        assert_eq!(status.erasure, PendingErasure::default(), "{number}");
        drop(reader);
        writer.close().await.unwrap();
        let attacker = Attacker::of(&copy.path().join("store"), key(1));
        assert_eq!(attacker.opened(&scene.uids, &NAMES), scene.live(), "{number}");
    }
}

/// The moment at which the `n`-th replacement of the file `keys` fails.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Before,
    After,
}

#[tokio::test]
async fn an_erasure_that_cannot_replace_the_key_file_loses_nothing_and_is_tried_again() {
    for failure in [Failure::Before, Failure::After] {
        for n in 0..2 {
            let scene = Scene::new().await;
            let (uids, live) = (scene.uids, scene.live());
            let (dir, bytes) = scene.vault.closed().await;
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = calls.clone();
            let store = Store::with_key_file(&dir.path().join("store"), |replace| {
                Box::new(move |dir: &Path, bytes: &[u8]| {
                    let fails = counted.fetch_add(1, Ordering::SeqCst) == n;
                    if fails && matches!(failure, Failure::Before) {
                        return Err(std::io::Error::from_raw_os_error(5));
                    }
                    replace(dir, bytes)?;
                    match fails {
                        true => Err(std::io::Error::from_raw_os_error(5)),
                        false => Ok(()),
                    }
                })
            });
            let mut vault = Vault::open(store, root(bytes)).await.unwrap();
            vault.clock = Arc::new(|| SystemTime::now() + HOUR + Duration::from_secs(1));
            let (writer, reader) = vault.split();
            let mut failed = 0;
            for _ in 0..10 {
                failed += usize::from(
                    writer
                        .rotate_and_erase(&KeyMetrics::default(), HOUR, &|_| {})
                        .await
                        .is_err(),
                );
            }
            assert_eq!(failed, usize::from(n == 0), "{failure:?} {n}");
            let answer = reader
                .decrypt(vec![Arc::new(query("w", "LIVE"))])
                .await
                .pop()
                .unwrap();
            assert!(matches!(answer.unwrap().1[..], [DecryptOutcome::Value { .. }]));
            erase_all(&writer).await;
            assert_eq!(
                writer.key_status(&permit()).await.unwrap().erasure,
                PendingErasure::default()
            );
            drop(reader);
            writer.close().await.unwrap();
            let attacker = Attacker::of(&dir.path().join("store"), bytes);
            assert_eq!(attacker.opened(&uids, &NAMES), live, "{failure:?} {n}");
        }
    }
}

#[tokio::test]
async fn data_deleted_during_an_erasure_are_erased_by_the_next_one() {
    // The status is checked before and after the replacement of the store key.
    for steps in [1, 2, 5] {
        let scene = Scene::new().await;
        let vault = &scene.vault;
        vault.put("LATER", b"later").await.unwrap();
        vault.forward(HOUR + Duration::from_secs(1));
        for _ in 0..steps {
            assert!(step(&vault.writer).await);
        }
        vault.delete("LATER").await.unwrap();
        erase_all(&vault.writer).await;
        let pending = vault.writer.key_status(&permit()).await.unwrap().erasure;
        assert_eq!(pending.workspaces, 1, "{steps}");
        vault.forward(HOUR + Duration::from_secs(1));
        erase_all(&vault.writer).await;
        let live = scene.live();
        let (opened, _dir) = scene.opened().await;
        assert_eq!(opened, live, "{steps}");
    }
}

#[tokio::test]
async fn a_damaged_record_delays_only_the_erasure_of_its_workspace() {
    let scene = Scene::new().await;
    let vault = &scene.vault;
    let [w, x] = scene.uids;
    vault.put("LATER", b"damaged").await.unwrap();
    let key = Kind::Record.key(&w, &secret("LATER"));
    let mut damaged = vault.writer.store.read(&key).unwrap().unwrap();
    // The damage is in the wrapped DEK, which a rewrap must unwrap.
    damaged[60] ^= 1;
    vault
        .writer
        .store
        .commit(Batch::new().put(key, damaged))
        .await
        .unwrap();
    vault.forward(HOUR + Duration::from_secs(1));
    erase_all(&vault.writer).await;
    let status = vault.writer.key_status(&permit()).await.unwrap();
    assert_eq!(status.erasure.workspaces, 1);
    let held_up = status
        .rotations
        .iter()
        .find(|rotation| rotation.unreadable > 0)
        .unwrap();
    assert_eq!(held_up.workspace.as_deref(), Some("w"));
    let attacker = Attacker::of(
        &copied(&vault.dir.path().join("store")).path().join("store"),
        vault.root,
    );
    let opened = attacker.opened(&scene.uids, &NAMES);
    assert!(opened.contains(&(w, "GONE", 2)), "the promise waits for it");
    assert!(!opened.contains(&(x, "GONE", 1)), "the other workspace does not");

    vault.delete("LATER").await.unwrap();
    erase_all(&vault.writer).await;
    vault.forward(HOUR + Duration::from_secs(1));
    erase_all(&vault.writer).await;
    let live = scene.live();
    let (opened, _dir) = scene.opened().await;
    assert_eq!(opened, live);
}

#[tokio::test]
async fn the_old_key_of_a_requested_rotation_is_erased() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("LIVE", b"value").await.unwrap();
    let name = WorkspaceName::parse("w").unwrap();
    vault.writer.rotate_workspace_key(&permit(), &name).await.unwrap();
    erase_all(&vault.writer).await;
    let store_key = || vault.writer.keyring.loaded().unwrap().store_keys[0].id();
    let before = store_key();
    assert_eq!(
        vault
            .writer
            .key_status(&permit())
            .await
            .unwrap()
            .erasure
            .workspaces,
        1
    );
    vault.forward(HOUR + Duration::from_secs(1));
    erase_all(&vault.writer).await;
    assert_ne!(store_key(), before);
    assert_eq!(
        vault
            .writer
            .key_status(&permit())
            .await
            .unwrap()
            .erasure
            .workspaces,
        0
    );
}

#[tokio::test]
async fn a_put_that_removes_nothing_leaves_nothing_to_erase() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    for number in 0..3 {
        vault.put("T", format!("{number}").as_bytes()).await.unwrap();
    }
    assert_eq!(vault.keys("d/"), [""; 0]);
    vault.put("T", b"pushes the first one out").await.unwrap();
    assert_eq!(vault.keys("d/").len(), 1);
}

/// Returns the files of a store by name.
fn file(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join("store").join(name)
}

#[tokio::test]
async fn a_key_file_and_a_store_from_different_times_are_refused() {
    let scene = Scene::new().await;
    let vault = scene.vault.reopen().await;
    let (old, kept) = vault.closed().await;
    let before = copied(&old.path().join("store"));
    let ahead = Arc::new(AtomicU64::new(HOUR.as_secs() + 1));
    let (writer, reader) = open_at(&old, root(kept), &ahead).await.unwrap();
    erase_all(&writer).await;
    drop(reader);
    writer.close().await.unwrap();
    let after = copied(&old.path().join("store"));

    // The key file is older than the store.
    fs::copy(file(&before, "keys"), file(&old, "keys")).unwrap();
    let refused = open(&old, kept).await.err().unwrap();
    assert!(matches!(refused, OpenError::OtherKeys(_)), "{refused:?}");
    assert!(refused.to_string().contains("older copy"), "{refused}");
    // The key file is newer than the store.
    fs::copy(file(&after, "keys"), file(&before, "keys")).unwrap();
    let refused = open(&before, kept).await.err().unwrap();
    assert!(matches!(refused, OpenError::OtherKeys(_)), "{refused:?}");
    // The key file is missing. A new store key would make the whole store unreadable.
    fs::remove_file(file(&old, "keys")).unwrap();
    let refused = open(&old, kept).await.err().unwrap();
    assert!(matches!(refused, OpenError::NoKeys), "{refused:?}");
    fs::copy(file(&after, "keys"), file(&old, "keys")).unwrap();
    assert!(open(&old, kept).await.is_ok());
}

#[tokio::test]
async fn a_first_start_interrupted_before_the_store_named_its_key_goes_on_with_that_key() {
    let vault = Fixture::new().await;
    let id = vault.writer.keyring.loaded().unwrap().store_keys[0].id();
    let store = &vault.writer.store;
    let (_, meta) = meta::read(store).unwrap();
    let unnamed = Meta {
        store_key_id: Vec::new(),
        ..meta
    };
    let batch = Batch::new().put(stored::META, stored::encode(&unnamed));
    store.commit(batch).await.unwrap();
    let vault = vault.reopen().await;
    assert_eq!(vault.writer.keyring.loaded().unwrap().store_keys[0].id(), id);
    vault
        .writer
        .create_workspace(&admin("w"), Plan::Free)
        .await
        .unwrap();
}
