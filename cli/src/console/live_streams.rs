//! The event streams that are open. A stream occupies a connection for as long as its page is open, and browsers open only six
//! connections to one site.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::sign_in::Session;

/// Streams of one session. A further one replaces the oldest, so that pages keep connections to load from.
const MAX_OF_SESSION: usize = 3;
/// Streams of all sessions. A third of the console's connections stays free for pages.
const MAX: usize = 40;

#[derive(Default)]
pub(super) struct LiveStreams {
    open: Mutex<Vec<OpenStream>>,
    next_id: AtomicU64,
}

struct OpenStream {
    id: u64,
    session: Arc<Session>,
    replaced: CancellationToken,
}

/// The right to send events, until it is dropped.
pub(super) struct LiveStream {
    streams: Arc<LiveStreams>,
    id: u64,
    /// Cancelled when a newer stream of the session takes the place of this one.
    pub(super) replaced: CancellationToken,
}

/// All streams are taken.
#[derive(Debug)]
pub(super) struct TooManyStreams;

impl LiveStreams {
    pub(super) fn open(self: &Arc<Self>, session: &Arc<Session>) -> Result<LiveStream, TooManyStreams> {
        let mut open = self.lock();
        let is_own = |stream: &OpenStream| Arc::ptr_eq(&stream.session, session);
        if open.iter().filter(|stream| is_own(stream)).count() >= MAX_OF_SESSION
            && let Some(oldest) = open.iter().position(is_own)
        {
            open.remove(oldest).replaced.cancel();
        }
        if open.len() >= MAX {
            return Err(TooManyStreams);
        }
        let stream = OpenStream {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            session: session.clone(),
            replaced: CancellationToken::new(),
        };
        let right = LiveStream {
            streams: self.clone(),
            id: stream.id,
            replaced: stream.replaced.clone(),
        };
        open.push(stream);
        Ok(right)
    }

    /// A panic while the lock is held leaves no state that a later stream must not see.
    fn lock(&self) -> MutexGuard<'_, Vec<OpenStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        self.streams.lock().retain(|stream| stream.id != self.id);
    }
}
