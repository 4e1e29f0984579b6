//! Stores of earlier releases.

use std::{fs, path::PathBuf};

use super::*;
use crate::crypto::root_file;

/// Made once, by the last release that wrote format 1, and never again.
fn format_1() -> (TempDir, PathBuf) {
    let made = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/store/format-1");
    let dir = TempDir::new().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    for file in ["conf", "db"] {
        fs::copy(made.join(file), store.join(file)).unwrap();
    }
    let root = dir.path().join("root.key");
    fs::copy(made.join("root.key"), &root).unwrap();
    fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    (dir, root)
}

async fn migrated(dir: &TempDir, root: &std::path::Path) -> Result<(Writer, Reader), OpenError> {
    let root = root_file::read(root).unwrap();
    Ok(Vault::open(open_store(dir).await, root).await?.split())
}

/// What a vault gives for a name.
async fn decrypted(reader: &Reader, workspace: &str, name: &str) -> Decrypted {
    let wanted = Arc::new(wanted(workspace, name));
    let mut answers = reader.decrypt(vec![wanted]).await;
    answers.pop().unwrap().unwrap().1.pop().unwrap()
}

#[tokio::test]
async fn a_store_of_format_1_is_migrated_and_all_in_it_decrypts() {
    let (dir, root) = format_1();
    for opened in 0..2 {
        let (writer, reader) = migrated(&dir, &root).await.unwrap();
        let meta: Meta = stored::decode(&writer.store.read(stored::META).unwrap().unwrap()).unwrap();
        assert_eq!(meta.format, 2);
        let large = [b'x'; 2048];
        for (workspace, name, version, expected) in [
            ("alpha", "GITHUB_TOKEN", 2, b"two".as_slice()),
            ("alpha", "BOUND", 1, b"only there"),
            ("beta", "GITHUB_TOKEN", 1, b"of beta"),
            ("beta", "BYTES", 1, b"\0\xff\x80"),
            ("beta", "LARGE", 1, &large),
        ] {
            let decrypted = decrypted(&reader, workspace, name).await;
            assert_eq!(
                value(decrypted),
                (version, expected.to_vec()),
                "{opened} {workspace} {name}"
            );
        }
        let deleted = decrypted(&reader, "alpha", "DELETED").await;
        assert!(matches!(deleted, Decrypted::NotFound));
        let bound = decrypted(&reader, "alpha", "BOUND").await;
        let Decrypted::Value { origins, .. } = bound else {
            panic!("{bound:?}")
        };
        assert_eq!(
            origins.iter().map(OriginPattern::as_str).collect::<Vec<_>>(),
            ["https://api.github.com", "https://*.example.com"]
        );
        let gone = reader.decrypt(vec![Arc::new(wanted("gone", "A"))]).await.pop();
        assert!(matches!(gone, Some(Err(VaultError::NoWorkspace(_)))));
        drop(reader);
        writer.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_store_of_format_1_has_a_marker_from_then_on() {
    let (dir, root) = format_1();
    let marker = dir.path().join("store/marker");
    assert!(!marker.exists());
    let (writer, reader) = migrated(&dir, &root).await.unwrap();
    drop(reader);
    writer.close().await.unwrap();
    assert!(marker.exists());
}

#[tokio::test]
async fn a_store_of_format_1_is_found_sound_as_it_lies_there() {
    let (dir, root) = format_1();
    let audited = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let providers = root_file::read(&root).unwrap().into();
        let store = dir.path().join("store");
        let audit = Audit::open(&store, dir.path(), 8 << 20, &providers, &runtime).unwrap();
        audit.verify(|damage| panic!("{damage}"))
    });
    let report = audited.await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.workspaces, report.secrets, report.older), (2, 5, 0));
}

#[tokio::test]
async fn a_migrated_store_goes_on_where_it_was() {
    let (dir, root) = format_1();
    let (writer, reader) = migrated(&dir, &root).await.unwrap();
    let workspace = writer.workspace(&admin("alpha")).await.unwrap();
    assert_eq!(workspace.secret_count, 2);
    assert_eq!(workspace.settings.kept_versions, KeptVersions::default());
    let put = async |name: &str, value: &[u8]| writer.put_secret(&admin("alpha"), new(name, value)).await;

    // Numbers go on, also of the secret that was deleted, and what is replaced is kept from now on.
    assert_eq!(put("DELETED", b"new").await.unwrap().secret.version, 3);
    assert_eq!(put("GITHUB_TOKEN", b"three").await.unwrap().secret.version, 3);
    let name = secret("GITHUB_TOKEN");
    let permit = admin("alpha");
    let versions = writer.secret_versions(&permit, &name, None, 10).await;
    let (versions, _) = versions.unwrap();
    assert_eq!(
        versions.iter().map(|secret| secret.version).collect::<Vec<_>>(),
        [3, 2]
    );
    let restore = Restore {
        name,
        version: 2,
        expiry: NewExpiry::Kept,
        expected_version: Some(3),
        request_id: None,
    };
    writer.restore_version(&admin("alpha"), restore).await.unwrap();
    let restored = decrypted(&reader, "alpha", "GITHUB_TOKEN").await;
    assert_eq!(value(restored), (4, b"two".to_vec()));
}

#[tokio::test]
async fn a_store_of_format_1_is_as_it_was_when_its_root_key_is_not_the_one_given() {
    let (dir, root) = format_1();
    let refused = open(&dir, [1, 2, 3, 4, 5, 6, 7, 8].repeat(4).try_into().unwrap()).await;
    assert!(matches!(refused, Err(OpenError::OtherRootKey { .. })));
    let store = open_store(&dir).await;
    let meta: Meta = stored::decode(&store.read(stored::META).unwrap().unwrap()).unwrap();
    assert_eq!(meta.format, 1);
    store.close().await.unwrap();
    assert!(migrated(&dir, &root).await.is_ok());
}

#[tokio::test]
async fn a_store_of_another_format_is_refused_and_left_as_it_is() {
    for format in [0, FORMAT + 1, u32::MAX] {
        let vault = Fixture::new().await;
        let store = vault.writer.store.clone();
        let meta: Meta = stored::decode(&store.read(stored::META).unwrap().unwrap()).unwrap();
        let bytes = stored::encode(&Meta { format, ..meta });
        store
            .commit(Batch::new().put(stored::META, bytes.clone()))
            .await
            .unwrap();
        drop(store);
        let Fixture {
            dir,
            root,
            writer,
            reader,
            ahead: _,
        } = vault;
        drop(reader);
        writer.close().await.unwrap();
        let refused = open(&dir, root).await.err().unwrap();
        assert!(matches!(refused, OpenError::Format { found, supported: 2 } if found == format));
        let left = open_store(&dir).await.read(stored::META).unwrap();
        assert_eq!(left, Some(bytes));
    }
}
