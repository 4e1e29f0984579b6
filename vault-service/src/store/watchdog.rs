//! Notices that the storage does not come back. It cannot end such a call; it can say so.

use std::{
    path::Path,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{
    Fault, OpenError,
    files::{DB, failed, length},
};

/// How long the commit thread may be in one group before the store counts as hanging. A healthy disk takes
/// milliseconds for one, and a slow one seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// How long an open may take, whatever the size of the store.
const OPEN: Duration = Duration::from_secs(120);
/// How much an open gets through in a second on the slowest disk that we wait for: it reads everything, twice.
const OPEN_RATE: u64 = 10 * 1024 * 1024;

/// Watches the commit thread.
pub(super) struct Watchdog {
    limit: Duration,
    since: Mutex<Option<Instant>>,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::after(LIMIT)
    }
}

impl Watchdog {
    /// Barks at calls that take this long.
    pub(super) fn after(limit: Duration) -> Self {
        Self {
            limit,
            since: Mutex::new(None),
        }
    }

    /// A call begins; it ends when what is returned is dropped.
    pub(super) fn begin(&self) -> Busy<'_> {
        self.set(Some(Instant::now()));
        Busy(self)
    }

    /// Whether a call hangs.
    pub(super) fn barks(&self) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() >= self.limit)
    }

    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// A call under way.
pub(super) struct Busy<'a>(&'a Watchdog);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// Opens on a thread of its own. One that hangs is left behind; the process is to end.
pub(super) fn opening<T: Send + 'static>(
    dir: &Path,
    open: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let limit = OPEN + Duration::from_secs(length(&dir.join(DB))? / OPEN_RATE);
    let (done, opened) = mpsc::channel();
    thread::Builder::new()
        .name("store-open".to_owned())
        // That nobody waits any more is not our concern.
        .spawn(move || drop(done.send(open())))
        .map_err(failed("start the thread of", dir))?;
    match opened.recv_timeout(limit) {
        Ok(opened) => opened,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(OpenError::Hangs(dir.to_owned())),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(OpenError::Storage {
            dir: dir.to_owned(),
            source: Fault::Panicked,
        }),
    }
}
