//! The keys that changed since an export began.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{ExportError, batch::EXCLUSIVE_WRITER, checkpoint::CHECKPOINT_KEY};

/// Maximum size of the recorded keys, in bytes. An export that is read too slowly to stay below it is given up.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Approximate size of a recorded key without its bytes, in bytes.
const OVERHEAD: usize = 48;

/// The commit thread records the keys, and the export takes them.
#[derive(Default)]
pub(super) struct ChangedKeys(Mutex<Recording>);

#[derive(Default)]
enum Recording {
    /// No export is running.
    #[default]
    Off,
    On {
        keys: BTreeSet<Vec<u8>>,
        bytes: usize,
    },
    Overflow,
}

impl ChangedKeys {
    /// Records changed keys. Must be called after readers see the changes: an export could otherwise read a recorded key
    /// again before its change is visible, and would miss the change.
    pub(super) fn record(&self, changed: Vec<Vec<u8>>) {
        let mut recording = self.recording();
        let Recording::On { keys, bytes } = &mut *recording else {
            return;
        };
        for key in changed.into_iter().filter(|key| is_exported(key)) {
            let size = key.len() + OVERHEAD;
            if keys.insert(key) {
                *bytes += size;
            }
        }
        if *bytes > MAX_BYTES {
            *recording = Recording::Overflow;
        }
    }

    pub(super) fn start(&self) -> Result<(), ExportError> {
        let mut recording = self.recording();
        match *recording {
            Recording::Off => {
                *recording = Recording::empty();
                Ok(())
            }
            Recording::On { .. } | Recording::Overflow => Err(ExportError::AlreadyRunning),
        }
    }

    pub(super) fn stop(&self) {
        *self.recording() = Recording::Off;
    }

    /// Takes all recorded keys; the recording goes on.
    pub(super) fn take(&self) -> Result<BTreeSet<Vec<u8>>, ExportError> {
        match mem::replace(&mut *self.recording(), Recording::empty()) {
            Recording::On { keys, .. } => Ok(keys),
            Recording::Off | Recording::Overflow => Err(ExportError::Outpaced),
        }
    }

    pub(super) fn bytes(&self) -> Result<usize, ExportError> {
        self.recording().keys().map(|(_, bytes)| bytes)
    }

    pub(super) fn count(&self) -> Result<usize, ExportError> {
        self.recording().keys().map(|(keys, _)| keys.len())
    }

    fn recording(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording {
    fn empty() -> Self {
        Self::On {
            keys: BTreeSet::new(),
            bytes: 0,
        }
    }

    fn keys(&self) -> Result<(&BTreeSet<Vec<u8>>, usize), ExportError> {
        match self {
            Self::On { keys, bytes } => Ok((keys, *bytes)),
            Self::Off | Self::Overflow => Err(ExportError::Outpaced),
        }
    }
}

/// Returns false for entries that describe only this store, and so are not part of an export.
pub(super) fn is_exported(key: &[u8]) -> bool {
    key != EXCLUSIVE_WRITER && key != CHECKPOINT_KEY
}
