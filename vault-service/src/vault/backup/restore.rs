//! Restoring a backup into an empty vault: all of the backup or nothing.
//!
//! 1. The restore reads the whole backup and checks that it is unchanged and that its root key is available. Nothing is
//!    written before.
//! 2. The restore holds the store, so that all other writes fail, and checks again that the vault is empty.
//! 3. The restore writes the contents of the workspaces, which nobody can find yet, and then the workspaces. It rewraps their
//!    KEKs with this vault's store key, so that the backup's root key and store keys are not needed afterwards.
//! 4. The last batch gives the store the identity of the vault that was backed up, and releases the hold.
//!
//! A vault that finds the hold when it opens was stopped in between. It removes the restored entries and is empty.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use chassis::blocking::blocking;
use prost_types::Timestamp;
use proto::Uid;
use tokio::sync::OwnedMutexGuard;

use super::{
    KEYS,
    archive::{Archive, VerifiedBackup},
    hold::{RESTORING, clear, empty, hold, is_of_one_store, refuse_workspaces},
    item::ItemReader,
};
use crate::{
    authz::VaultPermit,
    crypto::KeyId,
    store::{Batch, Change, EXCLUSIVE_WRITER, Entry, Health, MAX_BATCH, RECEIVED, Store},
    vault::{
        VaultError, Writer,
        access::with_store,
        keyring::{Keyring, UnlockedKeys},
        meta::{self, count_entries},
        stored::{self, Kind, META, Meta, WORKSPACES, WorkspaceRecord},
    },
};

/// Size of a batch in bytes and in entries, from which on the next batch begins.
const BATCH_BYTES: usize = MAX_BATCH / 2;
const BATCH_ENTRIES: usize = 2000;

#[derive(Debug, Clone, PartialEq)]
pub struct RestoreSummary {
    /// Uid of the vault that was backed up, which this vault has from now on.
    pub vault_uid: Uid,
    /// Uid of this vault before the restore.
    pub replaced_vault_uid: Uid,
    pub backup_time: Timestamp,
    /// Number of workspaces, which keep their uids.
    pub workspaces: u64,
    pub secrets: u64,
    /// Number of versions of all secrets.
    pub versions: u64,
    /// Number of deleted secrets whose version numbers are not used again.
    pub deleted_secrets: u64,
}

/// A backup that is being received for a restore. Dropping it gives the restore up.
pub struct BackupUpload {
    writer: Writer,
    received: Arc<File>,
    lock: OwnedMutexGuard<()>,
}

/// The passes of a restore over the backup, by the entries that they write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RestorePass {
    /// Everything except the workspaces, without which nobody can find it.
    Contents,
    Workspaces,
}

impl RestorePass {
    fn of(key: &[u8]) -> Option<Self> {
        match key {
            key if is_of_one_store(key) || key == KEYS => None,
            key if key.starts_with(WORKSPACES) => Some(Self::Workspaces),
            _ => Some(Self::Contents),
        }
    }
}

impl Writer {
    /// Begins to restore a backup, which is first received into an unnamed file in `dir`. Fails when the vault has
    /// workspaces.
    pub(crate) async fn restore(
        &self,
        _permit: &VaultPermit,
        dir: &Path,
    ) -> Result<BackupUpload, VaultError> {
        let lock = self.lock_backups()?;
        // A locked vault refuses now, and not only when the whole backup was received.
        self.keyring.loaded()?;
        let (store, path) = (self.store.clone(), dir.join(RECEIVED));
        let received = blocking(move || {
            refuse_workspaces(&store)?;
            create_unnamed(&path).map_err(|error| VaultError::Read(error.into()))
        })
        .await?;
        Ok(BackupUpload {
            writer: self.clone(),
            received: Arc::new(received),
            lock,
        })
    }

    /// Restores the backup in `archive`. Fails when the vault has workspaces.
    pub(crate) async fn restore_from(
        &self,
        _permit: &VaultPermit,
        archive: Archive,
    ) -> Result<RestoreSummary, VaultError> {
        let _lock = self.lock_backups()?;
        self.restore_archive(archive).await
    }

    async fn restore_archive(&self, archive: Archive) -> Result<RestoreSummary, VaultError> {
        let (archive, loaded) = (Arc::new(archive), self.keyring.loaded()?);
        let VerifiedBackup { meta, keys } = archive.verify_with(Some(&loaded), &self.providers).await?;
        hold(&self.store).await?;
        let restored = self.restore_held(&archive, &Arc::new(keys), meta).await;
        self.keyring.forget_all();
        match &restored {
            Ok(_) => self.keys_changed.notify_one(),
            Err(error) => {
                tracing::error!(%error, "a backup was not restored");
                if let Err(error) = empty(&self.store).await {
                    tracing::error!(%error, "the entries of an interrupted restore were not removed; the next start removes them");
                }
            }
        }
        restored
    }

    async fn restore_held(
        &self,
        archive: &Arc<Archive>,
        keys: &Arc<UnlockedKeys>,
        theirs: Meta,
    ) -> Result<RestoreSummary, VaultError> {
        clear(&self.store).await?;
        // Nothing else writes during the restore, so this store key stays the active one.
        let (before, ours) = with_store(&self.store, meta::read).await?;
        let keys = KeyTransfer {
            from: keys.clone(),
            to: self.keyring.clone(),
            active: meta::active_store_key(&ours)?,
        };
        for pass in [RestorePass::Contents, RestorePass::Workspaces] {
            self.write_pass(archive, &keys, pass).await?;
        }
        let backup_time = Timestamp {
            seconds: i64::try_from(archive.info().created).unwrap_or(i64::MAX),
            nanos: 0,
        };
        let store = self.store.clone();
        let (ours, restored) = blocking(move || {
            let (ours, restored) = take_identity(theirs, ours, backup_time)?;
            Ok::<_, VaultError>((ours, restored.with_counts(&store)?))
        })
        .await?;
        let last = Batch::new()
            .expect_value(EXCLUSIVE_WRITER, RESTORING)
            .expect_value(META, before)
            .put(META, stored::encode(&ours))
            .delete(EXCLUSIVE_WRITER);
        self.store.commit(last).await?;
        let RestoreSummary {
            workspaces, secrets, ..
        } = restored;
        tracing::info!(vault = %restored.vault_uid, workspaces, secrets, "a backup was restored");
        Ok(restored)
    }

    async fn write_pass(
        &self,
        archive: &Arc<Archive>,
        keys: &KeyTransfer,
        pass: RestorePass,
    ) -> Result<(), VaultError> {
        let (archive, root) = (archive.clone(), keys.from.root.clone());
        let mut reading = blocking(move || archive.items(&root)).await.map(Some)?;
        while let Some(mut items) = reading {
            let keys = keys.clone();
            let (batch, rest) = blocking(move || {
                let (batch, is_last) = next_batch(&mut items, pass, &keys)?;
                Ok::<_, VaultError>((batch, (!is_last).then_some(items)))
            })
            .await?;
            self.store.commit(batch).await?;
            reading = rest;
        }
        Ok(())
    }
}

/// The store keys that wrap the workspaces' KEKs in the backup, and the one that wraps them in this vault.
#[derive(Clone)]
struct KeyTransfer {
    from: Arc<UnlockedKeys>,
    to: Arc<Keyring>,
    /// Id of the active store key of `to`.
    active: KeyId,
}

impl KeyTransfer {
    /// Rewraps the KEKs of a workspace with this vault's store key. A KEK that cannot be unwrapped stays unchanged.
    fn rewrap(&self, workspace: Vec<u8>) -> Result<Vec<u8>, VaultError> {
        let Ok(mut record) = stored::decode::<WorkspaceRecord>(&workspace) else {
            return Ok(workspace);
        };
        let Some(uid) = stored::uid(&record.uid) else {
            return Ok(workspace);
        };
        let retired = record.retired_keks.iter_mut().map(|kek| &mut kek.wrapped_kek);
        for wrapped in std::iter::once(&mut record.wrapped_kek).chain(retired) {
            if let Ok(kek) = self.from.unwrap(&uid, wrapped) {
                *wrapped = self.to.wrap(&kek, &uid, self.active)?;
            }
        }
        Ok(stored::encode(&record))
    }
}

impl BackupUpload {
    pub(crate) async fn receive(&mut self, chunk: Vec<u8>) -> Result<(), VaultError> {
        if let Health::DiskFull = self.writer.health() {
            return Err(VaultError::Full(None));
        }
        let received = self.received.clone();
        let written = blocking(move || (&*received).write_all(&chunk)).await;
        written.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => VaultError::Full(None),
            _ => VaultError::Read(error.into()),
        })
    }

    /// Restores the received backup. The restore runs to its end even when the caller drops the future.
    pub(crate) async fn finish(self) -> Result<RestoreSummary, VaultError> {
        let Self {
            writer,
            received,
            lock,
        } = self;
        let restoring = tokio::spawn(async move {
            let _lock = lock;
            let archive = blocking(move || Archive::open(received)).await?;
            let restored = writer.restore_archive(archive).await?;
            writer.spawn_sweep();
            Ok(restored)
        });
        match restoring.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(restored) => restored,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_cancelled)) => Err(VaultError::Stopped),
        }
    }
}

impl RestoreSummary {
    fn with_counts(self, store: &Store) -> Result<Self, VaultError> {
        Ok(Self {
            workspaces: count_entries(store, WORKSPACES)?,
            secrets: count_entries(store, Kind::Metadata.prefix())?,
            versions: count_entries(store, Kind::Record.prefix())?
                + count_entries(store, Kind::OldVersion.prefix())?,
            deleted_secrets: count_entries(store, Kind::LastVersion.prefix())?,
            ..self
        })
    }
}

/// Returns the next batch of one pass, and true when it is the last.
fn next_batch(
    items: &mut ItemReader<impl io::Read>,
    pass: RestorePass,
    keys: &KeyTransfer,
) -> Result<(Batch, bool), VaultError> {
    // A later item replaces an earlier one with the same key.
    let mut writes = BTreeMap::new();
    let mut size = 0;
    let mut is_last = false;
    while size < BATCH_BYTES && writes.len() < BATCH_ENTRIES && !is_last {
        let (key, value) = match items.next()? {
            Some(Change::Put(Entry { key, value })) => (key, Some(value)),
            Some(Change::Delete(key)) => (key, None),
            None => {
                is_last = true;
                continue;
            }
        };
        if RestorePass::of(&key) == Some(pass) {
            let value = match pass {
                RestorePass::Contents => value,
                RestorePass::Workspaces => value.map(|value| keys.rewrap(value)).transpose()?,
            };
            size += key.len() + value.as_ref().map_or(0, Vec::len);
            writes.insert(key, value);
        }
    }
    let held = Batch::new().expect_value(EXCLUSIVE_WRITER, RESTORING);
    let batch = writes.into_iter().fold(held, |batch, (key, value)| match value {
        Some(value) => batch.put(key, value),
        None => batch.delete(key),
    });
    Ok((batch, is_last))
}

/// Makes the vault's new [`Meta`]: the identity of the vault that was backed up, with the keys of this store.
fn take_identity(
    theirs: Meta,
    ours: Meta,
    backup_time: Timestamp,
) -> Result<(Meta, RestoreSummary), VaultError> {
    let Meta {
        format: _,
        vault_uid,
        store_key_id: _,
    } = theirs;
    let uid = |bytes: &[u8]| stored::uid(bytes).ok_or(VaultError::Corrupt(None));
    let restored = RestoreSummary {
        vault_uid: uid(&vault_uid)?,
        replaced_vault_uid: uid(&ours.vault_uid)?,
        backup_time,
        workspaces: 0,
        secrets: 0,
        versions: 0,
        deleted_secrets: 0,
    };
    let meta = Meta { vault_uid, ..ours };
    Ok((meta, restored))
}

/// Creates a file without a name, which is gone when it is closed or the process ends.
fn create_unnamed(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}
