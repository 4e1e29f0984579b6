//! Tests of backups and the root keys that they need.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::{backups::permit, *};
use crate::{
    authz::VaultPermit,
    crypto::KeyId,
    root::{Provider, ProviderError, RootKeyWrapper},
};

/// Returns providers of root keys from files; the first root key is active.
fn files(numbers: &[u8]) -> Providers {
    let file = |number: &u8| Provider::File(Arc::new(root(key(*number))));
    Providers::new(file(&numbers[0]), numbers[1..].iter().map(file).collect())
}

fn passphrase(dir: &Path, words: &str) -> Providers {
    let path = dir.join("words");
    fs::write(&path, words).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Providers::new(Provider::Wrapper(RootKeyWrapper::Passphrase(path)), Vec::new())
}

fn id(number: u8) -> KeyId {
    root(key(number)).id()
}

async fn with(providers: Providers) -> Fixture {
    Fixture::with_providers(key(1), providers).await
}

async fn with_a_secret(providers: Providers) -> Fixture {
    let vault = with(providers).await;
    vault
        .writer
        .create_workspace(&admin("w"), Plan::Free)
        .await
        .unwrap();
    vault.put("T", b"v").await.unwrap();
    vault
}

async fn decrypts(vault: &Fixture) {
    assert_eq!(value(vault.decrypt("T").await.unwrap()), (1, b"v".to_vec()));
}

fn meta(vault: &Fixture) -> Meta {
    meta::read(&vault.writer.store).unwrap().1
}

/// Returns the ids of a vault's root key and store keys.
fn keys_of(vault: &Fixture) -> Vec<KeyId> {
    let loaded = vault.writer.keyring.loaded().unwrap();
    let store_keys = loaded.store_keys.iter().map(|key| key.id());
    std::iter::once(loaded.root.id()).chain(store_keys).collect()
}

#[tokio::test]
async fn a_backup_of_a_vault_with_a_passphrase_is_restored_with_the_passphrase() {
    let words = TempDir::new().unwrap();
    let correct = || passphrase(words.path(), "correct horse battery staple");
    let vault = with_a_secret(correct()).await;
    let backup = vault.backup().await;

    let other = with(correct()).await;
    let before = keys_of(&other);
    assert!(keys_of(&vault).iter().all(|id| !before.contains(id)));
    other.take_in(&backup).await.unwrap();
    assert_eq!(meta(&other).vault_uid, meta(&vault).vault_uid);
    assert_eq!(keys_of(&other), before, "a restored vault has keys of its own");
    decrypts(&other).await;
    let other = other.reopen_with(correct()).await.unwrap();
    decrypts(&other).await;
}

#[tokio::test]
async fn a_backup_is_not_opened_by_another_passphrase_or_root_key_file() {
    let [ours, theirs] = [0; 2].map(|_| TempDir::new().unwrap());
    let vault = with_a_secret(passphrase(ours.path(), "correct horse battery staple")).await;
    let backup = vault.backup().await;

    let other = with(passphrase(theirs.path(), "another horse another staple")).await;
    let before = other.entries();
    let refused = other.take_in(&backup).await;
    let expected = |error: &ProviderError| matches!(error, ProviderError::OtherPassphrase(_));
    assert!(
        matches!(&refused, Err(VaultError::Provider(error)) if expected(error)),
        "{refused:?}"
    );
    assert_eq!(other.entries(), before);
    let other = with(files(&[1])).await;
    let refused = other.take_in(&backup).await;
    assert!(
        matches!(refused, Err(VaultError::Backup(BackupError::OtherRootKey(_)))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_backup_made_during_a_rotation_of_the_store_key_is_restored() {
    let vault = with_a_secret(files(&[1])).await;
    let backup = vault.writer.back_up(&permit()).await.unwrap();
    // During a backup a new store key may be added, and no store key is destroyed.
    assert!(vault.writer.replace_store_key().await.unwrap());
    vault
        .writer
        .create_workspace(&admin("under-the-new-one"), Plan::Free)
        .await
        .unwrap();
    assert!(!vault.writer.drop_store_keys().await.unwrap());
    let backup = super::backups::all_of(backup).await;
    assert!(vault.writer.drop_store_keys().await.unwrap());

    let other = with(files(&[1])).await;
    assert_eq!(other.take_in(&backup).await.unwrap().workspaces, 2);
    decrypts(&other).await;
    let uid = |vault: &Fixture, name: &str| {
        let name = proto::WorkspaceName::parse(name).unwrap();
        workspace::find(&vault.writer.store, &name).unwrap().uid
    };
    assert_eq!(uid(&other, "under-the-new-one"), uid(&vault, "under-the-new-one"));
    other
        .writer
        .put_secret(&admin("under-the-new-one"), new("T", b"v"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_restored_vault_needs_only_its_own_root_key() {
    let vault = with_a_secret(files(&[1])).await;
    let backup = vault.backup().await;
    let other = with(files(&[2])).await;
    let refused = other.take_in(&backup).await;
    assert!(
        matches!(&refused, Err(VaultError::Backup(BackupError::OtherRootKey(needed))) if *needed == id(1)),
        "{refused:?}"
    );
    let other = with(files(&[2, 1])).await;
    other.take_in(&backup).await.unwrap();
    decrypts(&other).await;
    let other = other.reopen_with(files(&[2])).await.unwrap();
    decrypts(&other).await;
}

#[tokio::test]
async fn an_interrupted_restore_leaves_an_empty_vault_and_its_entries_are_erased() {
    let vault = with_a_secret(files(&[1])).await;
    let other = with(files(&[2])).await;
    let empty = other.entries();
    let hold = Batch::new()
        .expect_absent(EXCLUSIVE_WRITER)
        .put(EXCLUSIVE_WRITER, "filling");
    let entries = vault.entries().into_iter();
    let half = entries
        .filter(|entry| entry.key != stored::META)
        .fold(hold, |batch, entry| batch.put(entry.key, entry.value));
    other.writer.store.commit(half).await.unwrap();
    let other = other.reopen_with(files(&[2])).await.unwrap();
    let (noted, left): (Vec<_>, Vec<_>) = other
        .entries()
        .into_iter()
        .partition(|entry| entry.key.starts_with(stored::DESTROYED));
    assert_eq!((left, noted.len()), (empty, 1));
}

#[tokio::test]
async fn a_locked_vault_neither_makes_nor_restores_a_backup() {
    let vault = with(files(&[1])).await;
    let sealed = Writer {
        keyring: Arc::new(Keyring::locked()),
        ..vault.writer.clone()
    };
    let permit: VaultPermit = permit();
    let refused = sealed.back_up(&permit).await.err();
    assert!(matches!(refused, Some(VaultError::Locked)), "{refused:?}");
    let refused = sealed.restore(&permit, vault.dir.path()).await.err();
    assert!(matches!(refused, Some(VaultError::Locked)), "{refused:?}");
}
