//! The one thread that writes.
//!
//! It takes all batches that wait, checks and stages them one by one, applies them as one, makes that
//! durable by one `flush()` and one fsync, and only then answers. While it syncs the next ones gather:
//! the more writers, the larger the groups, with no timer to set.
//!
//! A refused batch waits for the sync as well: what refused it may be a batch of the same group.

use std::{io, mem, sync::Arc, thread};

use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{
    Batch, CommitError, Ended, Fault, OpenError, Shared, batch::Staged, export::Settle, marker::Keeper,
    panics::caught,
};

/// Bounds of one group. sled reuses a segment when what replaced it was flushed, synced or not, and a
/// whole further segment (8 MiB) was written since. Syncing well within 8 MiB of log keeps that safe.
const GROUP_BATCHES: usize = 256;
const GROUP_BYTES: usize = 1024 * 1024;

/// Syncs `db`. A value, so that tests can fail, count and hold it.
pub(super) type Fsync = Box<dyn FnMut() -> io::Result<()> + Send>;

type Answer = Result<(), CommitError>;

pub(super) enum Request {
    Commit {
        batch: Batch,
        reply: oneshot::Sender<Answer>,
    },
    /// The last round of an export, between two groups.
    Settle(Settle),
    Close {
        done: oneshot::Sender<Answer>,
    },
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    fsync: Fsync,
    keeper: Keeper,
}

#[derive(Default)]
struct Group {
    batches: Vec<Batch>,
    replies: Vec<oneshot::Sender<Answer>>,
    bytes: usize,
    settle: Option<Settle>,
    close: Option<oneshot::Sender<Answer>>,
}

impl Writer {
    pub(super) fn spawn(
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        fsync: Fsync,
        keeper: Keeper,
    ) -> Result<(), OpenError> {
        let writer = Self {
            shared,
            requests,
            fsync,
            keeper,
        };
        let spawned = thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(|| writer.run());
        spawned.map(drop).map_err(|source| OpenError::Files {
            doing: "start the thread of",
            path: "the store".into(),
            source,
        })
    }

    fn run(mut self) {
        while let Some(first) = self.requests.blocking_recv() {
            let Group {
                batches,
                replies,
                bytes: _,
                settle,
                close,
            } = self.gather(first);
            match self.watched(|writer| writer.write(batches)) {
                Ok(answers) => answer(replies, answers),
                Err(fault) => return self.fail(fault, replies),
            }
            if let Some(settle) = settle
                && let Err(fault) = self.watched(|writer| {
                    settle.run(&writer.shared);
                    Ok(())
                })
            {
                return self.fail(fault, Vec::new());
            }
            if let Some(done) = close {
                return self.close(Some(done));
            }
        }
        self.close(None);
    }

    /// Calls the storage, under the eyes of the watchdog.
    fn watched<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let shared = Arc::clone(&self.shared);
        let _busy = shared.watchdog.begin();
        caught(|| call(self))
    }

    /// `first` and all that waits behind it, up to the bounds, the end of an export or a close.
    fn gather(&mut self, first: Request) -> Group {
        let mut group = Group::default();
        group.push(first);
        while group.has_room() {
            let Ok(request) = self.requests.try_recv() else {
                break;
            };
            group.push(request);
        }
        group
    }

    /// One answer for each batch, all durable; or a fault, after which nothing may be acknowledged.
    fn write(&mut self, batches: Vec<Batch>) -> Result<Vec<Answer>, Fault> {
        let space = &self.shared.space;
        let may_grow = space.for_growth();
        if may_grow {
            space.hold();
        }
        let count = batches.len();
        let mut staged = Staged::over(&self.shared.db, may_grow);
        let answers = batches
            .into_iter()
            .map(|batch| batch.stage(&mut staged))
            .collect();
        if staged.added().is_some() && !may_grow && !space.for_deletes() {
            return Ok((0..count).map(|_| Err(CommitError::Full)).collect());
        }
        if let Some(added) = staged.added() {
            let tally = self.keeper.next(added);
            let (batch, images) = staged.into_sled(&tally);
            let changed: Vec<Vec<u8>> = images.keys().cloned().collect();
            self.shared.before.set(images);
            self.shared.db.apply_batch(batch)?;
            self.make_durable()?;
            self.show(changed);
            self.keeper.advance(tally);
        }
        Ok(answers)
    }

    /// Makes the group, which is durable now, visible to readers.
    fn show(&self, changed: Vec<Vec<u8>>) {
        // The order matters: while the before-images exist, readers add no value of these keys to the cache. If the
        // images were removed first, an outdated value could stay in the cache forever.
        for key in &changed {
            self.shared.recent.forget(key);
        }
        self.shared.before.clear();
        self.shared.watch.note(changed);
    }

    fn make_durable(&mut self) -> Result<(), Fault> {
        self.shared.db.flush()?;
        (self.fsync)()?;
        Ok(())
    }

    /// Stops for good. The group that was being written may be on the disk or not; a batch in the queue is not, and
    /// gets no reply: its caller finds the fault.
    fn fail(self, fault: Fault, replies: Vec<oneshot::Sender<Answer>>) {
        error!(
            error = &fault as &dyn std::error::Error,
            "store stopped acknowledging"
        );
        let fault = Arc::new(fault);
        self.shared.end(Ended::Failed(fault.clone()));
        for reply in replies {
            // A send fails only when the caller has stopped waiting.
            let _ = reply.send(Err(CommitError::OutcomeUnknown(fault.clone())));
        }
        // Dropped, sled would flush and fsync once more: it could make half a batch durable, and would
        // panic on the next error. So it stays, and with it the lock, until the process ends.
        mem::forget(self.shared);
    }

    /// Asked to, or because nobody is left who could ask.
    fn close(mut self, done: Option<oneshot::Sender<Answer>>) {
        if let Err(fault) = self.watched(Self::make_durable) {
            return self.fail(fault, Vec::new());
        }
        self.shared.end(Ended::Closed);
        let Self {
            shared,
            requests,
            fsync: _,
            keeper,
        } = self;
        keeper.close(&shared.db);
        // Clones on other threads may need a moment to go, and read until then. Whoever opens next waits for sled's own
        // lock, so this one need not wait for them; should it stay locked, it goes with the last clone.
        let _ = shared.lock.unlock();
        // First let go of the files, then say so. That the caller stopped waiting is not our concern.
        drop((shared, requests));
        if let Some(done) = done {
            let _ = done.send(Ok(()));
        }
    }
}

impl Group {
    fn push(&mut self, request: Request) {
        match request {
            Request::Commit { batch, reply } => {
                self.bytes = self.bytes.saturating_add(batch.size());
                self.batches.push(batch);
                self.replies.push(reply);
            }
            Request::Settle(settle) => self.settle = Some(settle),
            Request::Close { done } => self.close = Some(done),
        }
    }

    fn has_room(&self) -> bool {
        let last = self.settle.is_some() || self.close.is_some();
        !last && self.batches.len() < GROUP_BATCHES && self.bytes < GROUP_BYTES
    }
}

impl Shared {
    fn end(&self, ended: Ended) {
        // Only the commit thread sets it, as its last act: it is empty here.
        let _ = self.ended.set(ended);
    }
}

fn answer(replies: Vec<oneshot::Sender<Answer>>, answers: Vec<Answer>) {
    for (reply, answer) in replies.into_iter().zip(answers) {
        // That a caller stopped waiting is not our concern.
        let _ = reply.send(answer);
    }
}
