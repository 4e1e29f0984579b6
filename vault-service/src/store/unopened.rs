//! A store that was inspected but not opened, so that a refusal leaves it unchanged.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    Entry, Fault, KeyFileError, OpenError, ReadEntries, Store, compact,
    files::{self, Opened, storage},
    guard::{self, Ground, Known, Preview},
    key_file,
    reading::{read, scan},
    watchdog::{self, Watchdog},
};

/// A locked, unchanged store that is proved to open. Entries that the store's marker repeats are read from the marker,
/// and all others from a copy of the store.
pub struct UnopenedStore {
    dir: PathBuf,
    cache_bytes: u64,
    lock: File,
    content: Content,
    front: &'static [&'static [u8]],
}

enum Content {
    /// The directory has no store yet.
    New,
    Store {
        known: Box<Known>,
        preview: Mutex<Option<Preview>>,
    },
}

impl Store {
    /// Looks at the store in `dir` and locks it. `front` are keys whose entries can be read at the next start without a copy,
    /// if the store is closed before. Blocking.
    pub fn inspect(
        dir: &Path,
        cache_bytes: u64,
        front: &'static [&'static [u8]],
    ) -> Result<UnopenedStore, OpenError> {
        let at = dir.to_owned();
        watchdog::opening(dir, move || UnopenedStore::inspect(&at, cache_bytes, front))
    }
}

impl UnopenedStore {
    pub(super) fn inspect(
        dir: &Path,
        cache_bytes: u64,
        front: &'static [&'static [u8]],
    ) -> Result<Self, OpenError> {
        let lock = files::claim(dir)?;
        guard::tidy(dir)?;
        let ground = guard::inspect(dir)?;
        files::check_room(dir)?;
        let content = match ground {
            Ground::New => Content::New,
            Ground::Store(known) => {
                let preview = Mutex::new(known.prove(cache_bytes)?);
                match known.is_unused() {
                    true => Content::New,
                    false => Content::Store {
                        known: Box::new(known),
                        preview,
                    },
                }
            }
        };
        Ok(Self {
            dir: dir.to_owned(),
            cache_bytes,
            lock,
            content,
            front,
        })
    }

    /// Opens the store, or makes it (`dir` 0700, files 0600). Blocking.
    ///
    /// `dir` belongs to the store alone: its modes are tightened on every open, because a Kubernetes `fsGroup` widens
    /// them on every mount.
    pub fn open(self) -> Result<Store, OpenError> {
        let dir = self.dir.clone();
        let opened = watchdog::opening(&dir, move || self.open_files())?;
        Store::start(opened, Watchdog::default())
    }

    pub(super) fn open_files(self) -> Result<Opened, OpenError> {
        let Self {
            dir,
            cache_bytes,
            lock,
            content,
            front,
        } = self;
        key_file::tidy(&dir)?;
        compact::tidy(&dir)?;
        let (db, tally) = match content {
            Content::New => files::make(&dir, cache_bytes)?,
            Content::Store { known, preview } => {
                if let Some(preview) = preview.into_inner().unwrap_or_else(PoisonError::into_inner) {
                    preview.release().map_err(storage(&dir))?;
                }
                known.opening().write(&dir)?;
                known.clear()?;
                let db = files::open_sled(&dir, cache_bytes).map_err(storage(&dir))?;
                let tally = known.check(&db)?;
                (db, tally)
            }
        };
        files::finish(&dir, lock, db, tally, front)
    }

    fn on_copy<T>(
        &self,
        known: &Known,
        preview: &Mutex<Option<Preview>>,
        read: impl FnOnce(&sled::Db) -> Result<T, Fault>,
    ) -> Result<T, OpenError> {
        let mut preview = preview.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = match preview.take() {
            Some(copy) => copy,
            None => known.preview(self.cache_bytes)?,
        };
        let found = read(&copy.db).map_err(storage(&self.dir));
        *preview = Some(copy);
        found
    }
}

impl ReadEntries for UnopenedStore {
    type Error = OpenError;

    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, OpenError> {
        match &self.content {
            Content::New => Ok(None),
            Content::Store { known, preview } => match known.front(key) {
                Some(value) => Ok(value.clone()),
                None => self.on_copy(
                    known,
                    preview,
                    |db| Ok(read(db, key)?.map(|value| value.to_vec())),
                ),
            },
        }
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, OpenError> {
        match &self.content {
            Content::New => Ok(Vec::new()),
            Content::Store { known, preview } => {
                self.on_copy(known, preview, |db| scan(db, prefix, after, limit))
            }
        }
    }

    fn key_file(&self) -> Result<Option<Vec<u8>>, KeyFileError> {
        match &self.content {
            Content::New => Ok(None),
            Content::Store { known, .. } => key_file::read(&self.dir, Some(known.id())),
        }
    }
}
