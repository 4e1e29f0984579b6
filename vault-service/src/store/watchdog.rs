//! Detection of storage that does not answer. A hanging call cannot be ended, but it can be reported.

use std::{
    path::Path,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{Fault, error::StoreOpenError, fs::length, sled_files::DB};

/// Time after which a call of the commit thread counts as hanging. A healthy disk needs milliseconds for a group, and a
/// slow one seconds.
const COMMIT_LIMIT: Duration = Duration::from_secs(10);
/// Time limit of an open without the time for reading the data.
const OPEN_LIMIT: Duration = Duration::from_secs(120);
/// Assumed rate of an open on the slowest supported disk, in bytes per second. An open reads everything twice.
const OPEN_RATE: u64 = 10 * 1024 * 1024;

/// Watches the calls of the commit thread.
pub(super) struct Watchdog {
    limit: Duration,
    /// Start of the current call.
    since: Mutex<Option<Instant>>,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::with_limit(COMMIT_LIMIT)
    }
}

impl Watchdog {
    pub(super) fn with_limit(limit: Duration) -> Self {
        Self {
            limit,
            since: Mutex::new(None),
        }
    }

    /// Starts to watch a call, until the returned guard is dropped.
    pub(super) fn watch(&self) -> WatchedCall<'_> {
        self.set(Some(Instant::now()));
        WatchedCall(self)
    }

    /// Returns true when the current call has taken longer than the limit.
    pub(super) fn is_expired(&self) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() >= self.limit)
    }

    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

pub(super) struct WatchedCall<'a>(&'a Watchdog);

impl Drop for WatchedCall<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// Calls `open` for the store in `dir` on a thread of its own. A call that exceeds the limit is abandoned with its thread;
/// the process is expected to end.
pub(super) fn open_with_limit<T: Send + 'static>(
    dir: &Path,
    open: impl FnOnce() -> Result<T, StoreOpenError> + Send + 'static,
) -> Result<T, StoreOpenError> {
    call_with_limit(open_limit(dir)?, dir, open)
}

fn open_limit(dir: &Path) -> Result<Duration, StoreOpenError> {
    Ok(OPEN_LIMIT + Duration::from_secs(length(&dir.join(DB))? / OPEN_RATE))
}

fn call_with_limit<T: Send + 'static>(
    limit: Duration,
    dir: &Path,
    open: impl FnOnce() -> Result<T, StoreOpenError> + Send + 'static,
) -> Result<T, StoreOpenError> {
    let (done, opened) = mpsc::channel();
    thread::Builder::new()
        .name("store-open".to_owned())
        // A send fails only after the limit.
        .spawn(move || drop(done.send(open())))
        .map_err(StoreOpenError::files("start the thread of", dir))?;
    match opened.recv_timeout(limit) {
        Ok(opened) => opened,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(StoreOpenError::Timeout(dir.to_owned())),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(StoreOpenError::Storage {
            dir: dir.to_owned(),
            source: Fault::Panicked,
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn an_open_that_hangs_is_abandoned() {
        let (release, released) = mpsc::channel::<()>();
        let began = Instant::now();
        let hangs = call_with_limit(Duration::from_millis(10), Path::new("dir"), move || {
            let _ = released.recv_timeout(Duration::from_secs(60));
            Ok(())
        });
        assert!(matches!(hangs, Err(StoreOpenError::Timeout(_))), "{hangs:?}");
        assert!(began.elapsed() < Duration::from_secs(30));
        drop(release);
    }

    #[test]
    fn an_open_that_panics_fails_at_once() {
        let panics = call_with_limit::<()>(OPEN_LIMIT, Path::new("dir"), || panic!("as sled would"));
        assert!(
            matches!(
                panics,
                Err(StoreOpenError::Storage {
                    source: Fault::Panicked,
                    ..
                })
            ),
            "{panics:?}"
        );
    }

    #[test]
    fn a_larger_store_has_more_time_to_open() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(open_limit(dir.path()).unwrap(), OPEN_LIMIT);
        let db = std::fs::File::create(dir.path().join(DB)).unwrap();
        db.set_len(10 << 30).unwrap();
        assert_eq!(
            open_limit(dir.path()).unwrap(),
            OPEN_LIMIT + Duration::from_secs(1024)
        );
    }
}
