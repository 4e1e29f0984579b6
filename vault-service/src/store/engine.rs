//! Calls of sled, with sled's panics turned into errors.
//!
//! sled panics on some kinds of damage instead of returning an error. Such a panic becomes [`Fault::Panicked`], and a line
//! of the debug log instead of output on standard error.

use std::{
    cell::Cell,
    io,
    ops::Deref,
    panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind},
    path::Path,
    sync::Once,
    thread,
};

use super::Fault;

/// sled's segment size, which is fixed when a store is created. The constant `MAX_ENTRY` explains why it is not sled's
/// default.
pub(super) const SEGMENT: usize = 8 * 1024 * 1024;

/// Prefix of the names of sled's own threads.
const SLED_THREADS: &str = "sled-";

/// Makes what was written to the file `db` durable, by fdatasync(2). The type is a closure, so that tests can make a sync
/// fail, count or wait.
pub(super) type Fdatasync = Box<dyn FnMut() -> io::Result<()> + Send>;

thread_local! {
    static CALLS_SLED: Cell<bool> = const { Cell::new(false) };
}

/// Calls sled, and returns a panic as a fault.
///
/// The call is unwind safe: sled's locks are released and do not poison, and after a write that panicked the store never
/// writes, flushes or drops this sled again.
pub(super) fn caught<T, E: Into<Fault>>(call: impl FnOnce() -> Result<T, E>) -> Result<T, Fault> {
    static HOOK: Once = Once::new();
    HOOK.call_once(silence_sled);
    let outer = CALLS_SLED.replace(true);
    let called = catch_unwind(AssertUnwindSafe(call));
    CALLS_SLED.set(outer);
    match called {
        Ok(result) => result.map_err(Into::into),
        Err(_panic) => Err(Fault::Panicked),
    }
}

/// An open sled. Its drop flushes, and does not panic.
pub(super) struct Engine(Option<sled::Db>);

impl Engine {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, Fault> {
        let config = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT)
            .cache_capacity(cache_bytes)
            // The commit thread flushes, so a flusher thread of sled's would have nothing to do.
            .flush_every_ms(None);
        caught(|| config.open()).map(|db| Self(Some(db)))
    }

    /// Drops sled, and returns a panic of that drop, which means damage to the log, as a fault.
    pub(super) fn release(mut self) -> Result<(), Fault> {
        release(self.0.take())
    }
}

impl Deref for Engine {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        self.0.as_ref().expect("only `release` and `drop` take it")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The panic hook has logged a panic, and no caller is left to handle it.
        let _ = release(self.0.take());
    }
}

fn release(db: Option<sled::Db>) -> Result<(), Fault> {
    caught(|| {
        drop(db);
        Ok::<_, Fault>(())
    })
}

/// Installs a panic hook that logs sled's panics, and passes all others to the previous hook.
fn silence_sled() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if is_of_sled(panic) {
            let place = panic.location().map(ToString::to_string);
            tracing::debug!(place, "the storage engine panicked");
        } else {
            previous(panic);
        }
    }));
}

/// Returns true for panics on sled's threads or during a call of sled. A panic that this module's own code causes during
/// a call is excluded by its source file, because sled may also panic inside the standard library.
fn is_of_sled(panic: &PanicHookInfo<'_>) -> bool {
    let calls_sled = CALLS_SLED.try_with(Cell::get).unwrap_or(false);
    let is_sled_thread = thread::current()
        .name()
        .is_some_and(|name| name.starts_with(SLED_THREADS));
    (calls_sled || is_sled_thread) && !panic.location().is_some_and(|place| is_of_store(place.file()))
}

fn is_of_store(file: &str) -> bool {
    Path::new(file!())
        .parent()
        .is_some_and(|store| Path::new(file).starts_with(store))
}
