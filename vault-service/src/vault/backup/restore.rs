//! Restoring a backup into an empty vault: all of it or nothing.
//!
//! 1. All of the backup is read, and found as it was made; the root key that it needs is there. Until here nothing was
//!    written.
//! 2. The store is held: nobody else can write to it. It must be empty still.
//! 3. What the workspaces hold is written, where nobody finds it; then the workspaces, whose keys are moved to this vault's
//!    store key. So the backup's root key and store keys are not needed any more afterwards.
//! 4. With the hold the last batch removes what says that this is under way.
//!
//! A vault that finds the hold when it opens was stopped in between: it removes what was written, and is empty.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use prost_types::Timestamp;
use proto::Uid;
use tokio::sync::OwnedMutexGuard;

use super::{
    Archive, KEYS,
    archive::Checked,
    hold::{FILLING, clear, empty, hold, is_of_one_store, refuse_filled},
    item::Items,
};
use crate::{
    authz::VaultPermit,
    crypto::KeyId,
    store::{Batch, Change, EXCLUSIVE_WRITER, Entry, Health, MAX_BATCH, Store},
    vault::{
        VaultError, Writer, blocking,
        keyring::{Keyring, UnsealedKeys},
        roots, store_keys,
        stored::{self, Kind, META, Meta, WORKSPACES, WorkspaceRecord},
    },
};

/// Bytes of one batch, and its entries.
const BATCH: (usize, usize) = (MAX_BATCH / 2, 2000);
/// Entries that are counted at once.
const PAGE: usize = 1000;
/// The name of the file that a backup is received into, for the moment that it has one.
const RECEIVED: &str = "restore";

/// What came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The vault's uid from now on: that of the vault that was backed up.
    pub vault_uid: Uid,
    /// The uid that the empty vault had.
    pub replaced_vault_uid: Uid,
    /// When the backup was made.
    pub backup_time: Timestamp,
    /// Workspaces, with the uids that they had.
    pub workspaces: u64,
    /// Secrets.
    pub secrets: u64,
    /// Their versions.
    pub versions: u64,
    /// Names of deleted secrets whose version numbers are not used again.
    pub deleted_secrets: u64,
}

/// A backup that is being received, to be restored. Given up when it is dropped.
pub struct Incoming {
    writer: Writer,
    received: Arc<File>,
    turn: OwnedMutexGuard<()>,
}

/// Which entries are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// What workspaces hold, and all else that nobody finds without them.
    Contents,
    /// The workspaces.
    Workspaces,
}

impl Part {
    fn of(key: &[u8]) -> Option<Self> {
        match key {
            key if is_of_one_store(key) || key == KEYS => None,
            key if key.starts_with(WORKSPACES) => Some(Self::Workspaces),
            _ => Some(Self::Contents),
        }
    }
}

impl Writer {
    /// Begins to restore a backup, which is first received into a file without a name in `dir`. Refused unless the vault
    /// has no workspaces.
    pub async fn restore(&self, _permit: &VaultPermit, dir: &Path) -> Result<Incoming, VaultError> {
        let turn = self.turn_of_backups()?;
        // Rather now than when all was received.
        self.keyring.loaded()?;
        let (store, path) = (self.store.clone(), dir.join(RECEIVED));
        let received = blocking(move || {
            refuse_filled(&store)?;
            nameless(&path).map_err(|error| VaultError::Read(error.into()))
        })
        .await?;
        Ok(Incoming {
            writer: self.clone(),
            received: Arc::new(received),
            turn,
        })
    }

    /// Restores the backup in `archive`. Refused unless the vault has no workspaces.
    pub async fn restore_from(
        &self,
        _permit: &VaultPermit,
        archive: Archive,
    ) -> Result<Restored, VaultError> {
        let _turn = self.turn_of_backups()?;
        self.fill(archive).await
    }

    async fn fill(&self, archive: Archive) -> Result<Restored, VaultError> {
        let (archive, loaded) = (Arc::new(archive), self.keyring.loaded()?);
        let Checked { meta, keys } = archive.checked(Some(&loaded), &self.providers).await?;
        hold(&self.store).await?;
        let filled = self.fill_held(&archive, &Arc::new(keys), meta).await;
        self.keyring.forget_all();
        match &filled {
            Ok(_) => self.rotate.notify_one(),
            Err(error) => {
                tracing::error!(%error, "a backup was not restored");
                if let Err(error) = empty(&self.store).await {
                    tracing::error!(%error, "what came in of a backup was not removed; the next start does it");
                }
            }
        }
        filled
    }

    async fn fill_held(
        &self,
        archive: &Arc<Archive>,
        keys: &Arc<UnsealedKeys>,
        theirs: Meta,
    ) -> Result<Restored, VaultError> {
        clear(&self.store).await?;
        // Nothing else writes during the restore, so this store key stays the active one.
        let reading = self.store.clone();
        let (before, ours) = blocking(move || roots::read_meta(&reading)).await?;
        let under = KeyTransfer {
            theirs: keys.clone(),
            ours: self.keyring.clone(),
            active: store_keys::active(&ours)?,
        };
        for part in [Part::Contents, Part::Workspaces] {
            self.write(archive, &under, part).await?;
        }
        let backup_time = Timestamp {
            seconds: i64::try_from(archive.info().created).unwrap_or(i64::MAX),
            nanos: 0,
        };
        let store = self.store.clone();
        let (ours, restored) = blocking(move || {
            let (ours, restored) = taken_over(theirs, ours, backup_time)?;
            Ok::<_, VaultError>((ours, restored.counted(&store)?))
        })
        .await?;
        let last = Batch::new()
            .expect_value(EXCLUSIVE_WRITER, FILLING)
            .expect_value(META, before)
            .put(META, stored::encode(&ours))
            .delete(EXCLUSIVE_WRITER);
        self.store.commit(last).await?;
        let Restored {
            workspaces, secrets, ..
        } = restored;
        tracing::info!(vault = %restored.vault_uid, workspaces, secrets, "a backup was restored");
        Ok(restored)
    }

    async fn write(&self, archive: &Arc<Archive>, under: &KeyTransfer, part: Part) -> Result<(), VaultError> {
        let (archive, root) = (archive.clone(), under.theirs.root.clone());
        let mut reading = blocking(move || archive.items(&root)).await.map(Some)?;
        while let Some(mut items) = reading {
            let under = under.clone();
            let (batch, rest) = blocking(move || {
                let (batch, over) = next_batch(&mut items, part, &under)?;
                Ok::<_, VaultError>((batch, (!over).then_some(items)))
            })
            .await?;
            self.store.commit(batch).await?;
            reading = rest;
        }
        Ok(())
    }
}

/// The keys that wrap the workspaces' keys in the backup, and those that wrap them in this vault.
#[derive(Clone)]
struct KeyTransfer {
    theirs: Arc<UnsealedKeys>,
    ours: Arc<Keyring>,
    /// Id of the active key among `ours`.
    active: KeyId,
}

impl KeyTransfer {
    /// Rewraps the keys of a workspace under this vault's store key. A key that does not open stays unchanged.
    fn moved(&self, workspace: Vec<u8>) -> Result<Vec<u8>, VaultError> {
        let Ok(mut record) = stored::decode::<WorkspaceRecord>(&workspace) else {
            return Ok(workspace);
        };
        let Some(uid) = stored::uid(&record.uid) else {
            return Ok(workspace);
        };
        let retired = record.retired_keks.iter_mut().map(|kek| &mut kek.wrapped_kek);
        for wrapped in std::iter::once(&mut record.wrapped_kek).chain(retired) {
            if let Ok(kek) = self.theirs.unwrap(&uid, wrapped) {
                *wrapped = self.ours.wrap(&kek, &uid, self.active)?;
            }
        }
        Ok(stored::encode(&record))
    }
}

impl Incoming {
    /// Takes the next bytes.
    pub async fn receive(&mut self, chunk: Vec<u8>) -> Result<(), VaultError> {
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

    /// Restores what was received. Goes on to its end also when nobody waits for it any more.
    pub async fn finish(self) -> Result<Restored, VaultError> {
        let Self {
            writer,
            received,
            turn,
        } = self;
        let filling = tokio::spawn(async move {
            let _turn = turn;
            let archive = blocking(move || Archive::open(received)).await?;
            let restored = writer.fill(archive).await?;
            writer.sweep_beside();
            Ok(restored)
        });
        match filling.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(filled) => filled,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_cancelled)) => Err(VaultError::Stopped),
        }
    }
}

impl Restored {
    fn counted(self, store: &Store) -> Result<Self, VaultError> {
        Ok(Self {
            workspaces: count(store, WORKSPACES)?,
            secrets: count(store, Kind::Metadata.prefix())?,
            versions: count(store, Kind::Record.prefix())? + count(store, Kind::OldVersion.prefix())?,
            deleted_secrets: count(store, Kind::LastVersion.prefix())?,
            ..self
        })
    }
}

/// The writes of one part that come next, and whether they are the last.
fn next_batch(
    items: &mut Items<impl io::Read>,
    part: Part,
    under: &KeyTransfer,
) -> Result<(Batch, bool), VaultError> {
    // Of two items with one key the later one holds.
    let mut writes = BTreeMap::new();
    let mut size = 0;
    let mut over = false;
    while size < BATCH.0 && writes.len() < BATCH.1 && !over {
        let (key, value) = match items.next()? {
            Some(Change::Put(Entry { key, value })) => (key, Some(value)),
            Some(Change::Delete(key)) => (key, None),
            None => {
                over = true;
                continue;
            }
        };
        if Part::of(&key) == Some(part) {
            let value = match part {
                Part::Contents => value,
                Part::Workspaces => value.map(|value| under.moved(value)).transpose()?,
            };
            size += key.len() + value.as_ref().map_or(0, Vec::len);
            writes.insert(key, value);
        }
    }
    let hold = Batch::new().expect_value(EXCLUSIVE_WRITER, FILLING);
    let batch = writes.into_iter().fold(hold, |batch, (key, value)| match value {
        Some(value) => batch.put(key, value),
        None => batch.delete(key),
    });
    Ok((batch, over))
}

/// Makes the vault's new description: the identity of the vault that was backed up, with the keys of this store.
fn taken_over(theirs: Meta, ours: Meta, backup_time: Timestamp) -> Result<(Meta, Restored), VaultError> {
    let Meta {
        format: _,
        vault_uid,
        store_key_id: _,
    } = theirs;
    let uid = |bytes: &[u8]| stored::uid(bytes).ok_or(VaultError::Corrupt(None));
    let restored = Restored {
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

fn count(store: &Store, prefix: &[u8]) -> Result<u64, VaultError> {
    let (mut count, mut after) = (0, None::<Vec<u8>>);
    loop {
        let page = store.scan(prefix, after.as_deref(), PAGE)?;
        let Some(last) = page.last() else {
            return Ok(count);
        };
        after = Some(last.key.clone());
        count += page.len() as u64;
    }
}

/// A file that is gone when it is closed, whatever becomes of the process.
fn nameless(path: &Path) -> io::Result<File> {
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
