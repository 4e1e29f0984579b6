//! Tests of the vault over a real store, without its transport.

mod backup_keys;
mod backups;
mod damage;
mod durable;
mod erasure;
mod expiry;
mod formats;
mod records;
mod requests;
mod restores;
mod uses;
mod versions;
mod workspaces;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

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
            Err(crate::store::StoreOpenError::InUse(_)) if std::time::Instant::now() < deadline => {
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
        let mut answers = self.reader.decrypt(vec![Arc::new(query("w", name))]).await;
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

fn query(workspace: &str, name: &str) -> DecryptQuery {
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
