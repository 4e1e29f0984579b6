//! Backups, and the root keys that they need.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::{backups::permit, *};
use crate::{
    authz::VaultPermit,
    crypto::KeyId,
    root::{Provider, ProviderError, Wrapper},
    store::{Batch, HOLD},
    vault::rotation::Progress,
};

/// Root keys from files, the first active.
fn files(numbers: &[u8]) -> Providers {
    let file = |number: &u8| Provider::File(Arc::new(root(key(*number))));
    Providers::new(file(&numbers[0]), numbers[1..].iter().map(file).collect())
}

fn passphrase(dir: &Path, words: &str) -> Providers {
    let path = dir.join("words");
    fs::write(&path, words).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Providers::new(Provider::Wrapper(Wrapper::Passphrase(path)), Vec::new())
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
    roots::read_meta(&vault.writer.store).unwrap().1
}

fn rotates(vault: &Fixture) -> bool {
    vault.writer.store.read(stored::ROOT_ROTATION).unwrap().is_some()
}

async fn rotated(vault: &Fixture) {
    let progress = Progress::default();
    let over = async {
        while rotates(vault) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = vault.writer.take_rotations_further(&progress, |_| {}) => {}
        () = over => {}
    }
}

/// A vault whose root key is being rotated from the first to the second.
async fn in_the_middle() -> Fixture {
    let vault = with_a_secret(files(&[1])).await;
    let vault = vault.reopen_with(files(&[2, 1])).await.unwrap();
    assert!(rotates(&vault));
    vault
}

#[tokio::test]
async fn a_backup_whose_root_key_only_the_store_held_is_restored_with_its_passphrase() {
    let words = TempDir::new().unwrap();
    let correct = || passphrase(words.path(), "correct horse battery staple");
    let vault = with_a_secret(correct()).await;
    let held = meta(&vault);
    let backup = vault.backup().await;

    let other = with(correct()).await;
    assert_ne!(meta(&other).root_key_id, held.root_key_id);
    other.take_in(&backup).await.unwrap();
    for (found, held) in [
        (meta(&other).root_key_id, held.root_key_id),
        (meta(&other).vault_uid, held.vault_uid),
    ] {
        assert_eq!(found, held);
    }
    assert_eq!(meta(&other).root_keys, held.root_keys);
    assert!(!rotates(&other));
    decrypts(&other).await;
    let other = other.reopen_with(correct()).await.unwrap();
    decrypts(&other).await;
}

#[tokio::test]
async fn neither_another_passphrase_nor_a_file_opens_it() {
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
async fn a_backup_from_the_middle_of_a_rotation_needs_both_root_keys_and_goes_on() {
    let vault = in_the_middle().await;
    let backup = vault.backup().await;
    let file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut &file, &backup).unwrap();
    let archive = Archive::open(Arc::new(file)).unwrap();
    assert_eq!(archive.root_key(), id(2));
    assert_eq!(archive.about().further_keys, [id(1)]);

    let other = with(files(&[2])).await;
    let before = other.entries();
    let refused = other.take_in(&backup).await;
    let Err(VaultError::BackupNeedsRootKey {
        needed, workspaces, ..
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!((needed, workspaces), (id(1).to_string(), 1));
    assert_eq!(other.entries(), before);

    let other = with(files(&[2, 1])).await;
    other.take_in(&backup).await.unwrap();
    assert!(rotates(&other));
    decrypts(&other).await;
    rotated(&other).await;
    let other = other.reopen_with(files(&[2])).await.unwrap();
    decrypts(&other).await;
}

#[tokio::test]
async fn a_restored_vault_moves_to_the_root_key_that_it_was_given_as_the_active_one() {
    let vault = with_a_secret(files(&[1])).await;
    let backup = vault.backup().await;
    let other = with(files(&[2, 1])).await;
    other.take_in(&backup).await.unwrap();
    assert_eq!(meta(&other).root_key_id, id(2).as_bytes());
    decrypts(&other).await;
    rotated(&other).await;
    let other = other.reopen_with(files(&[2])).await.unwrap();
    decrypts(&other).await;
}

#[tokio::test]
async fn a_restore_that_was_stopped_leaves_an_empty_vault_whatever_root_keys_came_in() {
    let vault = in_the_middle().await;
    let other = with(files(&[2])).await;
    let empty = other.entries();
    let hold = Batch::new().expect_absent(HOLD).put(HOLD, "filling");
    let entries = vault.entries().into_iter();
    let half = entries
        .filter(|entry| entry.key != stored::META)
        .fold(hold, |batch, entry| batch.put(entry.key, entry.value));
    other.writer.store.commit(half).await.unwrap();
    let other = other.reopen_with(files(&[2])).await.unwrap();
    assert_eq!(other.entries(), empty);
}

#[tokio::test]
async fn a_sealed_vault_makes_no_backup_and_takes_none() {
    let vault = with(files(&[1])).await;
    let sealed = Writer {
        keyring: Arc::new(Keyring::sealed()),
        ..vault.writer.clone()
    };
    let permit: VaultPermit = permit();
    let refused = sealed.back_up(&permit).await.err();
    assert!(matches!(refused, Some(VaultError::Sealed)), "{refused:?}");
    let refused = sealed.restore(&permit, vault.dir.path()).await.err();
    assert!(matches!(refused, Some(VaultError::Sealed)), "{refused:?}");
}
