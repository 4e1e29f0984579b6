//! Tests of root keys from files and passphrases.

use super::*;

#[tokio::test]
async fn a_new_first_root_key_replaces_the_old_one_at_once() {
    let vault = filled(1).await;
    workspaces_named(&vault, 2).await;
    let store_keys = store_key_ids(&vault);
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
    assert_eq!(store_key_ids(&vault), store_keys);
    let vault = vault.reopen_with(files(&[2])).await.unwrap();
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
}

#[tokio::test]
async fn a_store_without_the_root_key_that_it_needs_is_refused_with_the_number_of_workspaces() {
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

/// Copies a store that is open and not written to.
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
async fn an_older_copy_of_the_store_does_not_open_without_its_root_key() {
    let vault = filled(1).await;
    let vault = vault.reopen().await;
    let copy = copied(vault.dir.path());
    drop(vault.reopen_with(files(&[2, 1])).await.unwrap());
    // From here on only the new root key is available.
    let refused = open_with(&copy, files(&[2])).await.err().unwrap();
    assert!(
        matches!(refused, OpenError::OtherRootKey { workspaces: 1, .. }),
        "{refused:?}"
    );
    // The copy opens with the old root key.
    let (_writer, reader) = open_with(&copy, files(&[1])).await.unwrap();
    drop(reader);
}

#[tokio::test]
async fn the_vault_does_not_rotate_a_root_key_from_a_file() {
    let vault = filled(1).await;
    let refused = vault.writer.rotate_root_key(&permit()).await;
    assert!(matches!(refused, Err(VaultError::RootKeyFromFile)));
}

struct PassphraseFile(TempDir);

impl PassphraseFile {
    fn new() -> Self {
        let passphrase = Self(TempDir::new().unwrap());
        passphrase.write("correct horse battery staple");
        passphrase
    }

    fn write(&self, passphrase: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(self.0.path().join("words"), passphrase).unwrap();
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
async fn only_its_own_passphrase_opens_a_store() {
    let passphrase = PassphraseFile::new();
    let dir = TempDir::new().unwrap();
    let (writer, reader) = open_with(&dir, passphrase.providers()).await.unwrap();
    writer.create_workspace(&admin("w"), Plan::Free).await.unwrap();
    drop(reader);
    writer.close().await.unwrap();
    passphrase.write("correct horse battery stable");
    let refused = open_with(&dir, passphrase.providers()).await.err().unwrap();
    let said = chassis::telemetry::chain(&refused).to_string();
    assert!(said.contains("the passphrase is not the one"), "{said}");
    passphrase.write("correct horse battery staple\n");
    let (writer, reader) = open_with(&dir, passphrase.providers()).await.unwrap();
    assert!(!writer.is_locked());
    drop(reader);
    writer.close().await.unwrap();
    // Without the passphrase the store does not open, because no file has the root key.
    let refused = open_with(&dir, files(&[1])).await.err().unwrap();
    assert!(matches!(refused, OpenError::OtherRootKey { workspaces: 1, .. }));
}

#[tokio::test]
async fn a_passphrase_replaces_a_root_key_file_and_another_passphrase_replaces_it() {
    let vault = filled(1).await;
    let passphrase = PassphraseFile::new();
    let both = Providers::new(
        passphrase.provider(),
        vec![Provider::File(Arc::new(root(key(1))))],
    );
    let vault = vault.reopen_with(both).await.unwrap();
    let vault = vault.reopen_with(passphrase.providers()).await.unwrap();
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");

    passphrase.write("another horse another staple");
    let first = vault.writer.keyring.loaded().unwrap().root.id();
    let second = vault.writer.rotate_root_key(&permit()).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(
        vault.writer.keyring.loaded().unwrap().root.id(),
        second,
        "the old one is wiped"
    );
    let file = crate::vault::key_file::WrappedKeys::read(&vault.writer.store)
        .unwrap()
        .unwrap();
    assert_eq!(file.root_key, second, "and destroyed");
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
    let vault = vault.reopen_with(passphrase.providers()).await.unwrap();
    assert_eq!(value(vault.decrypt("S0000").await.unwrap()).1, b"value");
}

#[tokio::test]
async fn concurrent_rotations_of_the_root_key_run_one_after_the_other() {
    let passphrase = PassphraseFile::new();
    let dir = TempDir::new().unwrap();
    let (writer, reader) = open_with(&dir, passphrase.providers()).await.unwrap();
    let permit = permit();
    let (one, other) = tokio::join!(writer.rotate_root_key(&permit), writer.rotate_root_key(&permit));
    let made = [one.unwrap(), other.unwrap()];
    let active = writer.keyring.loaded().unwrap().root.id();
    assert!(made.contains(&active) && made[0] != made[1]);
    writer.create_workspace(&admin("w"), Plan::Free).await.unwrap();
    drop(reader);
    writer.close().await.unwrap();
    let (writer, _reader) = open_with(&dir, passphrase.providers()).await.unwrap();
    assert_eq!(writer.keyring.loaded().unwrap().root.id(), active);
}
