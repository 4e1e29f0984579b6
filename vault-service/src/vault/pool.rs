//! A few threads for short work that reads the store, which may have to wait for the disk.
//!
//! A hop to a thread of the runtime's blocking pool costs more than a decrypt or a put: that pool wakes a thread for each
//! piece of work, where a few that are kept busy take one after the other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::sync::{mpsc, oneshot};

use super::VaultError;

/// How many there are.
const THREADS: usize = 2;
/// Work that may wait for a thread.
const QUEUE: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Pool {
    threads: [mpsc::Sender<Job>; THREADS],
    next: AtomicUsize,
}

impl Pool {
    /// Threads of this name. They end with the pool.
    pub(super) fn start(name: &str) -> Self {
        let start = |number| {
            let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
            let work = move || {
                while let Some(job) = queue.blocking_recv() {
                    job();
                }
            };
            if let Err(error) = thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(work)
            {
                // The queue went with the closure: whoever asks this thread gets no answer and is refused.
                tracing::error!(%error, "a thread that reads the store did not start");
            }
            jobs
        };
        Self {
            threads: std::array::from_fn(start),
            next: AtomicUsize::new(0),
        }
    }

    /// Runs `work` on one of the threads. It is not done only when it panicked, or there are no threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, VaultError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            // A thread outlives the work that panicked on it; what that had is dropped, and not looked at again.
            if let Ok(done) = catch_unwind(AssertUnwindSafe(work)) {
                // Nobody waits any more when the call was cancelled; values are wiped here.
                drop(answer.send(done));
            }
        });
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % THREADS;
        let thread = self.threads.get(turn).ok_or(VaultError::Stopped)?;
        thread.send(job).await.map_err(|_| VaultError::Stopped)?;
        answered.await.map_err(|_| VaultError::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_outlives_work_that_panics() {
        let pool = Pool::start("test");
        for _ in 0..2 * THREADS {
            let lost = pool.run(|| std::panic::resume_unwind(Box::new(()))).await;
            assert!(matches!(lost, Err::<(), _>(VaultError::Stopped)));
        }
        for number in 0..2 * THREADS {
            assert_eq!(pool.run(move || number).await.unwrap(), number);
        }
    }
}
