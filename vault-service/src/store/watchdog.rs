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
    within(time_to_open(dir)?, dir, open)
}

fn time_to_open(dir: &Path) -> Result<Duration, OpenError> {
    Ok(OPEN + Duration::from_secs(length(&dir.join(DB))? / OPEN_RATE))
}

fn within<T: Send + 'static>(
    limit: Duration,
    dir: &Path,
    open: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn an_open_that_hangs_is_given_up() {
        let (release, released) = mpsc::channel::<()>();
        let began = Instant::now();
        let hangs = within(Duration::from_millis(10), Path::new("dir"), move || {
            let _ = released.recv_timeout(Duration::from_secs(60));
            Ok(())
        });
        assert!(matches!(hangs, Err(OpenError::Hangs(_))), "{hangs:?}");
        assert!(began.elapsed() < Duration::from_secs(30));
        drop(release);
    }

    #[test]
    fn an_open_that_panics_is_not_waited_for() {
        let panics = within::<()>(OPEN, Path::new("dir"), || panic!("as sled would"));
        assert!(
            matches!(
                panics,
                Err(OpenError::Storage {
                    source: Fault::Panicked,
                    ..
                })
            ),
            "{panics:?}"
        );
    }

    #[test]
    fn a_large_store_may_take_longer_to_open() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(time_to_open(dir.path()).unwrap(), OPEN);
        let db = std::fs::File::create(dir.path().join(DB)).unwrap();
        db.set_len(10 << 30).unwrap();
        assert_eq!(
            time_to_open(dir.path()).unwrap(),
            OPEN + Duration::from_secs(1024)
        );
    }
}
