//! The commit thread, the only writer of the store.
//!
//! The thread takes all waiting batches as a group, checks and stages them one by one, applies them as one sled batch,
//! makes the group durable by one `flush()` and one fdatasync(2), and only then answers. More batches gather during the sync:
//! the more writers, the larger the groups, without a timer to tune.
//!
//! A refused batch is answered after the sync, too, because the batch that it conflicts with may be in the same group.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{
    Batch, CommitError, Fault,
    engine::{Fdatasync, caught},
    error::StoreOpenError,
    marker::MarkerWriter,
    shared::{Shared, StopReason},
    staging::StagedGroup,
};

/// Limits of a group. sled's log consists of segments of 8 MiB. sled overwrites an old segment when newer log has all of its
/// data, even if only `flush()` has written that log and no sync has made it durable: a power cut would then lose both
/// copies. sled does so one segment of new log later at the earliest, so a sync after at most 1 MiB comes in time.
const GROUP_BATCHES: usize = 256;
const GROUP_BYTES: usize = 1024 * 1024;

type CommitResult = Result<(), CommitError>;

/// A call that the commit thread runs while it writes nothing.
type ExclusiveCall = Box<dyn FnOnce(&Shared) + Send>;

pub(super) enum Request {
    Commit {
        batch: Batch,
        reply: oneshot::Sender<CommitResult>,
    },
    /// A call to run between two groups, while nothing changes.
    RunBetweenGroups(ExclusiveCall),
    Close {
        done: oneshot::Sender<CommitResult>,
    },
}

pub(super) struct CommitThread {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    fdatasync: Fdatasync,
    marker: MarkerWriter,
}

/// Wakes the commit thread.
struct Unpark(Thread);

#[derive(Default)]
struct Group {
    batches: Vec<Batch>,
    replies: Vec<oneshot::Sender<CommitResult>>,
    bytes: usize,
    call: Option<ExclusiveCall>,
    close: Option<oneshot::Sender<CommitResult>>,
}

impl CommitThread {
    pub(super) fn spawn(
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        fdatasync: Fdatasync,
        marker: MarkerWriter,
    ) -> Result<(), StoreOpenError> {
        let thread = Self {
            shared,
            requests,
            fdatasync,
            marker,
        };
        let spawned = thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(|| thread.run());
        spawned
            .map(drop)
            .map_err(StoreOpenError::files("start the thread of", "the store".as_ref()))
    }

    fn run(mut self) {
        loop {
            let first = match self.next_request() {
                Ok(Some(first)) => first,
                Ok(None) => return self.close(None),
                Err(fault) => return self.fail(fault, Vec::new()),
            };
            let Group {
                batches,
                replies,
                bytes: _,
                call,
                close,
            } = self.gather(first);
            match self.watched(|thread| thread.write(batches)) {
                Ok(results) => answer(replies, results),
                Err(fault) => return self.fail(fault, replies),
            }
            if let Some(call) = call {
                let called = self.watched(|thread| {
                    call(&thread.shared);
                    Ok(())
                });
                if let Err(fault) = called {
                    return self.fail(fault, Vec::new());
                }
            }
            if let Some(done) = close {
                return self.close(Some(done));
            }
        }
    }

    /// Waits for a request, and writes the marker when it is due. Returns `None` when the last handle is gone.
    fn next_request(&mut self) -> Result<Option<Request>, Fault> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(request) = self.requests.poll_recv(&mut context) {
                return Ok(request);
            }
            match self.marker.due_in() {
                None => thread::park(),
                Some(Duration::ZERO) => self.watched(|thread| {
                    thread.marker.write_if_due();
                    Ok(())
                })?,
                Some(wait) => thread::park_timeout(wait),
            }
        }
    }

    /// Makes a call of sled or the disk, which the watchdog watches and whose panics become faults.
    fn watched<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let shared = Arc::clone(&self.shared);
        let _watched = shared.watchdog.watch();
        caught(|| call(self))
    }

    /// Makes a group of `first` and the requests that wait after it, up to the limits.
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

    /// Writes a group and makes it durable. Returns one result for each batch. After a fault nothing may be acknowledged
    /// any more.
    fn write(&mut self, batches: Vec<Batch>) -> Result<Vec<CommitResult>, Fault> {
        let space = &self.shared.disk_space;
        let may_grow = space.has_room_for_growth();
        if may_grow {
            space.hold_reserve();
        }
        let count = batches.len();
        let mut group = StagedGroup::new(self.shared.data.db(), may_grow);
        let results: Vec<_> = batches.into_iter().map(|batch| group.stage(batch)).collect();
        let Some(added) = group.added() else {
            return Ok(results);
        };
        if !may_grow && !space.has_room_for_deletes() {
            return Ok((0..count).map(|_| Err(CommitError::Full)).collect());
        }
        let checkpoint = self.marker.next_checkpoint(added);
        let (batch, before_images) = group.into_sled(&checkpoint);
        let changed: Vec<Vec<u8>> = before_images.keys().cloned().collect();
        self.shared.data.hide(before_images);
        self.shared.data.db().apply_batch(batch)?;
        self.make_durable()?;
        self.shared.data.show(&changed);
        self.shared.changed_keys.record(changed);
        self.marker.advance(checkpoint);
        Ok(results)
    }

    fn make_durable(&mut self) -> Result<(), Fault> {
        self.shared.data.db().flush()?;
        (self.fdatasync)()?;
        Ok(())
    }

    /// Stops for good after a fault. The group that was being written may or may not be on the disk. Batches in the queue
    /// are not; their callers get no reply, and find the fault in [`Shared::stop_reason`].
    fn fail(self, fault: Fault, replies: Vec<oneshot::Sender<CommitResult>>) {
        error!(
            error = &fault as &dyn std::error::Error,
            "store stopped acknowledging"
        );
        let fault = Arc::new(fault);
        self.set_stop_reason(StopReason::Failed(fault.clone()));
        for reply in replies {
            // A send fails only when the caller has stopped waiting.
            let _ = reply.send(Err(CommitError::OutcomeUnknown(fault.clone())));
        }
        // A drop of sled would flush and sync once more: it could make half a batch durable, and would panic on the next
        // error. So sled, and with it the lock, stays until the process ends.
        mem::forget(self.shared);
    }

    /// Syncs and releases the store, at the request of [`super::Store::close`] or because the last handle is gone.
    fn close(mut self, done: Option<oneshot::Sender<CommitResult>>) {
        if let Err(fault) = self.watched(Self::make_durable) {
            return self.fail(fault, Vec::new());
        }
        self.set_stop_reason(StopReason::Closed);
        let Self {
            shared,
            requests,
            fdatasync: _,
            marker,
        } = self;
        marker.close(shared.data.db());
        // Clones of the store on other threads may live a moment longer, and can still read. Our lock need not wait for
        // them, because the next process to open the store also waits for sled's own lock. If the unlock fails, the last
        // clone's drop releases the lock.
        let _ = shared.lock.unlock();
        // The files are released before the answer, so that the caller can open the store again.
        drop((shared, requests));
        if let Some(done) = done {
            // A send fails only when the caller has stopped waiting.
            let _ = done.send(Ok(()));
        }
    }

    fn set_stop_reason(&self, reason: StopReason) {
        // Only the commit thread sets the reason, as its last act, so the cell is empty here.
        let _ = self.shared.stop_reason.set(reason);
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
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
            Request::RunBetweenGroups(call) => self.call = Some(call),
            Request::Close { done } => self.close = Some(done),
        }
    }

    fn has_room(&self) -> bool {
        let is_complete = self.call.is_some() || self.close.is_some();
        !is_complete && self.batches.len() < GROUP_BATCHES && self.bytes < GROUP_BYTES
    }
}

fn answer(replies: Vec<oneshot::Sender<CommitResult>>, results: Vec<CommitResult>) {
    for (reply, result) in replies.into_iter().zip(results) {
        // A send fails only when the caller has stopped waiting.
        let _ = reply.send(result);
    }
}
