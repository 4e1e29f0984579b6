//! Tests of backups that are restored into another vault.

use std::{fs::File, io::Write as _};

use super::*;
use crate::authz::VaultPermit;

/// Size of a backup's header, and of an encrypted frame, in bytes.
const HEADER: usize = 183;
const SEALED_FRAME: usize = 64 * 1024 + 16;

pub(super) fn permit() -> VaultPermit {
    VaultPermit::of_operator(&root(key(1)))
}

impl Fixture {
    /// Makes another vault, in a directory of its own, with the same root key.
    async fn beside(&self) -> Self {
        Self::with_root(self.root).await
    }

    async fn with_root(root: [u8; 32]) -> Self {
        Self::with_providers(root, self::root(root)).await
    }

    pub(super) async fn with_providers(root: [u8; 32], providers: impl Into<Providers>) -> Self {
        let (dir, ahead) = (TempDir::new().unwrap(), Arc::default());
        let (writer, reader) = open_at(&dir, providers, &ahead).await.unwrap();
        Self {
            dir,
            root,
            writer,
            reader,
            ahead,
        }
    }

    pub(super) async fn backup(&self) -> Vec<u8> {
        all_of(self.writer.back_up(&permit()).await.unwrap()).await
    }

    pub(super) async fn take_in(&self, backup: &[u8]) -> Result<RestoreSummary, VaultError> {
        let mut restore = self.writer.restore(&permit(), self.dir.path()).await?;
        for chunk in backup.chunks(100_000) {
            restore.receive(chunk.to_vec()).await?;
        }
        restore.finish().await
    }

    pub(super) fn entries(&self) -> Vec<crate::store::Entry> {
        self.writer.store.scan(&[], None, usize::MAX).unwrap()
    }

    /// Returns all entries except the notes about deleted data.
    fn without_notes(&self) -> Vec<crate::store::Entry> {
        let mut entries = self.entries();
        entries.retain(|entry| !entry.key.starts_with(stored::DESTROYED));
        entries
    }

    /// Returns all entries except those that describe one store, with the workspaces' KEKs unwrapped.
    fn contents(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let loaded = self.writer.keyring.loaded().unwrap();
        let content = |entry: crate::store::Entry| {
            let crate::store::Entry { key, value } = entry;
            if !key.starts_with(stored::WORKSPACES) {
                return (key, value);
            }
            let mut record: stored::WorkspaceRecord = stored::decode(&value).unwrap();
            let uid = stored::uid(&record.uid).unwrap();
            let kek = loaded.unwrap(&uid, &record.wrapped_kek).unwrap();
            record.wrapped_kek = kek.id().as_bytes().to_vec();
            (key, stored::encode(&record))
        };
        let entries = self.entries().into_iter();
        let of_all = |key: &[u8]| {
            ![b"meta".as_slice(), b"d/", b"e/"]
                .iter()
                .any(|one| key.starts_with(one))
        };
        entries.filter(|entry| of_all(&entry.key)).map(content).collect()
    }

    async fn fill(&self, secrets: usize) {
        for number in 0..secrets {
            let value = format!("value {number} {}", "x".repeat(3000));
            self.put(&format!("N{number}"), value.as_bytes()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_restored_vault_has_all_that_was_backed_up() {
    let vault = Fixture::with_workspace(Plan::Business).await;
    vault.put("T", b"one").await.unwrap();
    vault.put("T", b"two").await.unwrap();
    vault.put("GONE", b"v").await.unwrap();
    vault
        .writer
        .delete_secret(&admin("w"), &secret("GONE"), None)
        .await
        .unwrap();
    vault
        .writer
        .create_workspace(&admin("empty"), Plan::Free)
        .await
        .unwrap();
    let shown = vault.writer.workspace(&admin("w")).await.unwrap();
    let metadata = vault.writer.secret(&admin("w"), &secret("T")).await.unwrap();
    let backup = vault.backup().await;

    let other = vault.beside().await;
    let uid = |fixture: &Fixture| {
        let meta: Meta = stored::decode(&fixture.writer.store.read(stored::META).unwrap().unwrap()).unwrap();
        stored::uid(&meta.vault_uid).unwrap()
    };
    let replaced = uid(&other);
    let RestoreSummary { backup_time, .. } = restored_as(&other, &backup, uid(&vault), replaced).await;
    assert!(backup_time.seconds > 1_700_000_000);
    assert_eq!(other.contents(), vault.contents());
    assert!(!other.contents().is_empty());

    // The restored vault is the same before and after a restart.
    let mut other = other;
    for _ in 0..2 {
        assert_eq!(value(other.decrypt("T").await.unwrap()), (2, b"two".to_vec()));
        assert!(matches!(
            other.decrypt("GONE").await.unwrap(),
            DecryptOutcome::NotFound
        ));
        let current = other.writer.secret(&admin("w"), &secret("T")).await.unwrap();
        // The use counts differ, because the secrets were decrypted after the backup.
        let current = SecretMetadata {
            last_use: None,
            ..current
        };
        assert_eq!(current, metadata);
        let found = other.writer.workspace(&admin("w")).await.unwrap();
        assert_eq!(
            (found.uid, found.revision, found.secret_count),
            (shown.uid, shown.revision, 1)
        );
        other = other.reopen().await;
    }
    assert_eq!(other.put("GONE", b"again").await.unwrap().secret.version, 2);
    assert_eq!(other.put("T", b"three").await.unwrap().secret.version, 3);
}

pub(super) async fn all_of(backup: Backup) -> Vec<u8> {
    let mut all = Vec::new();
    let mut rest = Some(backup);
    while let Some(backup) = rest {
        let (part, more) = backup.part().await.unwrap();
        all.extend(part);
        rest = more;
    }
    all
}

async fn restored_as(other: &Fixture, backup: &[u8], vault_uid: Uid, replaced: Uid) -> RestoreSummary {
    let restored = other.take_in(backup).await.unwrap();
    let expected = RestoreSummary {
        vault_uid,
        replaced_vault_uid: replaced,
        backup_time: restored.backup_time,
        workspaces: 2,
        secrets: 1,
        versions: 2,
        deleted_secrets: 1,
    };
    assert_eq!(restored, expected);
    restored
}

#[tokio::test]
async fn a_backup_of_many_frames_and_an_empty_one_are_restored() {
    for secrets in [0, 300] {
        let vault = Fixture::with_workspace(Plan::Enterprise).await;
        vault.fill(secrets).await;
        let backup = vault.backup().await;
        assert_eq!(backup.len() > 10 * SEALED_FRAME, secrets > 0);
        let other = vault.beside().await;
        let restored = other.take_in(&backup).await.unwrap();
        assert_eq!((restored.workspaces, restored.secrets), (1, secrets as u64));
        assert_eq!(other.contents().len(), vault.contents().len());
        assert_eq!(other.contents(), vault.contents());
    }
}

#[tokio::test]
async fn a_backup_contains_no_name_or_value_in_clear() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault
        .writer
        .create_workspace(&admin("canary-workspace"), Plan::Free)
        .await
        .unwrap();
    vault
        .put("CANARY_NAME", b"canary value, of no use to anyone")
        .await
        .unwrap();
    let backup = vault.backup().await;
    let shows = |text: &[u8]| backup.windows(text.len()).any(|window| window == text);
    for text in ["canary-workspace", "CANARY_NAME", "canary value", "w/w", "meta"] {
        assert!(!shows(text.as_bytes()), "{text}");
    }
    assert!(shows(b"aerostack backup"));
}

#[tokio::test]
async fn a_backup_of_another_root_key_is_refused_and_changes_nothing() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    let backup = vault.backup().await;
    let mut root = vault.root;
    root[31] ^= 1;
    let other = Fixture::with_root(root).await;
    let before = other.entries();
    let refused = other.take_in(&backup).await;
    assert!(
        matches!(refused, Err(VaultError::Backup(BackupError::OtherRootKey(_)))),
        "{refused:?}"
    );
    assert_eq!(other.entries(), before);
    other
        .writer
        .create_workspace(&admin("w"), Plan::Free)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_damaged_backup_is_refused_and_changes_nothing() {
    let vault = Fixture::with_workspace(Plan::Enterprise).await;
    vault.fill(60).await;
    let backup = vault.backup().await;
    let frames = (backup.len() - HEADER).div_ceil(SEALED_FRAME);
    assert!(frames > 2);
    let mut wrong: Vec<Vec<u8>> = Vec::new();
    for frame in 0..frames {
        let at = HEADER + frame * SEALED_FRAME;
        wrong.push(backup[..at].to_vec());
        let mut flipped = backup.clone();
        flipped[at + 1000] ^= 1;
        wrong.push(flipped);
    }
    let [one, two] = [0, 1].map(|n| HEADER + n * SEALED_FRAME);
    let swapped = [
        &backup[..one],
        &backup[two..two + SEALED_FRAME],
        &backup[one..two],
        &backup[two + SEALED_FRAME..],
    ];
    wrong.push(swapped.concat());
    wrong.push([&backup[..], b"x"].concat());
    wrong.push(Vec::new());
    wrong.push(backup[..100].to_vec());
    wrong.push(backup[..backup.len() - 1].to_vec());

    let other = vault.beside().await;
    let before = other.entries();
    for wrong in wrong {
        let refused = other.take_in(&wrong).await;
        assert!(
            matches!(refused, Err(VaultError::Backup(BackupError::Damaged(_)))),
            "{refused:?}"
        );
        assert_eq!(other.entries(), before);
    }
    let refused = other.take_in(&vec![0; 1000]).await;
    assert!(
        matches!(refused, Err(VaultError::Backup(BackupError::NotABackup))),
        "{refused:?}"
    );
    assert_eq!(other.take_in(&backup).await.unwrap().secrets, 60);
}

#[tokio::test]
async fn a_vault_with_workspaces_refuses_a_restore() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let backup = vault.backup().await;
    let other = vault.beside().await;
    // A workspace that is created after the beginning of the restore is noticed, too.
    let mut restore = other.writer.restore(&permit(), other.dir.path()).await.unwrap();
    restore.receive(backup.clone()).await.unwrap();
    other
        .writer
        .create_workspace(&admin("mine"), Plan::Free)
        .await
        .unwrap();
    let before = other.entries();
    let late = restore.finish().await;
    assert!(matches!(late, Err(VaultError::NotEmpty)), "{late:?}");
    // An existing workspace is noticed before the backup is received.
    let early = other.writer.restore(&permit(), other.dir.path()).await.err();
    assert!(matches!(early, Some(VaultError::NotEmpty)), "{early:?}");
    assert_eq!(other.entries(), before);
    other
        .writer
        .update_workspace(
            &admin("mine"),
            0,
            SettingsChange {
                plan: Some(Plan::Pro),
                kept_versions: None,
            },
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn workspaces_deleted_after_the_backup_are_restored() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    let backup = vault.backup().await;
    let contents = vault.contents();
    vault.writer.delete_workspace(&admin("w"), 0, true).await.unwrap();
    // The sweep of the deleted workspace may still be under way during the restore.
    vault.take_in(&backup).await.unwrap();
    let uid = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    vault.writer.sweep(uid).await.unwrap();
    assert_eq!(vault.contents(), contents);
    assert_eq!(value(vault.decrypt("T").await.unwrap()), (1, b"v".to_vec()));
    // The KEK of the workspace was destroyed before, and can be cached again.
    let found = workspace::find(&vault.writer.store, admin("w").workspace()).unwrap();
    assert!(vault.writer.keyring.is_cached(&uid, &found.record.wrapped_kek));
}

#[tokio::test]
async fn one_backup_is_made_or_restored_at_a_time() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let backup = vault.writer.back_up(&permit()).await.unwrap();
    let second = vault.writer.back_up(&permit()).await.err();
    assert!(matches!(second, Some(VaultError::BackupUnderWay)), "{second:?}");
    let restore = vault.writer.restore(&permit(), vault.dir.path()).await.err();
    assert!(matches!(restore, Some(VaultError::BackupUnderWay)), "{restore:?}");
    drop(backup);
    vault.backup().await;
}

#[tokio::test]
async fn a_received_backup_leaves_no_file() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let backup = vault.backup().await;
    let other = vault.beside().await;
    let files = || std::fs::read_dir(other.dir.path()).unwrap().count();
    let before = files();
    let mut restore = other.writer.restore(&permit(), other.dir.path()).await.unwrap();
    restore.receive(backup).await.unwrap();
    assert_eq!(files(), before);
    restore.finish().await.unwrap();
    assert_eq!(files(), before);
}

#[tokio::test]
async fn an_interrupted_restore_leaves_an_empty_vault() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    let backup = vault.backup().await;
    let other = vault.beside().await;
    let empty = other.entries();
    let half = vault
        .entries()
        .into_iter()
        .filter(|entry| entry.key != stored::META)
        .fold(
            Batch::new()
                .expect_absent(EXCLUSIVE_WRITER)
                .put(EXCLUSIVE_WRITER, "filling"),
            |batch, entry| batch.put(entry.key, entry.value),
        );
    other.writer.store.commit(half).await.unwrap();
    let refused = other.writer.create_workspace(&admin("mine"), Plan::Free).await;
    assert!(matches!(refused, Err(VaultError::Restoring)), "{refused:?}");
    let refused = other.writer.back_up(&permit()).await.err();
    assert!(matches!(refused, Some(VaultError::Restoring)), "{refused:?}");

    let other = other.reopen().await;
    assert_eq!(other.without_notes(), empty);
    assert_eq!(other.take_in(&backup).await.unwrap().secrets, 1);
}

/// Makes a backup whose contents have this `Meta`, independent of its header.
async fn backup_that_says(vault: &Fixture, change: impl FnOnce(&mut Meta)) -> Vec<u8> {
    let backup = vault.writer.back_up(&permit()).await.unwrap();
    let (before, mut meta) = meta::read(&vault.writer.store).unwrap();
    change(&mut meta);
    let batch = Batch::new()
        .expect_value(stored::META, before)
        .put(stored::META, stored::encode(&meta));
    vault.writer.store.commit(batch).await.unwrap();
    all_of(backup).await
}

#[tokio::test]
async fn a_backup_of_a_store_of_another_format_is_refused_and_changes_nothing() {
    for another in [FORMAT - 1, FORMAT + 1] {
        let vault = Fixture::with_workspace(Plan::Free).await;
        let backup = backup_that_says(&vault, |meta| meta.format = another).await;
        let other = vault.beside().await;
        let before = other.entries();
        let refused = other.take_in(&backup).await;
        assert!(
            matches!(refused, Err(VaultError::BackupOfOtherFormat(format)) if format == another),
            "{refused:?}"
        );
        assert_eq!(other.entries(), before);
    }
}

#[tokio::test]
async fn a_restore_that_fails_at_its_end_leaves_an_empty_vault() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    // No release writes a uid of this length.
    let backup = backup_that_says(&vault, |meta| meta.vault_uid = b"short".to_vec()).await;
    let other = vault.beside().await;
    let empty = other.entries();
    let failed = other.take_in(&backup).await;
    assert!(matches!(failed, Err(VaultError::Corrupt(_))), "{failed:?}");
    assert_eq!(other.without_notes(), empty);
    other
        .writer
        .create_workspace(&admin("mine"), Plan::Free)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_writes_a_workspace_after_its_contents() {
    let vault = Fixture::with_workspace(Plan::Enterprise).await;
    vault.fill(300).await;
    let backup = vault.backup().await;
    let other = vault.beside().await;
    let found = async {
        while other.writer.workspace(&admin("w")).await.is_err() {
            tokio::task::yield_now().await;
        }
        for number in 0..300 {
            let found = other.decrypt(&format!("N{number}")).await.unwrap();
            assert!(matches!(found, DecryptOutcome::Value { .. }), "{number}");
        }
    };
    let (restored, ()) = tokio::join!(other.take_in(&backup), found);
    restored.unwrap();
}

#[tokio::test]
async fn a_restore_interrupted_before_its_first_write_leaves_the_vault_unchanged() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    let before = vault.entries();
    let looking = Batch::new()
        .expect_absent(EXCLUSIVE_WRITER)
        .put(EXCLUSIVE_WRITER, "looking");
    vault.writer.store.commit(looking).await.unwrap();
    let vault = vault.reopen().await;
    assert_eq!(vault.entries(), before);
    vault.put("T", b"w").await.unwrap();
}

#[tokio::test]
async fn a_backup_in_a_file_is_restored() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    let path = vault.dir.path().join("backup");
    File::create(&path)
        .unwrap()
        .write_all(&vault.backup().await)
        .unwrap();
    let open = || Archive::open(Arc::new(File::open(&path).unwrap())).unwrap();
    open().verify(&root(vault.root).into()).await.unwrap();
    let other = vault.beside().await;
    let restored = other.writer.restore_from(&permit(), open()).await.unwrap();
    assert_eq!(restored.secrets, 1);
    assert_eq!(value(other.decrypt("T").await.unwrap()), (1, b"v".to_vec()));
}
