//! A store that was inspected but not opened, so that a caller can refuse it and leave it unchanged.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    Entry, Fault, KeyFileError, ReadEntries, compaction_dir,
    engine::Engine,
    error::StoreOpenError,
    inspection::{InspectedStore, Inspection, inspect},
    inventory, key_file,
    open::{self, OpenedStore},
    scan,
    store_copy::{self, StoreCopy},
};

/// A locked, unchanged store that sled can safely open. Its entries are read from the marker, if the marker repeats them,
/// and otherwise from a copy of the store.
pub struct UnopenedStore {
    pub(super) dir: PathBuf,
    cache_bytes: u64,
    lock: File,
    state: InspectedState,
    preview_keys: &'static [&'static [u8]],
}

enum InspectedState {
    /// The directory has no store yet.
    New,
    Existing {
        store: Box<InspectedStore>,
        copy: Mutex<Option<StoreCopy>>,
    },
}

impl UnopenedStore {
    /// Locks and inspects the store in `dir`. `preview_keys` are for the marker that the store gets when it is closed.
    pub(super) fn inspect(
        dir: &Path,
        cache_bytes: u64,
        preview_keys: &'static [&'static [u8]],
    ) -> Result<Self, StoreOpenError> {
        let lock = open::claim(dir)?;
        store_copy::remove_leftover(dir)?;
        let inspection = inspect(dir)?;
        open::check_room(dir)?;
        let state = match inspection {
            Inspection::New => InspectedState::New,
            Inspection::Store(store) => {
                let copy = Mutex::new(store.check(cache_bytes)?);
                match store.is_unused() {
                    true => InspectedState::New,
                    false => InspectedState::Existing {
                        store: Box::new(store),
                        copy,
                    },
                }
            }
        };
        Ok(Self {
            dir: dir.to_owned(),
            cache_bytes,
            lock,
            state,
            preview_keys,
        })
    }

    /// Opens the store's files, or creates them.
    pub(super) fn open_files(self) -> Result<OpenedStore, StoreOpenError> {
        let Self {
            dir,
            cache_bytes,
            lock,
            state,
            preview_keys,
        } = self;
        key_file::remove_leftover(&dir)?;
        compaction_dir::remove_leftover(&dir)?;
        inventory::remove_leftover(&dir)?;
        let (db, checkpoint) = match state {
            InspectedState::New => open::create(&dir, cache_bytes)?,
            InspectedState::Existing { store, copy } => {
                if let Some(copy) = copy.into_inner().unwrap_or_else(PoisonError::into_inner) {
                    copy.release().map_err(StoreOpenError::storage(&dir))?;
                }
                store.prepare_open()?;
                let db = Engine::open(&dir, cache_bytes).map_err(StoreOpenError::storage(&dir))?;
                let checkpoint = store.check_checkpoint(&db)?;
                (db, checkpoint)
            }
        };
        open::finish(&dir, lock, db, checkpoint, preview_keys)
    }

    /// Reads from a copy of the store, which is made at the first read.
    fn read_copy<T>(
        &self,
        store: &InspectedStore,
        copy: &Mutex<Option<StoreCopy>>,
        read: impl FnOnce(&sled::Db) -> Result<T, Fault>,
    ) -> Result<T, StoreOpenError> {
        let mut copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match copy.take() {
            Some(opened) => opened,
            None => store.copy_to_read(self.cache_bytes)?,
        };
        let found = read(&opened.db).map_err(StoreOpenError::storage(&self.dir));
        *copy = Some(opened);
        found
    }
}

impl ReadEntries for UnopenedStore {
    type Error = StoreOpenError;

    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreOpenError> {
        match &self.state {
            InspectedState::New => Ok(None),
            InspectedState::Existing { store, copy } => match store.preview(key) {
                Some(value) => Ok(value.clone()),
                None => self.read_copy(store, copy, |db| {
                    Ok(scan::read(db, key)?.map(|value| value.to_vec()))
                }),
            },
        }
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, StoreOpenError> {
        match &self.state {
            InspectedState::New => Ok(Vec::new()),
            InspectedState::Existing { store, copy } => {
                self.read_copy(store, copy, |db| scan::scan(db, prefix, after, limit))
            }
        }
    }

    fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        match &self.state {
            InspectedState::New => Ok(None),
            InspectedState::Existing { store, .. } => key_file::read(&self.dir, Some(store.id())),
        }
    }
}
