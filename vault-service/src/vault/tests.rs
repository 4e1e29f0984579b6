//! Tests of the vault over a real store, without its transport.

mod backup_keys;
mod backups;
mod damage;
mod durable;
mod erasure;
mod expiry;
mod formats;
mod requests;
mod restores;
mod uses;
mod versions;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use chassis::authz::Scope;
use proto::{OriginPattern, SecretName, SecretValue, ServerName, Uid, page::Page};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::{
    open::FORMAT,
    stored::{self, Meta},
    *,
};
use crate::{
    authz::{
        AdminPermit,
        for_tests::{admin_permit, decrypt_permit},
    },
    crypto::RootKey,
    store::{Batch, EXCLUSIVE_WRITER},
};

pub(super) struct Fixture {
    pub(super) dir: TempDir,
    root: [u8; 32],
    pub(super) writer: Writer,
    pub(super) reader: Reader,
    /// Number of seconds by which the vault's clock is ahead of the system's.
    ahead: Arc<AtomicU64>,
}

pub(super) fn root(bytes: [u8; 32]) -> RootKey {
    RootKey::from_bytes(Zeroizing::new(bytes)).unwrap()
}

/// Opens the store. Waits, because a store that was just closed is in use until its reading threads end.
pub(super) async fn open_store(dir: &TempDir) -> Store {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match Store::open(&dir.path().join("store"), 8 << 20) {
            Err(crate::store::OpenError::InUse(_)) if std::time::Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            opened => return opened.unwrap(),
        }
    }
}

async fn open(dir: &TempDir, bytes: [u8; 32]) -> Result<(Writer, Reader), OpenError> {
    open_with(dir, root(bytes)).await
}

pub(super) async fn open_with(
    dir: &TempDir,
    providers: impl Into<Providers>,
) -> Result<(Writer, Reader), OpenError> {
    open_at(dir, providers, &Arc::default()).await
}

/// Opens a vault whose clock is ahead by `ahead` seconds.
async fn open_at(
    dir: &TempDir,
    providers: impl Into<Providers>,
    ahead: &Arc<AtomicU64>,
) -> Result<(Writer, Reader), OpenError> {
    let mut vault = Vault::open(open_store(dir).await, providers).await?;
    let ahead = ahead.clone();
    vault.clock = Arc::new(move || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::Relaxed)));
    Ok(vault.split())
}

impl Fixture {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let (key, ahead) = (key(1), Arc::default());
        let (writer, reader) = open_at(&dir, root(key), &ahead).await.unwrap();
        Self {
            dir,
            root: key,
            writer,
            reader,
            ahead,
        }
    }

    pub(super) async fn with_workspace(plan: Plan) -> Self {
        let fixture = Self::new().await;
        fixture.writer.create_workspace(&admin("w"), plan).await.unwrap();
        fixture
    }

    pub(super) async fn reopen(self) -> Self {
        let providers = root(self.root);
        self.reopen_with(providers).await.unwrap()
    }

    /// Opens the same store with other providers. The store stays closed when it refuses them.
    pub(super) async fn reopen_with(self, providers: impl Into<Providers>) -> Result<Self, OpenError> {
        let Self {
            dir,
            root,
            writer,
            reader,
            ahead,
        } = self;
        drop(reader);
        writer.close().await.unwrap();
        let (writer, reader) = open_at(&dir, providers, &ahead).await?;
        Ok(Self {
            dir,
            root,
            writer,
            reader,
            ahead,
        })
    }

    /// Closes the vault. Returns its directory and the bytes of its root key.
    async fn closed(self) -> (TempDir, [u8; 32]) {
        let Self {
            dir,
            root,
            writer,
            reader,
            ahead: _,
        } = self;
        drop(reader);
        writer.close().await.unwrap();
        (dir, root)
    }

    pub(super) async fn put(&self, name: &str, value: &[u8]) -> Result<WrittenVersion, VaultError> {
        self.put_new(new(name, value)).await
    }

    async fn put_new(&self, new: NewSecret) -> Result<WrittenVersion, VaultError> {
        self.writer.put_secret(&admin("w"), new).await
    }

    async fn shown(&self, name: &str) -> Result<SecretMetadata, VaultError> {
        self.writer.secret(&admin("w"), &secret(name)).await
    }

    async fn delete(&self, name: &str) -> Result<(), VaultError> {
        self.writer.delete_secret(&admin("w"), &secret(name), None).await
    }

    async fn change(&self, changes: SettingsChange) {
        self.writer
            .update_workspace(&admin("w"), 0, changes)
            .await
            .unwrap();
    }

    pub(super) async fn decrypt(&self, name: &str) -> Result<DecryptOutcome, VaultError> {
        let mut answers = self.reader.decrypt(vec![Arc::new(wanted("w", name))]).await;
        Ok(answers.pop().unwrap()?.1.pop().unwrap())
    }

    /// Moves the vault's clock forward.
    fn forward(&self, by: Duration) {
        self.ahead.fetch_add(by.as_secs(), Ordering::Relaxed);
    }

    /// Returns the time of the vault's clock in seconds since the Unix epoch.
    fn now(&self) -> u64 {
        let now = (self.writer.clock)();
        now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    /// Returns all keys of the store with this prefix, as text.
    fn keys(&self, prefix: &str) -> Vec<String> {
        let entries = self.writer.store.scan(prefix.as_bytes(), None, 10_000).unwrap();
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        entries.iter().map(|entry| text(&entry.key)).collect()
    }
}

/// Makes a put with only a name and a value.
fn new(name: &str, value: &[u8]) -> NewSecret {
    NewSecret {
        name: secret(name),
        value: parse(value),
        upstream_origins: Vec::new(),
        labels: Labels::default(),
        expiry: None,
        expected_version: None,
        request_id: None,
    }
}

fn wanted(workspace: &str, name: &str) -> DecryptQuery {
    DecryptQuery {
        permit: decrypt_permit(workspace),
        workspace_uid: None,
        names: vec![secret(name)],
        check_only: false,
        server: Some(ServerName::parse("s").unwrap()),
    }
}

/// Returns the bytes of a root key.
pub(super) fn key(number: u8) -> [u8; 32] {
    let mut key = [7; 32];
    key[0] = number;
    key
}

pub(super) fn admin(workspace: &str) -> AdminPermit {
    admin_permit(workspace)
}

pub(super) fn secret(name: &str) -> SecretName {
    SecretName::parse(name).unwrap()
}

fn parse(value: &[u8]) -> SecretValue {
    SecretValue::parse(Zeroizing::new(value.to_vec())).unwrap()
}

pub(super) fn value(decrypted: DecryptOutcome) -> (u64, Vec<u8>) {
    match decrypted {
        DecryptOutcome::Value { version, value, .. } => (version, value.unwrap().expose().to_vec()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_put_value_is_decrypted_before_and_after_a_restart() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let put = vault.put("github-token", b"one").await.unwrap();
    assert_eq!(
        (put.created, put.secret.version, put.secret.name.as_str()),
        (true, 1, "GITHUB_TOKEN")
    );
    let put = vault.put("GITHUB_TOKEN", b"two").await.unwrap();
    assert_eq!((put.created, put.secret.version), (false, 2));
    let vault = vault.reopen().await;
    assert_eq!(
        value(vault.decrypt("GITHUB.TOKEN").await.unwrap()),
        (2, b"two".to_vec())
    );
    assert!(matches!(
        vault.decrypt("OTHER").await.unwrap(),
        DecryptOutcome::NotFound
    ));
}

#[tokio::test]
async fn a_decrypt_returns_the_origins_of_the_value() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let origin = OriginPattern::parse("https://api.github.com").unwrap();
    let new = NewSecret {
        upstream_origins: vec![origin.clone()],
        ..new("T", b"v")
    };
    vault.put_new(new).await.unwrap();
    let DecryptOutcome::Value { origins, .. } = vault.decrypt("T").await.unwrap() else {
        panic!()
    };
    assert_eq!(origins, [origin]);
}

#[tokio::test]
async fn version_numbers_are_not_reused_after_a_delete() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"1").await.unwrap();
    vault.put("T", b"2").await.unwrap();
    let first = vault.writer.secret(&admin("w"), &secret("T")).await.unwrap();
    vault.delete("T").await.unwrap();
    assert!(matches!(
        vault.decrypt("T").await.unwrap(),
        DecryptOutcome::NotFound
    ));
    let again = vault.delete("T").await;
    assert!(matches!(again, Err(VaultError::NoSecret(..))));
    let put = vault.put("T", b"3").await.unwrap();
    assert_eq!((put.created, put.secret.version), (true, 3));
    assert_ne!(put.secret.uid, first.uid);
}

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
    let wanted = DecryptQuery {
        workspace_uid: Some(old),
        ..wanted("w", "T")
    };
    let answer = vault.reader.decrypt(vec![Arc::new(wanted)]).await.pop().unwrap();
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

#[tokio::test]
async fn another_root_key_is_refused_and_changes_nothing() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    let Fixture {
        dir,
        root,
        writer,
        reader,
        ahead,
    } = vault;
    drop(reader);
    writer.close().await.unwrap();
    let mut wrong = root;
    wrong[31] ^= 1;
    assert!(matches!(
        open(&dir, wrong).await,
        Err(OpenError::OtherRootKey { .. })
    ));
    let (writer, reader) = open(&dir, root).await.unwrap();
    let vault = Fixture {
        dir,
        root,
        writer,
        reader,
        ahead,
    };
    assert_eq!(value(vault.decrypt("T").await.unwrap()), (1, b"v".to_vec()));
}

#[tokio::test]
async fn a_store_that_holds_other_data_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&dir.path().join("store"), 8 << 20).unwrap();
    store.commit(Batch::new().put("k", "v")).await.unwrap();
    let mut key = [1; 32];
    key[1] = 2;
    assert!(matches!(
        Vault::open(store, root(key)).await.err(),
        Some(OpenError::NotAVault)
    ));
}

/// Exchanges the values of two entries without the vault.
async fn swap(store: &Store, one: Vec<u8>, other: Vec<u8>) {
    let (a, b) = (
        store.read(&one).unwrap().unwrap(),
        store.read(&other).unwrap().unwrap(),
    );
    store
        .commit(Batch::new().put(one, b).put(other, a))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_moved_or_changed_record_does_not_decrypt() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    for name in ["A", "B", "C"] {
        vault.put(name, name.as_bytes()).await.unwrap();
    }
    let store = vault.writer.store.clone();
    let uid = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    let key = |name| stored::Kind::Record.key(&uid, &secret(name));
    swap(&store, key("A"), key("B")).await;
    for name in ["A", "B"] {
        assert!(matches!(
            vault.decrypt(name).await.unwrap(),
            DecryptOutcome::DataLoss
        ));
    }
    let mut bytes = store.read(&key("C")).unwrap().unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    store.commit(Batch::new().put(key("C"), bytes)).await.unwrap();
    assert!(matches!(
        vault.decrypt("C").await.unwrap(),
        DecryptOutcome::DataLoss
    ));
    // A put repairs the secret, because a put does not decrypt the version that it replaces.
    vault.put("C", b"new").await.unwrap();
    assert_eq!(value(vault.decrypt("C").await.unwrap()), (2, b"new".to_vec()));
}

#[tokio::test]
async fn a_record_does_not_decrypt_in_another_workspace() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("A", b"secret of w").await.unwrap();
    vault
        .writer
        .create_workspace(&admin("v"), Plan::Free)
        .await
        .unwrap();
    let store = vault.writer.store.clone();
    let name = secret("A");
    let from = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    let to = vault.writer.workspace(&admin("v")).await.unwrap().uid;
    let record = store
        .read(&stored::Kind::Record.key(&from, &name))
        .unwrap()
        .unwrap();
    store
        .commit(Batch::new().put(stored::Kind::Record.key(&to, &name), record))
        .await
        .unwrap();
    let wanted = wanted("v", "A");
    let answer = vault.reader.decrypt(vec![Arc::new(wanted)]).await.pop().unwrap();
    assert!(matches!(
        answer.unwrap().1[0],
        DecryptOutcome::KeyNotLoaded | DecryptOutcome::DataLoss
    ));
}

#[tokio::test]
async fn only_values_in_the_answer_count_towards_its_size() {
    let vault = Fixture::with_workspace(Plan::Starter).await;
    let names: Vec<_> = (0..17).map(|number| secret(&format!("N{number}"))).collect();
    for name in &names {
        vault.put(name.as_str(), &vec![b'x'; 64 * 1024]).await.unwrap();
    }
    for (check_only, count, answered) in [(true, 17, true), (false, 17, false), (false, 16, true)] {
        let wanted = DecryptQuery {
            names: names[..count].to_vec(),
            check_only,
            ..wanted("w", "N0")
        };
        let answer = vault.reader.decrypt(vec![Arc::new(wanted)]).await.pop().unwrap();
        match answer {
            Ok((_, secrets)) => assert!(answered && secrets.len() == count),
            Err(VaultError::AnswerTooLarge) => assert!(!answered),
            Err(other) => panic!("{other:?}"),
        }
    }
}
