//! The state that the clones of a store share with the commit thread.

use std::{
    fs::File,
    sync::{Arc, OnceLock},
};

use super::{
    CommitError, Fault, changed_keys::ChangedKeys, disk_space::DiskSpace, durable::DurableData,
    key_file::KeyFile, watchdog::Watchdog,
};

pub(super) struct Shared {
    pub(super) data: DurableData,
    pub(super) changed_keys: ChangedKeys,
    /// Reason why the commit thread stopped; empty while the thread runs.
    pub(super) stop_reason: OnceLock<StopReason>,
    pub(super) watchdog: Watchdog,
    pub(super) disk_space: DiskSpace,
    pub(super) key_file: KeyFile,
    /// The locked file `lock`. The field is declared after `data`, so that sled is dropped before the lock is released.
    pub(super) lock: File,
}

pub(super) enum StopReason {
    Closed,
    Failed(Arc<Fault>),
}

impl Shared {
    /// Returns the error of a request that the commit thread did not answer because it had stopped.
    pub(super) fn stopped(&self) -> CommitError {
        match self.stop_reason.get() {
            Some(StopReason::Closed) => CommitError::Closed,
            Some(StopReason::Failed(fault)) => CommitError::Unavailable(fault.clone()),
            None => CommitError::Unavailable(Arc::new(Fault::Panicked)),
        }
    }
}
