//! sled panics on some damage instead of returning it. Its panics are caught, and say nothing on standard error.

use std::{
    cell::Cell,
    ops::Deref,
    panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind},
    path::Path,
    sync::Once,
    thread,
};

use super::Fault;

/// How sled names its own threads.
const THREADS: &str = "sled-";

thread_local! {
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Calls sled.
///
/// Unwind safe: its locks are released and do not poison; after a write that panicked we never write,
/// flush or drop it again.
pub(super) fn caught<T, E: Into<Fault>>(call: impl FnOnce() -> Result<T, E>) -> Result<T, Fault> {
    static HOOK: Once = Once::new();
    HOOK.call_once(quiet);
    let outer = CALLING.replace(true);
    let called = catch_unwind(AssertUnwindSafe(call));
    CALLING.set(outer);
    match called {
        Ok(result) => result.map_err(Into::into),
        Err(_panic) => Err(Fault::Panicked),
    }
}

/// An opened sled whose drop, which flushes, does not panic.
pub(super) struct Engine(Option<sled::Db>);

impl Engine {
    pub(super) fn open(config: &sled::Config) -> Result<Self, Fault> {
        caught(|| config.open()).map(|db| Self(Some(db)))
    }

    /// Drops sled, which may panic when the log is damaged, and returns such a panic as a fault.
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
        // A panic is in the debug log, and no caller is left to handle it.
        let _ = release(self.0.take());
    }
}

fn release(db: Option<sled::Db>) -> Result<(), Fault> {
    caught(|| {
        drop(db);
        Ok::<_, Fault>(())
    })
}

/// Has sled's panics become a line of the debug log, and leaves all others to the hook that was there.
fn quiet() {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if is_sleds(panic) {
            let place = panic.location().map(ToString::to_string);
            tracing::debug!(place, "the storage engine gave up");
        } else {
            others(panic);
        }
    }));
}

/// What sled calls, such as an `unwrap` of the standard library, may not be told from what we call but by the place.
fn is_sleds(panic: &PanicHookInfo<'_>) -> bool {
    let calling = CALLING.try_with(Cell::get).unwrap_or(false);
    let of_sled = thread::current()
        .name()
        .is_some_and(|name| name.starts_with(THREADS));
    (calling || of_sled) && !panic.location().is_some_and(|place| is_ours(place.file()))
}

fn is_ours(file: &str) -> bool {
    Path::new(file!())
        .parent()
        .is_some_and(|store| Path::new(file).starts_with(store))
}
