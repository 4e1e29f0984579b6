//! Reads that see only durable data.
//!
//! sled shows a batch as soon as the batch is applied, which is before the sync. So the commit thread keeps the
//! before-images of a group, which are the values from before the group at the keys that the group changes, until the sync
//! has ended. A reader asks sled first and the before-images second, and so replaces every value that is not durable yet.
//! After a failed write the before-images stay: the process never serves a value that a restart may lose.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use sled::IVec;

use super::{
    Entry, Fault,
    checkpoint::CHECKPOINT_KEY,
    engine::Engine,
    read_cache::ReadCache,
    scan::{self, Chunk, KeyRange},
};

/// Values from before a group, by key; `None` for a key that had no value.
pub(super) type BeforeImages = BTreeMap<Vec<u8>, Option<IVec>>;

/// sled's entries, of which readers see the durable state only.
pub(super) struct DurableData {
    db: Engine,
    /// True when `before_images` may have entries, so that readers need no lock while no group is being written.
    writing: AtomicBool,
    before_images: RwLock<BeforeImages>,
    cache: ReadCache,
}

struct DurableValue {
    value: Option<IVec>,
    is_before_image: bool,
}

impl DurableData {
    pub(super) fn new(db: Engine) -> Self {
        Self {
            db,
            writing: AtomicBool::new(false),
            before_images: RwLock::default(),
            cache: ReadCache::new(),
        }
    }

    /// Returns sled, for the commit thread, which reads values that are not durable yet and writes.
    pub(super) fn db(&self) -> &sled::Db {
        &self.db
    }

    /// Hides the changes of a group from readers. Must be called before the group is applied.
    pub(super) fn hide(&self, before_images: BeforeImages) {
        *self.before_images.write().unwrap_or_else(PoisonError::into_inner) = before_images;
        self.writing.store(true, Ordering::SeqCst);
    }

    /// Shows the changes of a group to readers. Must be called once the group is durable.
    pub(super) fn show(&self, changed: &[Vec<u8>]) {
        // The order matters: while the before-images exist, readers add no value of these keys to the cache. If the
        // before-images were removed first, an outdated value could stay in the cache for ever.
        for key in changed {
            self.cache.forget(key);
        }
        self.writing.store(false, Ordering::SeqCst);
        self.before_images
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(super) fn read(&self, key: &[u8]) -> Result<Option<IVec>, Fault> {
        Ok(self.durable_value(key)?.value)
    }

    /// Reads the value at `key`, and keeps it for [`Self::cached`].
    pub(super) fn read_and_cache(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, Fault> {
        let epoch = self.cache.epoch(key);
        let DurableValue {
            value,
            is_before_image,
        } = self.durable_value(key)?;
        let value = value.map(|value| Arc::<[u8]>::from(value.as_ref()));
        // A before-image is not cached, because the new value replaces it soon.
        if let Some(value) = &value
            && !is_before_image
        {
            self.cache.insert(key, value.clone(), epoch);
        }
        Ok(value)
    }

    pub(super) fn cached(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.cache.get(key)
    }

    fn durable_value(&self, key: &[u8]) -> Result<DurableValue, Fault> {
        let stored = match key {
            CHECKPOINT_KEY => None,
            key => scan::read(&self.db, key)?,
        };
        Ok(match self.before_image(key) {
            Some(value) => DurableValue {
                value,
                is_before_image: true,
            },
            None => DurableValue {
                value: stored,
                is_before_image: false,
            },
        })
    }

    fn before_image(&self, key: &[u8]) -> Option<Option<IVec>> {
        if !self.writing.load(Ordering::SeqCst) {
            return None;
        }
        let images = self.before_images.read().unwrap_or_else(PoisonError::into_inner);
        images.get(key).cloned()
    }

    /// Returns up to `limit` entries whose keys start with `prefix`, after the full key `after` if given.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, Fault> {
        let end = scan::prefix_end(prefix);
        let mut from = scan::scan_start(prefix, after).map(IVec::from);
        let mut found = Vec::new();
        while found.len() < limit {
            let range: KeyRange<'_> = (from.as_ref().map(AsRef::as_ref), end.as_ref().map(AsRef::as_ref));
            let Chunk { entries, rest } = self.chunk(range, limit - found.len(), usize::MAX)?;
            found.extend(entries.into_iter().map(Entry::from));
            let Some(rest) = rest else { break };
            from = Bound::Excluded(rest);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Reads the start of a range: about `limit` entries or `bytes` bytes.
    pub(super) fn chunk(&self, range: KeyRange<'_>, limit: usize, bytes: usize) -> Result<Chunk, Fault> {
        let Chunk { entries, rest } = scan::chunk(&self.db, range, limit, bytes)?;
        let end = rest
            .as_ref()
            .map_or(range.1, |last| Bound::Included(last.as_ref()));
        let entries = self.with_before_images((range.0, end), entries);
        Ok(Chunk { entries, rest })
    }

    /// Replaces the entries, which were read from `range`, by the before-images in the range.
    fn with_before_images(&self, range: KeyRange<'_>, entries: Vec<(IVec, IVec)>) -> Vec<(IVec, IVec)> {
        if !self.writing.load(Ordering::SeqCst) {
            return entries;
        }
        let mut entries: BTreeMap<_, _> = entries.into_iter().collect();
        let images = self.before_images.read().unwrap_or_else(PoisonError::into_inner);
        for (key, image) in images.iter().filter(|(key, _)| scan::contains(range, key)) {
            let key = IVec::from(key.as_slice());
            match image {
                Some(value) => entries.insert(key, value.clone()),
                None => entries.remove(&key),
            };
        }
        entries.into_iter().collect()
    }
}
